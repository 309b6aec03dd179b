"""What is counted, beside what aiortc counts itself."""

from __future__ import annotations

import asyncio
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from metered_realtime.aiortc_compat import peer_connection, stats
from metered_realtime.aiortc_compat.gathering import (
    gather_host_candidates,
)
from metered_realtime.aiortc_compat.stats import (
    MessageCounter,
    _PacketCounter,
    count_packets,
    message_counters,
    message_total,
    receiver_stats,
    round_trip_time,
    sender_stats,
    transport_counter,
)
from metered_realtime.aiortc_compat.transceivers import (
    receiver_of,
)
from metered_realtime.aiortc_compat.transports import (
    ice_transport,
    selected_pair,
)
from tests.aiortc_compat.support.bare_connections import make, negotiate, plain, sending
from tests.aiortc_compat.support.private_names import private_names
from tests.support.peers import GreyTrack, eventually

TOUCHED = {
    "__codecs": "test_what_a_receiver_takes_in_is_counted",
    "__octet_count": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "__packet_count": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "__remote_streams": "test_what_a_receiver_takes_in_is_counted",
    "__rx_bytes": "test_what_a_connection_sends_is_counted",
    "__rx_packets": "test_what_a_connection_sends_is_counted",
    "__stats": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "_connection": "test_what_a_connection_sends_is_counted",
    "_data_channel_open": "test_messages_of_data_channels_are_counted",
    "_data_channel_receive": "test_messages_of_data_channels_are_counted",
    "_data_channel_send": "test_messages_of_data_channels_are_counted",
    "_data_channels": "test_messages_of_data_channels_are_counted",
    "_handle_rtp_packet": "test_what_a_receiver_takes_in_is_counted",
    "_next_encoded_frame": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "_nominated": "test_what_a_connection_sends_is_counted",
    "_send": "test_what_a_connection_sends_is_counted",
}
"""Every private name in aiortc_compat/stats.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(stats) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_checks_are_timed(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    assert selected_pair(one) is None
    await negotiate(one, other)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    for pc in (one, other):
        pair = selected_pair(pc)
        elapsed = round_trip_time(pair)
        assert elapsed is not None
        assert 0 < elapsed < aioice.stun.RETRY_RTO
        assert (pair.local_candidate.type, pair.remote_candidate.type) == ("host", "host")
        assert pair.remote_addr[1] == pair.remote_candidate.port


@pytest.mark.parametrize("step", ["check_start", "query_consent"])
def test_the_step_before_every_check_is_the_one_that_has_it_timed(step: str) -> None:
    assert {"build_request", "request"} <= set(getattr(aioice.ice.Connection, step).__code__.co_names)


async def test_what_a_connection_sends_is_counted(pcs: list[RTCPeerConnection]) -> None:
    """aiortc calls the ICE transport's send function by its name each time, and counts what it receives itself."""
    one, other = make(pcs), make(pcs)
    counter = transport_counter(one)
    one.createDataChannel("x")
    await negotiate(one, other)
    assert (counter.bytes_sent, counter.connected_at) == (0, None)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    assert counter.connected_at is not None
    await eventually(lambda: stats.received(other) == (counter.bytes_sent, counter.packets_sent))
    assert counter.packets_sent > 2
    await one.close()
    count = counter.packets_sent
    with pytest.raises(ConnectionError):
        await ice_transport(one)._send(b"x")
    assert (counter.packets_sent, counter.connected_at) == (count, None)


async def test_messages_of_data_channels_are_counted(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    named = one.createDataChannel("x")
    agreed = one.createDataChannel("y", negotiated=True, id=6)
    assert [channel for channel, _ in message_counters(one)] == [agreed, named]
    heard: list[Any] = []
    other.on("datachannel", lambda channel: channel.on("message", heard.append))
    await negotiate(one, other)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    await eventually(lambda: named.readyState == "open")
    for message in ("", "é", b"", b"123"):
        named.send(message)
    with pytest.raises(ValueError, match="Cannot send"):
        named.send(b"x" * 1_000_000)
    await eventually(lambda: len(heard) == 4)
    sent = MessageCounter(messages_sent=4, bytes_sent=5)
    assert message_total(one) == sent
    assert dict(message_counters(one)) == {named: sent, agreed: MessageCounter()}
    came = MessageCounter(messages_received=4, bytes_received=5)
    assert message_total(other) == came
    assert [counter for _, counter in message_counters(other)] == [came]
    named.close()
    await eventually(lambda: [channel for channel, _ in message_counters(one)] == [agreed])
    assert message_total(one) == sent


async def test_what_a_sender_sends_is_counted_and_reported_by_the_other_end(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), plain(pcs)
    sender = sending(one).sender
    counted = sender_stats(sender)
    assert (counted.bytes, counted.packets, counted.frames, counted.report) == (0, 0, 0, None)
    await negotiate(one, other)
    await peer_connection.connect(one)
    await eventually(lambda: sender_stats(sender).report is not None)
    counted = sender_stats(sender)
    (theirs,) = [it for it in (await sender.getStats()).values() if it.type == "outbound-rtp"]
    assert (theirs.bytesSent, theirs.packetsSent) == (counted.bytes, counted.packets)
    assert counted.packets >= counted.frames > 3
    for name in ("packetsLost", "jitter", "roundTripTime", "fractionLost"):
        assert hasattr(counted.report, name)


async def test_what_a_receiver_takes_in_is_counted(pcs: list[RTCPeerConnection]) -> None:
    one, other = plain(pcs), make(pcs)
    other.on("track", lambda track: count_packets(receiver_of(other, track)))  # type: ignore[arg-type]
    sender = one.addTrack(GreyTrack())
    await gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    (receiver,) = other.getReceivers()
    assert receiver_stats(receiver).codec is None
    await one.setRemoteDescription(other.localDescription)
    await peer_connection.connect(other)
    await eventually(lambda: receiver_stats(receiver).packets > 5)
    counted = receiver_stats(receiver)
    (theirs,) = [it for it in (await receiver.getStats()).values() if it.type == "inbound-rtp"]
    assert (theirs.packetsReceived, theirs.packetsLost) == (counted.packets, counted.packets_lost)
    (sent,) = [it for it in (await sender.getStats()).values() if it.type == "outbound-rtp"]
    assert 0 < counted.bytes <= sent.bytesSent
    assert (counted.codec.mimeType, counted.codec.clockRate) == ("video/VP8", 90_000)


async def test_retransmissions_are_not_counted_as_payload() -> None:
    taken: list[Any] = []

    async def handle(packet: Any, arrival_time_ms: int) -> None:
        taken.append(packet)

    media = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=96)
    repair = RTCRtpCodecParameters(mimeType="video/rtx", clockRate=90_000, payloadType=97)
    counter = _PacketCounter(handle, {96: media, 97: repair})
    for payload_type, ssrc in ((96, 1), (97, 2), (98, 3), (96, 1)):
        packet = RtpPacket(payload_type=payload_type, ssrc=ssrc)
        packet.payload = b"12345"
        await counter(packet, arrival_time_ms=0)
    assert (counter.bytes, counter.codec, list(counter.sources), len(taken)) == (10, media, [1], 4)
