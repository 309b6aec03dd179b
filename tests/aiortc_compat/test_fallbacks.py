"""What happens where a release of aiortc or aioice has changed something: it goes its own way, and nothing breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCRtpSender
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcdtlstransport import SRTP_PROFILES, RtpRouter
from aiortc.rtcrtpreceiver import NackGenerator
from aiortc.rtcsctptransport import RTCSctpTransport

from metered_realtime.aiortc_compat import (
    certificate,
    closing,
    dcep,
    ice_checks,
    ice_consent,
    ice_restart,
    jitter_buffer,
    rtcp_feedback,
    rtp_sender,
    rtp_sources,
    sctp,
    stats,
    unread_gate,
)
from metered_realtime.aiortc_compat.certificate import SharedCertificate, certificate_for_now
from metered_realtime.aiortc_compat.peer_connection import connect, create_peer_connection
from metered_realtime.aiortc_compat.transceivers import new_transceiver
from metered_realtime.aiortc_compat.transports import dtls_transport, ice_transport
from metered_realtime.aiortc_compat.version import Guard
from metered_realtime.media.sending.forward_track import ForwardTrack
from tests.aiortc_compat.support.bare_connections import make, negotiate, sending
from tests.support.changed_releases import change
from tests.support.peers import Room, eventually, frames

Change = Callable[[Guard], None]


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Lets everything that a guard looks at have changed."""
    return lambda guard: change(monkeypatch, guard)


@pytest.fixture
def connected(pcs: list[RTCPeerConnection]) -> Callable[[], Any]:
    """Makes two connections with a data channel that are up."""

    async def make_two() -> tuple[RTCPeerConnection, RTCPeerConnection, Any]:
        one, other = make(pcs), make(pcs)
        channel = one.createDataChannel("x")
        await negotiate(one, other)
        await asyncio.gather(connect(one), connect(other))
        await eventually(lambda: channel.readyState == "open")
        return one, other, channel

    return make_two


def told(caplog: pytest.LogCaptureFixture, guard: Guard) -> bool:
    """Return whether a change was logged, once."""
    return sum(guard.consequence in message for message in caplog.messages) == 1


async def test_data_channels_are_aiortcs(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(sctp.GUARD)
    assert {type(make(pcs).sctp) for _ in range(2)} == {RTCSctpTransport}
    assert told(caplog, sctp.GUARD)


async def test_media_is_sent_by_aiortcs_sender(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(rtp_sender.GUARD)
    track = ForwardTrack("audio")
    sender: Any = new_transceiver(make(pcs), track).sender
    rtp_sender.send_shared_packets(sender, track)
    assert isinstance(sender._next_encoded_frame, stats.FrameCounter)
    assert told(caplog, rtp_sender.GUARD)


async def test_media_is_sent_by_a_sender_that_nothing_is_known_of(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even its frames are counted then."""
    changed(rtp_sender.GUARD)
    changed(stats.GUARD)
    track = ForwardTrack("audio")
    sender = new_transceiver(make(pcs), track).sender
    rtp_sender.send_shared_packets(sender, track)
    assert "_next_encoded_frame" not in vars(sender)
    counted = stats.sender_stats(sender)
    assert (counted.bytes, counted.frames, counted.report) == (0, 0, None)


async def test_checks_are_aioices(connected: Any, changed: Change, caplog: pytest.LogCaptureFixture) -> None:
    changed(ice_checks.GUARD)
    one, _, _ = await connected()
    connection = ice_transport(one)._connection
    assert {"connect", "sort_check_list", "_check_periodic", "checks"}.isdisjoint(vars(connection))
    assert not ice_restart.IceRestarts(one).is_possible
    assert told(caplog, ice_checks.GUARD)


async def test_consent_is_aioices(connected: Any, changed: Change, caplog: pytest.LogCaptureFixture) -> None:
    changed(ice_consent.GUARD)
    one, _, _ = await connected()
    assert "query_consent" not in vars(ice_transport(one)._connection)
    assert not ice_restart.IceRestarts(one).is_possible
    assert told(caplog, ice_consent.GUARD)


async def test_a_lost_path_costs_the_connection(
    connected: Any, changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    one, _, _ = await connected()
    restarts = ice_restart.IceRestarts(one)
    assert restarts.is_possible
    changed(ice_restart.GUARD)
    assert not restarts.is_possible
    restarts.survive_losses()
    connection: Any = ice_transport(one)._connection
    await connection.consent_lost()
    await eventually(lambda: one.connectionState == "closed")
    assert told(caplog, ice_restart.GUARD)


async def test_statistics_are_zeros(connected: Any, changed: Change, caplog: pytest.LogCaptureFixture) -> None:
    changed(stats.GUARD)
    one, _, channel = await connected()
    channel.send("hello")
    counter = stats.transport_counter(one)
    assert (counter.bytes_sent, stats.received(one), stats.packets_refused(one)) == (0, (0, 0), 0)
    assert counter.connected_at is not None
    assert stats.message_total(one) == stats.MessageCounter()
    assert stats.message_counters(one) == []
    connection: Any = ice_transport(one)._connection
    assert stats.round_trip_time(connection._nominated[1]) is None
    assert told(caplog, stats.GUARD)


async def test_a_connection_is_not_closed_by_force(
    connected: Any, changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(closing.GUARD)
    one, _, _ = await connected()
    await closing.close_by_force(one)
    assert one.connectionState == "connected"
    assert told(caplog, closing.GUARD)


async def test_a_transport_follows_ice_as_in_aiortc(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(closing.MONITOR_GUARD)
    assert "_monitor" not in vars(ice_transport(make(pcs)))
    assert told(caplog, closing.MONITOR_GUARD)


async def test_sources_are_routed_by_aiortc_alone(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(rtp_sources.ROUTER_GUARD)
    pc = make(pcs)
    gate = rtp_sources.bound_sources(dtls_transport(pc))
    description: Any = None  # is not looked at
    rtp_sources.route_sources(pc, description)
    assert "route_rtp" not in vars(dtls_transport(pc)._rtp_router)
    assert gate.refused == 0
    assert told(caplog, rtp_sources.ROUTER_GUARD)


async def test_full_intra_requests_are_routed_by_aiortc_alone(
    changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    class Transport:
        _rtp_router = RtpRouter()

    changed(rtcp_feedback.ROUTER_GUARD)
    transport: Any = Transport()
    rtcp_feedback.route_full_intra_requests(transport)
    assert "route_rtcp" not in vars(transport._rtp_router)
    assert told(caplog, rtcp_feedback.ROUTER_GUARD)


async def test_reports_end_with_one_that_fails(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(rtp_sources.REPORT_GUARD)
    sender: RTCRtpSender = sending(make(pcs)).sender
    rtp_sources.keep_reporting(sender)
    assert "_run_rtcp" not in vars(sender)
    assert told(caplog, rtp_sources.REPORT_GUARD)


async def test_channels_of_a_remote_are_not_bounded(
    connected: Any, changed: Change, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(dcep.GUARD)
    monkeypatch.setattr(dcep, "MAX_CHANNELS", 1)
    one, other, _ = await connected()
    admission = dcep.ChannelAdmission(other, caplog.messages.append)
    more = [one.createDataChannel(str(number)) for number in range(3)]
    await eventually(lambda: all(channel.readyState == "open" for channel in more))
    assert admission.refused == 0
    assert told(caplog, dcep.GUARD)


async def test_each_connection_makes_its_own_tls_context(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(certificate.GUARD)
    shared = certificate_for_now(None)
    assert isinstance(shared, SharedCertificate)
    assert shared._create_ssl_context(SRTP_PROFILES) is not shared._create_ssl_context(SRTP_PROFILES)
    one, other = create_peer_connection(certificate=shared), make(pcs)
    pcs.append(one)
    one.createDataChannel("x")
    await negotiate(one, other)
    await asyncio.gather(connect(one), connect(other))
    assert one.connectionState == "connected"
    assert told(caplog, certificate.GUARD)


async def test_a_failed_handshake_has_no_reason(
    pcs: list[RTCPeerConnection], changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(certificate.HANDSHAKE_GUARD)
    transport = dtls_transport(make(pcs))
    watch = certificate.HandshakeWatch(transport)
    assert "_do_handshake" not in vars(transport)
    assert watch.failure is None
    assert told(caplog, certificate.HANDSHAKE_GUARD)


@pytest.mark.parametrize("guard", [jitter_buffer.GUARD, rtp_sources.NACK_GUARD, unread_gate.GUARD])
async def test_what_a_remote_sends_arrives_all_the_same(
    guard: Guard, room: Room, changed: Change, caplog: pytest.LogCaptureFixture
) -> None:
    changed(guard)
    pair = await room.pair()
    _, track = await pair.media_to_b()
    receiver: Any = next(it.receiver for it in pair.to_a.pc.getTransceivers() if it.kind == "video")
    buffer: Any = receiver._RTCRtpReceiver__jitter_buffer
    connection: Any = ice_transport(pair.to_a.pc)._connection
    await eventually(lambda: track.frames_unread > 3)
    assert isinstance(buffer, JitterBuffer)
    assert ("_remove_frame" in vars(buffer)) is (guard is not jitter_buffer.GUARD)
    assert (type(receiver._RTCRtpReceiver__nack_generator) is NackGenerator) is (guard is rtp_sources.NACK_GUARD)
    is_gated = connection.data_received.__class__.__name__ == "_DatagramGate"
    assert is_gated is (guard is not unread_gate.GUARD)
    unread = track.frames_unread
    assert len(await frames(track)) == 3
    assert unread <= track.frames_unread < track.frames_received
    assert told(caplog, guard)
