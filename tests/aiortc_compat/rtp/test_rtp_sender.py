"""RTP as this package writes it: the very bytes that aiortc sends, and what other ends do with them. And the first
report, which aiortc sends later."""

from __future__ import annotations

import asyncio
import datetime
import random
import re
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from aiortc import RTCRtpSender, rtcrtpsender
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpSendParameters,
)
from aiortc.rtp import (
    RTP_HISTORY_SIZE,
    RtcpPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSdesPacket,
    RtcpSrPacket,
    RtpPacket,
    is_rtcp,
)

from metered_realtime.aiortc_compat import rtcp_feedback as senders
from metered_realtime.aiortc_compat import rtp_sender as rtp
from metered_realtime.aiortc_compat.stats import count_frames, sender_stats, transport_counter
from metered_realtime.aiortc_compat.transports import dtls_transport, selected_pair
from metered_realtime.media.codecs.encoders import Packet
from metered_realtime.media.codecs.rtp_payload import MAX_PAYLOAD
from metered_realtime.media.sending.shared_packet import PlacedPacket, SharedPacket
from metered_realtime.media.sources.testsource import PatternTrack
from tests.support.fanout_world import World
from tests.support.peers import eventually

TOUCHED = {
    "__cname": "test_the_first_report_goes_out_with_the_first_frame",
    "__lsr": "test_round_trip_times_are_known_from_the_first_report",
    "__lsr_time": "test_round_trip_times_are_known_from_the_first_report",
    "__mid": "test_every_byte_is_aiortcs",
    "__ntp_timestamp": "test_reports_say_when_the_frame_was_taken",
    "__octet_count": "test_every_byte_is_aiortcs",
    "__packet_count": "test_every_byte_is_aiortcs",
    "__rtp_header_extensions_map": "test_every_byte_is_aiortcs",
    "__rtp_timestamp": "test_every_byte_is_aiortcs",
    "__rtx_payload_type": "test_retransmissions_are_aiortcs",
    "__rtx_sequence_number": "test_retransmissions_are_aiortcs",
    "_enabled": "test_nothing_is_sent_where_the_direction_forbids_it",
    "_next_encoded_frame": "test_every_byte_is_aiortcs",
    "_packetize": "test_every_byte_is_aiortcs",
    "_retransmit": "test_retransmissions_are_aiortcs",
    "_rtx_ssrc": "test_retransmissions_are_aiortcs",
    "_send_rtcp": "test_the_first_report_goes_out_with_the_first_frame",
    "_send_rtp": "test_every_byte_is_aiortcs",
    "_split_bitstream": "test_every_byte_is_aiortcs",
    "_ssrc": "test_every_byte_is_aiortcs",
}
"""Every private name of aiortc in aiortc_compat/rtp_sender.py, and the test that watches it."""

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=99)
OPUS = RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=96)
PCMU = RTCRtpCodecParameters("audio/PCMU", 8_000, channels=1, payloadType=0)
RTX = {it.payloadType: it.payloadType + 1 for it in (VP8, H264)}

AGE = 0.25
"""Seconds that a frame is old when it is sent: what an encoder may take under load."""

NOW = datetime.datetime(2026, 7, 8, 9, 10, 11, 987_654, tzinfo=datetime.UTC)


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(rtp.__file__).read_text(), flags=re.DOTALL)
    names = set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source))
    names |= {"__" + name for name in re.findall(r"{_SENDER}(\w+)", source)}
    names |= {"__" + name for group in re.findall(r"_SENDER \+ name\) for name in \((.*?)\)", source)
              for name in re.findall(r'"(\w+)"', group)}  # fmt: skip
    assert {re.sub("^_RTCRtpSender__", "__", name) for name in names} == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


# --- beside aiortc, byte for byte


class Wire:
    """Stands in for the transport of a sender, and keeps what it is given: media and reports."""

    state = "connected"
    _stats_id = "wire"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.reports: list[bytes] = []

    def _register_rtp_sender(self, sender: Any, parameters: Any) -> None: ...
    def _unregister_rtp_sender(self, sender: Any) -> None: ...

    async def _send_rtp(self, data: bytes) -> None:
        (self.reports if is_rtcp(data) else self.sent).append(data)


class Reel(MediaStreamTrack):
    """Gives packets, each way, and then nothing more."""

    def __init__(self, kind: str, packets: list[SharedPacket]) -> None:
        super().__init__()
        self.kind = kind
        self.level: int | None = None
        self._packets = packets
        self.given = 0

    async def recv(self) -> Packet:
        shared, *_ = await self.next_shared_packet()
        self.level = shared.level
        return shared.packet

    async def next_shared_packet(self) -> PlacedPacket:
        if self.given == len(self._packets):
            await asyncio.get_running_loop().create_future()
        self.given += 1
        shared = self._packets[self.given - 1]
        return PlacedPacket(shared, shared.pts, asyncio.get_running_loop().time() - AGE)


def packet_of(codec: RTCRtpCodecParameters, content: bytes, pts: int, level: int | None = None) -> Packet:
    packet: Packet = av.Packet(content)
    packet.pts, packet.time_base, packet.opaque = pts, Fraction(1, codec.clockRate), level
    return packet


def reel_of(codec: RTCRtpCodecParameters, count: int = 12) -> list[SharedPacket]:
    """Make frames of all sizes around those at which they are cut, in a row that counts past 32 bits of time."""
    chance = random.Random(5)
    around = [MAX_PAYLOAD + step for step in (-5, -4, -3, -1, 0, 1)]
    sizes = [1, 9, *around, 2 * MAX_PAYLOAD - 8, 2 * MAX_PAYLOAD - 7, 4000, 30_000][:count]
    packets = []
    for number, size in enumerate(sizes):
        content = chance.randbytes(min(size, 300) if codec.mimeType.startswith("audio") else size)
        if codec is H264:
            units = [b"\x67" + bytes([7]) * 12, b"\x68\x07\x07", b"\x65" + content.replace(b"\0", b"\1")]
            content = b"".join(b"\0\0\0\1" + unit for unit in units[0 if number % 4 == 0 else 2 :])
        packets.append(SharedPacket(packet_of(codec, content, number * 3_000, -number if number % 3 else None)))
    return packets


Extensions = tuple[tuple[str, int], ...]

EXTENSIONS: dict[str, tuple[str, Extensions]] = {
    "none": ("0", ()),
    "no time": ("0", ((MID, 1), (LEVEL, 3))),
    "time alone": ("0", ((TIME, 2),)),
    "all": ("audio-7", ((MID, 1), (TIME, 2), (LEVEL, 3))),
    "two-byte headers": ("a mid of more than 16 bytes", ((MID, 1), (TIME, 2), (LEVEL, 3))),
    "high ids": ("0", ((MID, 15), (TIME, 200), (LEVEL, 16))),
}


class Stream:
    """A sender on its own."""

    def __init__(self, codec: RTCRtpCodecParameters, packets: list[SharedPacket], *, ours: bool) -> None:
        self.wire, self.codec = Wire(), codec
        kind = codec.mimeType.split("/")[0]
        self.track = Reel(kind, packets)
        self.sender: Any = RTCRtpSender(self.track, self.wire)  # type: ignore[arg-type]
        count_frames(self.sender)
        if ours:
            rtp.send_shared_packets(self.sender, self.track)
        else:
            senders.send_levels(self.sender, self.track)
        assert isinstance(self.sender._next_encoded_frame, rtp.SharedPacketSender) is ours
        self.sender._ssrc, self.sender._rtx_ssrc = 0xFEDCBA98, 0x12345678
        self.sender._RTCRtpSender__rtx_sequence_number = 0xFFFE

    async def run(self, extensions: str = "all", *, rtx: bool = True) -> None:
        """Send everything."""
        mid, numbered = EXTENSIONS[extensions]
        codecs = [self.codec]
        if rtx and self.codec.payloadType in RTX:
            parameters: Any = {"apt": self.codec.payloadType}
            codecs.append(RTCRtpCodecParameters("video/rtx", 90_000, None, RTX[self.codec.payloadType], [], parameters))
        used = [RTCRtpHeaderExtensionParameters(id=number, uri=uri) for uri, number in numbered]
        rtcp = RTCRtcpParameters(cname="c")
        await self.sender.send(RTCRtpSendParameters(codecs, headerExtensions=used, muxId=mid, rtcp=rtcp))
        await eventually(lambda: self.track.given == len(self.track._packets))
        await asyncio.sleep(0)

    async def ask(self, *numbers: int) -> list[bytes]:
        """Ask for packets again, and return what comes."""
        self.wire.sent.clear()
        for number in numbers:
            await self.sender._retransmit(number)
        return self.wire.sent

    def counted(self) -> list[int]:
        names = ("octet_count", "packet_count", "rtp_timestamp")
        counted = [getattr(self.sender, f"_RTCRtpSender__{name}") for name in names]
        return [*counted, sender_stats(self.sender).frames]


@pytest.fixture
async def pairs(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Make two streams with the same dice and clock, aiortc's and ours. They count past the ends of all fields."""
    made: list[Stream] = []
    monkeypatch.setattr("aiortc.clock.current_datetime", lambda: NOW)
    monkeypatch.setattr(time, "time_ns", lambda: round(NOW.timestamp() * 1_000_000) * 1_000 + 999)
    for module in (rtcrtpsender, rtp):
        monkeypatch.setattr(module, "random_sequence_number", lambda: 0xFFFA)
        monkeypatch.setattr(module, "random32", lambda: 0xFFFFF000)
    monkeypatch.setattr(random, "randint", lambda low, high: high - 2)
    monkeypatch.setattr(random, "randrange", lambda end: end - 3)

    def make(codec: RTCRtpCodecParameters, packets: list[SharedPacket]) -> list[Stream]:
        pair = [Stream(codec, packets, ours=ours) for ours in (False, True)]
        made.extend(pair)
        return pair

    yield make
    await asyncio.gather(*(stream.sender.stop() for stream in made))


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("codec", [VP8, H264, OPUS, PCMU], ids=lambda it: it.mimeType)
async def test_every_byte_is_aiortcs(codec: RTCRtpCodecParameters, extensions: str, pairs: Any) -> None:
    theirs, ours = pairs(codec, reel_of(codec))
    await asyncio.gather(theirs.run(extensions), ours.run(extensions))
    assert ours.wire.sent == theirs.wire.sent
    assert len(ours.wire.sent) >= 12
    assert ours.counted() == theirs.counted()
    numbers = [RtpPacket.parse(it).sequence_number for it in ours.wire.sent]
    assert {0xFFFA, 0xFFFF, 0, 1} <= set(numbers), "they went round"


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("codec", [VP8, H264, OPUS], ids=lambda it: it.mimeType)
async def test_retransmissions_are_aiortcs(
    codec: RTCRtpCodecParameters, rtx: bool, extensions: str, pairs: Any
) -> None:
    theirs, ours = pairs(codec, reel_of(codec))
    await asyncio.gather(theirs.run(extensions, rtx=rtx), ours.run(extensions, rtx=rtx))
    wanted = [0xFFFA, 0xFFFF, 0, 3, 0xFFF9, 3, 60_000]
    again = await ours.ask(*wanted)
    assert again == await theirs.ask(*wanted)
    assert len(again) == 5, "of those that were sent, each time they are asked for"


async def test_what_is_kept_for_retransmission_is_bounded(pairs: Any) -> None:
    packets = [SharedPacket(packet_of(VP8, bytes([number]), number)) for number in range(RTP_HISTORY_SIZE + 3)]
    theirs, ours = pairs(VP8, packets)
    await asyncio.gather(theirs.run(), ours.run())
    wanted = [(0xFFFA + number) & 0xFFFF for number in range(5)]
    again = await ours.ask(*wanted)
    assert again == await theirs.ask(*wanted)
    assert len(again) == 2


async def test_a_frame_without_payload_is_left_out(pairs: Any) -> None:
    """As by aiortc: H.264 without a start code has nothing that could be sent."""
    packets = [SharedPacket(packet_of(H264, b"nothing", 0)), *reel_of(H264, 1)]
    theirs, ours = pairs(H264, packets)
    await asyncio.gather(theirs.run(), ours.run())
    assert ours.wire.sent == theirs.wire.sent
    assert ours.counted() == theirs.counted()


@pytest.mark.parametrize("codec", [VP8, H264, OPUS], ids=lambda it: it.mimeType)
async def test_a_frame_is_cut_once_for_all(codec: RTCRtpCodecParameters, pairs: Any) -> None:
    packets = reel_of(codec)
    _, one = pairs(codec, packets)
    _, other = pairs(codec, packets)
    await asyncio.gather(one.run(), other.run())
    kept = [[it[2] for it in stream.sender._next_encoded_frame._history if it] for stream in (one, other)]
    assert len(kept[0]) == len(kept[1]) >= 12
    assert all(mine is yours for mine, yours in zip(*kept, strict=True))


async def test_what_is_remembered_of_levels_is_bounded(pairs: Any) -> None:
    """A program's own packets may have any number where those made here have their level."""
    packets = [SharedPacket(packet_of(OPUS, b"x", number, -number)) for number in range(300)]
    theirs, ours = pairs(OPUS, packets)
    await asyncio.gather(theirs.run(), ours.run())
    assert ours.wire.sent == theirs.wire.sent
    assert len(ours.sender._next_encoded_frame._extensions) == 128


async def test_the_time_is_that_of_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(OPUS, reel_of(OPUS, 2), ours=True)
    began = time.time()
    await stream.run("time alone")
    await stream.sender.stop()
    (one, other, *_) = stream.wire.sent
    for packet in (one, other):
        sent_at = int.from_bytes(packet[17:20])
        assert (sent_at - int(began * (1 << 18))) % (1 << 24) < 5 * (1 << 18)
        assert (rtcrtpsender.clock.current_ntp_time() >> 14) - sent_at & 0xFFFFFF < 5 * (1 << 18)


async def test_reports_say_when_the_frame_was_taken(pairs: Any) -> None:
    """Receivers keep sound and picture together by it (RFC 3550 section 6.4.1): encoding is no part of it."""
    theirs, ours = pairs(VP8, reel_of(VP8))
    await asyncio.gather(theirs.run(), ours.run())
    told, expected = (it.sender._RTCRtpSender__ntp_timestamp for it in (ours, theirs))
    assert (expected - told) / (1 << 32) == pytest.approx(AGE, abs=0.1)


async def test_the_first_report_goes_out_with_the_first_frame(pairs: Any) -> None:
    """Until it has one a receiver cannot tell what belongs together. It is what aiortc sends a second later."""
    theirs, ours = pairs(VP8, reel_of(VP8, 1))
    await asyncio.gather(theirs.run(), ours.run())
    assert theirs.wire.reports == []
    (at_once,) = ours.wire.reports
    ours.wire.reports.clear()
    await eventually(lambda: theirs.wire.reports and ours.wire.reports)
    assert ours.wire.reports[0] == at_once, "nothing was sent in the meantime"
    first, expected = (RtcpPacket.parse(it) for it in (at_once, theirs.wire.reports[0]))
    assert [type(it) for it in first] == [RtcpSrPacket, RtcpSdesPacket]
    told, late = (packets[0].sender_info for packets in (first, expected))
    assert (late.ntp_timestamp - told.ntp_timestamp) / (1 << 32) == pytest.approx(AGE, abs=0.1)
    told.ntp_timestamp = late.ntp_timestamp
    assert first == expected
    assert told.rtp_timestamp == RtpPacket.parse(ours.wire.sent[0]).timestamp


async def test_what_turns_out_to_be_wrong_is_reported_again_and_not_for_each_frame(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sound has been held up, and more than that came with it; what came later was in time."""
    sound = reel_of(OPUS, 1)[0]
    moments = [(0.4, 0.02 * number) for number in range(20)]
    moments += [(0.4 + 0.02 * number, 0.4 + 0.02 * number) for number in range(1, 50)]
    _, ours = pairs(OPUS, [sound] * len(moments))
    clock = ours.sender._next_encoded_frame._loop = SimpleNamespace(now=0.0)
    clock.time = lambda: 100 + clock.now
    monkeypatch.setattr(time, "time_ns", lambda: round((NOW.timestamp() + clock.now) * 1e9))
    left = iter(moments)

    async def next_shared_packet() -> PlacedPacket:
        if ours.track.given == len(moments):
            await asyncio.get_running_loop().create_future()
        ours.track.given += 1
        clock.now, at = next(left)
        quickest = min(now - at for now, at in moments[: ours.track.given])
        return PlacedPacket(sound, round(at * 48_000), 100 + at + quickest)

    ours.track.next_shared_packet = next_shared_packet
    await ours.run()
    told = [RtcpPacket.parse(it)[0].sender_info for it in ours.wire.reports]
    began = [it.ntp_timestamp / (1 << 32) - (it.rtp_timestamp + 0x1000) % (1 << 32) / 48_000 for it in told]
    assert len(began) == 2
    assert began[0] - began[1] == pytest.approx(0.4, abs=0.01)


async def test_round_trip_times_are_known_from_the_first_report(pairs: Any) -> None:
    """A receiver says which report came last and how long ago: here 100 s, of the 100.25 s since it was sent."""
    _, ours = pairs(VP8, reel_of(VP8))
    before = time.time()
    await ours.run()
    (report, *_) = RtcpPacket.parse(ours.wire.reports[0])
    ours.sender._RTCRtpSender__lsr_time -= 100.25
    last, since = report.sender_info.ntp_timestamp >> 16 & 0xFFFFFFFF, 100 * 65_536
    info = RtcpReceiverInfo(report.ssrc, 0, 0, 0, 0, last, since)
    await ours.sender._handle_rtcp_packet(RtcpRrPacket(ssrc=7, reports=[info]))
    assert 0.25 <= ours.sender._RTCRtpSender__rtt <= 0.25 + time.time() - before


async def test_nothing_is_sent_where_the_direction_forbids_it(pairs: Any) -> None:
    theirs, ours = pairs(VP8, reel_of(VP8))
    for stream in (theirs, ours):
        stream.sender._enabled = False
    await asyncio.gather(theirs.run(), ours.run())
    assert ours.wire.sent == theirs.wire.sent == ours.wire.reports == []
    assert ours.counted() == theirs.counted()


async def test_a_sender_ends_with_its_track(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(VP8, [], ours=True)

    async def end() -> PlacedPacket:
        raise MediaStreamError

    stream.track.next_shared_packet = end  # type: ignore[method-assign]
    await stream.run()
    await eventually(lambda: stream.sender.track is None)
    await stream.sender.stop()
    assert not caplog.records


# --- over real UDP, to aiortc


@pytest.fixture
async def worlds() -> AsyncIterator[list[World]]:
    made: list[World] = []
    yield made
    await asyncio.gather(*(world.close() for world in made))


@pytest.mark.parametrize("codec", [None, "video/H264"], ids=["as RTX", "as it was"])
async def test_a_packet_that_is_lost_is_sent_again(codec: str | None, worlds: list[World]) -> None:
    """Every fifth packet never arrives, is asked for and comes: as RTX, unless one codec alone is agreed on."""
    world = World(PatternTrack(width=640, height=480))
    worlds.append(world)
    receiver = await world.join(codec)
    await receiver.shows()
    source = receiver._source
    transport = selected_pair(receiver.peer_connection.pc).protocol.transport
    send = transport.sendto
    passed, lost, came_back = 0, set(), set()

    def lose(data: bytes, address: Any) -> None:
        nonlocal passed
        header = rtp._HEADER.unpack_from(data.ljust(12))
        number = header[2]
        is_first_time = header[4] == source and not is_rtcp(data) and number not in lost
        passed += is_first_time
        if is_first_time and passed % 5 == 0:
            lost.add(number)
        else:
            send(data, address)

    (incoming,) = receiver.pc.getReceivers()
    hooked: Any = incoming
    handle = hooked._handle_rtp_packet

    async def note(packet: Any, arrival_time_ms: int) -> None:
        if packet.ssrc != source:
            came_back.add(int.from_bytes(packet.payload[:2]))
        elif packet.sequence_number in lost:
            came_back.add(packet.sequence_number)
        assert (packet.ssrc != source) <= (codec is None)
        await handle(packet, arrival_time_ms=arrival_time_ms)

    hooked._handle_rtp_packet = note
    transport.sendto = lose
    try:
        await eventually(lambda: len(lost & came_back) > 3)
    finally:
        transport.sendto = send
    assert came_back <= lost
    await receiver.shows(3)


async def test_what_goes_out_is_counted_wherever_it_is_counted(worlds: list[World]) -> None:
    world = World(PatternTrack(width=320, height=240))
    worlds.append(world)
    receiver = await world.join()
    await receiver.shows(5)
    counter, transport = transport_counter(receiver.peer_connection.pc), dtls_transport(receiver.peer_connection.pc)
    counted: Any = transport
    assert counter.packets_sent == counted._RTCDtlsTransport__tx_packets > 10
    assert counter.bytes_sent == counted._RTCDtlsTransport__tx_bytes
    sender = receiver._sending.transceiver.sender
    sent = sender_stats(sender)
    assert counter.packets_sent > sent.packets >= sent.frames >= 5
    await eventually(lambda: sender_stats(sender).report is not None)
