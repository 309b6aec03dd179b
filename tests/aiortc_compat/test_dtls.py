"""Datagrams between socket and TLS: nothing is lost, media goes first, and everything has a bound."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import RtcpByePacket, RtcpPsfbPacket, RtcpRrPacket, RtpPacket, is_rtcp

from metered_realtime.aiortc_compat import dtls as fast
from metered_realtime.aiortc_compat import peer_connection, stats
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.stats import message_total, transport_counter
from metered_realtime.aiortc_compat.transports import dtls_transport, ice_transport, path_is_alive, selected_pair
from metered_realtime.media.sources.testsource import ToneTrack
from tests.aiortc_compat.support.bare_connections import negotiate, sending
from tests.support.peers import eventually

TOUCHED = {
    "_RTCDtlsTransport__handshake_done": "test_bytes_arrive_as_they_were_sent",
    "_RTCDtlsTransport__rx_bytes": "test_what_passes_is_counted_at_both_ends",
    "_RTCDtlsTransport__rx_packets": "test_what_passes_is_counted_at_both_ends",
    "_RTCDtlsTransport__tx_bytes": "test_what_passes_is_counted_at_both_ends",
    "_RTCDtlsTransport__tx_packets": "test_what_passes_is_counted_at_both_ends",
    "_connection": "test_bytes_arrive_as_they_were_sent",
    "_data_receiver": "test_a_receiver_of_another_kind_is_served",
    "_handle_data": "test_a_receiver_of_another_kind_is_served",
    "_handle_rtcp_data": "test_sound_is_not_starved_by_data",
    "_handle_rtp_data": "test_sound_is_not_starved_by_data",
    "_nominated": "test_what_is_sent_has_left_before_sending_returns",
    "_protocols": "test_all_that_has_come_is_read_at_once",
    "_queue": "test_bytes_arrive_as_they_were_sent",
    "_recv_next": "test_bytes_arrive_as_they_were_sent",
    "_rtp_router": "test_srtp_keeps_state_of_few_sources",
    "_rx_srtp": "test_sound_is_not_starved_by_data",
    "_send": "test_what_is_sent_has_left_before_sending_returns",
    "_sock": "test_all_that_has_come_is_read_at_once",
    "_ssl": "test_bytes_arrive_as_they_were_sent",
    "_state": "test_nothing_is_sent_without_tls",
    "_tx_srtp": "test_media_leaves_in_one_go",
    "_transport": "test_bytes_arrive_as_they_were_sent",
    "_write_ssl": "test_the_end_of_tls_ends_the_connection",
}
"""The private names of aiortc, aioice and asyncio in aiortc_compat/dtls.py, and the test that watches each."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(fast.__file__).read_text(), flags=re.DOTALL)
    names = set(re.findall(r'(?:\.|")(_[a-zA-Z]\w*)', source))
    own = {*re.findall(r"(?:def |self\.)(_\w+)(?:\(| =|:)", source)} - {"_recv_next"}
    defined = {"_arrived", "_waiter", "_pass_on", "_error_received", "_read", "_pairs", "_pair", "_address", "_late"}
    defined |= {
        "_sort",
        "_tapped",
        "_tap_sockets",
        "_take_records",
        "_take_packet",
        "_take_reports",
        "_refuse_media",
        "_has_room_for",
        "_srtp_sources",
        "_take_media",
        "_decrypt",
        "_count_received",
        "_send_data",
    }
    assert own >= defined - {"_connection"}
    assert names - defined == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


@pytest.fixture
async def pcs() -> AsyncIterator[list[RTCPeerConnection]]:
    """Connections that are closed in the end."""
    made: list[RTCPeerConnection] = []
    yield made
    await asyncio.gather(*(pc.close() for pc in made))


async def connected(pcs: list[RTCPeerConnection], track: Any = None) -> tuple[Any, Any, Any, Any]:
    """Return two connections, and the ends of a channel from the first to the second."""
    one, other = create_peer_connection(), create_peer_connection()
    pcs += [one, other]
    channel = one.createDataChannel("x")
    arrived: list[Any] = []
    other.on("datachannel", arrived.append)
    if track is not None:
        sending(one, track)
    await gather_host_candidates(other)
    await negotiate(one, other)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    await eventually(lambda: arrived and channel.readyState == "open")
    return one, other, channel, arrived[0]


async def test_bytes_arrive_as_they_were_sent(pcs: list[RTCPeerConnection]) -> None:
    one, other, mine, theirs = await connected(pcs)
    assert {type(dtls_transport(pc)) for pc in (one, other)} == {fast.FastDtlsTransport}
    digest = hashlib.sha256()
    there = hashlib.sha256()
    theirs.on("message", there.update)
    size = 0
    for number in range(200):
        message = number.to_bytes(2, "big") * (number * 101 % 30_000 + 1)
        digest.update(message)
        size += len(message)
        mine.send(message)
    await eventually(lambda: message_total(other).bytes_received == size)
    assert there.digest() == digest.digest()


async def test_what_passes_is_counted_at_both_ends(pcs: list[RTCPeerConnection]) -> None:
    one, other, mine, theirs = await connected(pcs)
    heard: list[Any] = []
    theirs.on("message", heard.append)
    for _ in range(30):
        mine.send(bytes(5_000))
    await eventually(lambda: len(heard) == 30)
    counter = transport_counter(one)
    await eventually(lambda: stats.received(other) == (counter.bytes_sent, counter.packets_sent))
    counted: Any = dtls_transport(one)
    assert counted._RTCDtlsTransport__tx_bytes == counter.bytes_sent
    assert counted._RTCDtlsTransport__tx_packets == counter.packets_sent


async def test_what_is_sent_has_left_before_sending_returns(pcs: list[RTCPeerConnection]) -> None:
    one, _, _, _ = await connected(pcs)
    sent: list[bytes] = []
    path: Any = ice_transport(one)
    protocol = selected_pair(one).protocol
    send_now = protocol.transport.sendto
    protocol.transport.sendto = lambda data, address: sent.append(data)
    assert path._send(b"datagram") is fast.DONE
    await path._send(b"another")
    protocol.transport.sendto = send_now
    assert sent == [b"datagram", b"another"]


def media(count: int = 3) -> list[bytes]:
    return [RtpPacket(sequence_number=number, ssrc=1, payload=bytes([number])).serialize() for number in range(count)]


async def test_media_leaves_in_one_go(pcs: list[RTCPeerConnection]) -> None:
    one, other, _, _ = await connected(pcs)
    dtls: Any = dtls_transport(one)
    there: Any = dtls_transport(other)
    counter, sent = transport_counter(one), []
    counted = counter.packets_sent, counter.bytes_sent
    transport = selected_pair(one).protocol.transport
    send_now = transport.sendto
    transport.sendto = lambda data, address: sent.append((data, address))
    assert dtls.send_media(media()) is fast.DONE
    transport.sendto = send_now
    assert [there._rx_srtp.unprotect(data) for data, _ in sent] == media()
    assert {address for _, address in sent} == {selected_pair(one).remote_addr}
    size = sum(len(data) for data, _ in sent)
    assert (counter.packets_sent, counter.bytes_sent) == (counted[0] + 3, counted[1] + size)
    assert dtls._RTCDtlsTransport__tx_packets == counter.packets_sent
    assert dtls._RTCDtlsTransport__tx_bytes == counter.bytes_sent


async def test_who_stands_in_for_sending_gets_each_packet_of_media(pcs: list[RTCPeerConnection]) -> None:
    one, _, _, _ = await connected(pcs)
    dtls: Any = dtls_transport(one)
    protocol = selected_pair(one).protocol
    sent: list[bytes] = []

    async def note(data: bytes, address: Any = None) -> None:
        await asyncio.sleep(0)
        sent.append(data)

    protocol.send_data = note
    rest = dtls.send_media(media())
    assert (rest is fast.DONE, sent) == (False, [])
    await rest
    assert len(sent) == 3
    del protocol.send_data
    dtls.transport._send = note
    await dtls.send_media(media())
    assert len(sent) == 6


async def test_media_is_lost_while_a_path_is_looked_for_and_refused_without_one(pcs: list[RTCPeerConnection]) -> None:
    one, _, _, _ = await connected(pcs)
    dtls: Any = dtls_transport(one)
    transport = selected_pair(one).protocol.transport
    pair = dtls._connection._nominated.pop(1)
    sent: list[bytes] = []
    send_now, transport.sendto = transport.sendto, lambda data, address: sent.append(data)
    with pytest.raises(ConnectionError):
        await dtls.send_media(media())
    dtls.pair_sender.is_paused = True
    await dtls.send_media(media())
    assert sent == []
    dtls.pair_sender.former = pair
    await dtls.send_media(media())
    assert len(sent) == 3
    transport.sendto = send_now
    await one.close()
    with pytest.raises(ConnectionError, match="not connected"):
        dtls.send_media(media())


async def test_a_stand_in_for_sending_is_respected(pcs: list[RTCPeerConnection]) -> None:
    one, _, mine, theirs = await connected(pcs)
    heard: list[Any] = []
    theirs.on("message", heard.append)
    protocol = selected_pair(one).protocol
    send, late, sent = protocol.send_data, [], []

    async def send_later(data: bytes, address: Any) -> None:
        late.append(data)
        await asyncio.sleep(0.001)
        await send(data, address)
        sent.append(data)

    protocol.send_data = send_later
    mine.send("x")
    await eventually(lambda: heard)
    protocol.send_data = send
    assert late
    await eventually(lambda: len(sent) == len(late))


async def test_nothing_is_sent_without_tls() -> None:
    pc = create_peer_connection()
    transport: Any = dtls_transport(pc)
    with pytest.raises(ConnectionError):
        transport.send_now(b"x")
    await pc.close()


async def test_the_end_of_tls_ends_the_connection(pcs: list[RTCPeerConnection]) -> None:
    one, other, mine, _ = await connected(pcs)
    await dtls_transport(other).stop()
    await eventually(lambda: dtls_transport(one).state == "closed")
    await eventually(lambda: one.connectionState in ("closed", "failed"))
    await eventually(lambda: mine.readyState == "closed")


async def test_the_end_of_the_path_ends_the_connection(pcs: list[RTCPeerConnection]) -> None:
    one, _, _, _ = await connected(pcs)
    await ice_transport(one)._connection.close()
    await eventually(lambda: dtls_transport(one).state == "closed")


async def test_a_receiver_of_another_kind_is_served(pcs: list[RTCPeerConnection]) -> None:
    one, other, _, _ = await connected(pcs)
    taken: list[bytes] = []

    class Receiver:
        async def _handle_data(self, data: bytes) -> None:
            taken.append(data)

    receiving, sender = dtls_transport(other), dtls_transport(one)
    own, receiving._data_receiver = receiving._data_receiver, Receiver()
    await sender._send_data(b"one")
    await sender._send_data(b"two")
    await eventually(lambda: taken[-2:] == [b"one", b"two"])
    receiving._data_receiver = own


async def test_all_that_has_come_is_read_at_once(pcs: list[RTCPeerConnection]) -> None:
    """The socket_receiver reads on from the socket of asyncio's transport, and knows where to stop."""
    one, other, _, _ = await connected(pcs)
    protocol = selected_pair(other).protocol
    socket_receiver: Any = protocol.datagram_received
    assert isinstance(socket_receiver, fast.SocketReceiver)
    assert protocol.transport.max_size == fast.MAX_DATAGRAM
    arrived: Any = dtls_transport(other)._arrived  # type: ignore[attr-defined]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for _ in range(50):
            sock.sendto(b"\x17" + bytes(60), protocol.transport.get_extra_info("sockname")[:2])
        time.sleep(0.02)  # noqa: ASYNC251 - the event loop must not read them meanwhile
        socket_receiver(b"\x17 first", ("127.0.0.1", 9))
        assert len(arrived.records) == fast.DRAIN, "the others have to wait for the next turn"
    finally:
        sock.close()
    await eventually(lambda: not arrived.records)
    assert await path_is_alive(one), "what is not TLS harms nobody, and STUN passes"


def test_a_datagram_is_told_by_its_first_byte() -> None:
    arrived = fast.DatagramQueue()
    for data in (b"", b"\x00stun", b"\x13", b"\x14", b"\x17", b"\x3f", b"\x40", b"\x7f", b"\x80", b"\xbf", b"\xc0"):
        arrived.put(data)
    assert list(arrived.records) == [b"\x14", b"\x17", b"\x3f"]
    assert list(arrived.media) == [b"\x80", b"\xbf"]
    assert arrived.dropped == 6


def test_what_waits_is_bounded() -> None:
    arrived = fast.DatagramQueue()
    for number in range(fast.MAX_WAITING + 7):
        arrived.put(b"\x17%d" % number)
    arrived.put(b"\x80")
    assert (len(arrived.records), arrived.dropped, len(arrived.media)) == (fast.MAX_WAITING, 7, 1)


def test_what_no_path_carries_is_not_kept() -> None:
    arrived = fast.DatagramQueue()
    for first in (b"\x17", b"\x80"):
        arrived.put(first + bytes(fast.MAX_ARRIVAL))
    assert (arrived.dropped, len(arrived.records), len(arrived.media)) == (2, 0, 0)


# --- what media may be

EXTENDED = b"\x90\x60" + bytes(10)

ODD_MEDIA = {
    "longer than SRTP takes": b"\x80\x60" + bytes(1_600),
    "extensions without end": EXTENDED + b"\xbe\xde" + (300).to_bytes(2) + bytes(1_200),
    "a time of two bytes": EXTENDED + b"\xbe\xde\0\1" + bytes((0x21, 1, 2, 0)),
    "nothing": b"\x80\x60",
    "an estimate without its sources": bytes(RtcpPsfbPacket(15, 1, 0, b"REMB" + bytes((255, 0, 0, 0)))),
    "reports without number": bytes(RtcpByePacket([])) * 200,
}


@pytest.mark.parametrize("data", ODD_MEDIA.values(), ids=ODD_MEDIA)
async def test_media_that_makes_no_sense_ends_nothing(
    data: bytes, pcs: list[RTCPeerConnection], caplog: pytest.LogCaptureFixture
) -> None:
    one, other, mine, theirs = await connected(pcs)
    heard: list[str] = []
    theirs.on("message", heard.append)
    sender, receiver = dtls_transport(one), dtls_transport(other)
    time = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
    extension = RTCRtpHeaderExtensionParameters(id=2, uri=time)
    receiver._rtp_header_extensions_map.configure(RTCRtpParameters(headerExtensions=[extension]))  # type: ignore[arg-type]
    protect: Any = sender._tx_srtp.protect_rtcp if is_rtcp(data) else sender._tx_srtp.protect
    received = stats.received(other)[1]
    for _ in range(3):
        if len(data) > 1_450:
            await sender.transport._send(data)  # from anybody: it needs no key
        elif len(data) >= 12:
            await sender.transport._send(protect(data))
        else:
            await sender.transport._send(data)
    await eventually(lambda: stats.received(other)[1] >= received + 3)
    mine.send("still there")
    await eventually(lambda: heard == ["still there"])
    assert (one.connectionState, other.connectionState) == ("connected", "connected")
    told = [it for it in caplog.records if "media packets of the remote refused" in it.getMessage()]
    refused: Any = receiver
    assert len(told) == (refused.media_refused > 0)


async def test_srtp_keeps_state_of_few_sources(pcs: list[RTCPeerConnection], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, *_ = await connected(pcs)
    monkeypatch.setattr(fast, "MAX_SRTP_SOURCES", 8)
    sender, receiver = dtls_transport(one), dtls_transport(other)
    routed = receiver._rtp_router.ssrc_table
    bounded: Any = receiver
    for source in range(6):
        routed[source] = bounded  # as if a section received from it
    packets = [b"\x80\x60\0\1" + bytes(4) + source.to_bytes(4) + bytes(20) for source in range(100)]
    before = stats.received(other)[1]
    for packet in packets:
        await sender._send_rtp(packet)
        await sender._send_rtp(bytes(RtcpRrPacket(int.from_bytes(packet[8:12]) + 1_000)))
    await eventually(lambda: stats.received(other)[1] >= before + 200)
    assert len(bounded._srtp_sources) <= 8
    assert {source.to_bytes(4) for source in range(6)} <= bounded._srtp_sources
    for source in range(6, 8):
        routed[source] = bounded
        await sender._send_rtp(b"\x80\x60\0\2" + bytes(4) + source.to_bytes(4) + bytes(20))
    await eventually(lambda: stats.received(other)[1] >= before + 202)
    assert bounded.media_refused == 0
    await sender._send_rtp(b"\x80\x60\0\2" + bytes(4) + b"\1\1\1\1" + bytes(20))
    await eventually(lambda: bounded.media_refused == 1)


async def test_media_that_has_piled_up_lets_others_have_their_turn(pcs: list[RTCPeerConnection]) -> None:
    _, other, *_ = await connected(pcs)
    transport: Any = dtls_transport(other)
    await eventually(lambda: transport._RTCDtlsTransport__handshake_done)
    for _ in range(10 * fast.DRAIN):
        transport._arrived.put(b"\x80" + bytes(20))
    left: list[int] = []
    while transport._arrived.media:
        left.append(len(transport._arrived.media))
        await asyncio.sleep(0)
    assert len(left) >= 10


async def test_the_end_comes_after_what_came_before_it() -> None:
    arrived = fast.DatagramQueue()
    arrived.put_nowait((b"\x17", 1))
    arrived.put_nowait(None)
    assert [await arrived.get(), await arrived.get(), await arrived.get()] == [(b"\x17", 1), None, None]


@pytest.mark.alone
@pytest.mark.xdist_group("busy")
async def test_sound_is_not_starved_by_data(pcs: list[RTCPeerConnection]) -> None:
    """20 MB go through the connection, and sound goes on beside them. Bounds leave room for a machine that is busy."""
    _, other, mine, theirs = await connected(pcs, ToneTrack())
    (receiver,) = other.getReceivers()
    times: list[float] = []
    handle = receiver._handle_rtp_packet

    async def note(packet: Any, arrival_time_ms: int) -> None:
        times.append(time.perf_counter())
        await handle(packet, arrival_time_ms=arrival_time_ms)

    receiver._handle_rtp_packet = note
    got = 0

    def count(message: bytes) -> None:
        nonlocal got
        got += len(message)

    theirs.on("message", count)
    await eventually(lambda: times)
    first = len(times)
    low = asyncio.Event()
    mine.bufferedAmountLowThreshold = 500_000
    mine.on("bufferedamountlow", low.set)
    for _ in range(320):
        low.clear()
        if mine.bufferedAmount > 1_000_000:
            await low.wait()
        mine.send(bytes(65_536))
    await eventually(lambda: got == 320 * 65_536)
    took, packets = times[-1] - times[first - 1], len(times) - first
    assert packets >= 0.5 * took / 0.02 - 2, "one each 20 ms"
    gaps = [later - earlier for earlier, later in zip(times[first:], times[first + 1 :], strict=False)]
    assert max(gaps) < 0.4
