"""Sources without number, and reports that fail: the insides of aiortc that bound them, watched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtcrtpreceiver import NackGenerator, RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import HeaderExtensions, RtcpRtpfbPacket, RtpPacket, is_rtcp
from aiortc.sdp import SessionDescription

from metered_realtime.aiortc_compat import rtp_sources as sources
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import connect
from metered_realtime.aiortc_compat.rtp_sources import BoundedNacks, SourceGate, keep_reporting, route_sources
from metered_realtime.aiortc_compat.stats import sender_stats
from metered_realtime.aiortc_compat.transports import dtls_transport
from metered_realtime.core.media.source_table import MAX_SOURCES
from tests.aiortc_compat.support.bare_connections import make, plain
from tests.aiortc_compat.support.private_names import private_names
from tests.aiortc_compat.test_sctp_attacks import calls
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, Pair, Room, eventually, frames

TOUCHED = {
    "__active_ssrc": "test_sixty_sources_in_one_section_end_nothing",
    "__lsr": "test_sixty_sources_in_one_section_end_nothing",
    "__lsr_time": "test_sixty_sources_in_one_section_end_nothing",
    "__remote_bitrate_estimator": "test_a_silent_source_is_forgotten_everywhere",
    "__remote_streams": "test_sixty_sources_in_one_section_end_nothing",
    "__rtcp_exited": "test_a_report_that_fails_is_told_and_the_next_one_goes_out",
    "__rtx_ssrc": "test_late_sources_are_routed_with_their_retransmissions",
    "_rtp_router": "test_sixty_sources_in_one_section_end_nothing",
    "_run_rtcp": "test_a_report_that_fails_is_told_and_the_next_one_goes_out",
}
"""Every private name of aiortc in aiortc_compat/rtp_sources.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    (listed,) = re.findall(r"for name in \((.*?)\)", Path(sources.__file__).read_text())
    names = private_names(sources) | {"__" + name for name in re.findall(r'"(\w+)"', listed)}
    assert names == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def flowing(room: Room) -> tuple[Pair, Any, Any, Any]:
    """Return a pair with video from a to b, the track at b, a's sender and b's receiver of it."""
    pair = await room.pair()
    _, track = await pair.media_to_b()
    sender = next(it.sender for it in pair.to_b.pc.getTransceivers() if it.kind == "video")
    receiver = next(it.receiver for it in pair.to_a.pc.getTransceivers() if it.kind == "video")
    return pair, track, sender, receiver


async def send_from(sender: Any, receiver: Any, numbers: range) -> None:
    """Send a packet from each of many sources."""
    payload_type = next(iter(receiver._RTCRtpReceiver__codecs))
    for source in numbers:
        packet = RtpPacket(payload_type=payload_type, sequence_number=1, timestamp=1, ssrc=source, payload=b"\x10" * 20)
        await sender.transport._send_rtp(packet.serialize())


async def test_sixty_sources_in_one_section_end_nothing(room: Room) -> None:
    pair, track, sender, receiver = await flowing(room)
    await send_from(sender, receiver, range(1, 61))
    link = pair.to_a._connection.peer_connection  # type: ignore[union-attr]
    assert link is not None
    await eventually(lambda: link.sources.refused >= 60 - MAX_SOURCES)
    for name in ("remote_streams", "active_ssrc", "lsr", "lsr_time"):
        assert len(getattr(receiver, f"_RTCRtpReceiver__{name}")) <= MAX_SOURCES
    assert len(link.pc.sctp.transport._rtp_router.ssrc_table) <= MAX_SOURCES + 10
    statistics = sender._RTCRtpSender__stats
    statistics.clear()
    await eventually(lambda: f"remote-inbound-rtp_{id(sender)}" in statistics)  # reports go on
    assert pair.to_a.stats().packets_refused >= 60 - MAX_SOURCES  # type: ignore[operator]
    await frames(track)
    tasks = [receiver._RTCRtpReceiver__rtcp_task]
    await pair.b.close()
    assert all(task.done() for task in tasks)
    assert link.pc.connectionState == "closed"


async def test_a_silent_source_is_forgotten_everywhere(room: Room) -> None:
    pair, _, sender, receiver = await flowing(room)
    link: Any = pair.to_a._connection.peer_connection  # type: ignore[union-attr]
    await send_from(sender, receiver, range(1, 10))
    streams = receiver._RTCRtpReceiver__remote_streams
    await eventually(lambda: set(range(1, 10)) <= set(streams))
    receiver.forget_source(3)
    receiver.forget_source(12_345)
    counter = receiver._handle_rtp_packet
    for known in (streams, receiver._RTCRtpReceiver__active_ssrc, counter.sources):
        assert 3 not in known
        assert 4 in known
    assert 3 not in receiver._RTCRtpReceiver__remote_bitrate_estimator.ssrcs
    link.sources._clock = lambda: 1e9
    await send_from(sender, receiver, range(1_000, 1_060))
    await eventually(lambda: link.sources.refused > 0)
    assert 4 not in streams
    assert len(streams) <= MAX_SOURCES


async def test_what_nobody_reads_is_forgotten_too(room: Room) -> None:
    pair, _, sender, receiver = await flowing(room)
    link: Any = pair.to_a._connection.peer_connection  # type: ignore[union-attr]
    intake = receiver._handle_rtp_packet.pass_on
    intake.close()
    await send_from(sender, receiver, range(1, 10))
    await eventually(lambda: set(range(1, 10)) <= set(intake._sources))
    receiver.forget_source(3)
    assert 3 not in intake._sources
    assert (3).to_bytes(4) not in link.pc.sctp.transport.transport._connection.data_received.sources


# --- reports


class Failing:
    """A receiver or sender on its own whose reports fail as long as they are told to."""

    _stats_id = "wire"
    state = "connected"

    def __init__(self, made: Callable[..., Any]) -> None:
        self.error: Exception | None = struct_error()
        self.sent = 0
        self.owner = made("video", self)
        if isinstance(self.owner, RTCRtpReceiver):
            self.owner._set_rtcp_ssrc(1)
            statistics: Any = type("Statistics", (), {"fraction_lost": 0, "packets_lost": 0, "max_seq": 0, "jitter": 0})
            self.owner._RTCRtpReceiver__remote_streams[7] = statistics  # type: ignore[attr-defined]
        self.prefix = f"_{type(self.owner).__name__}__"
        keep_reporting(self.owner)

    async def _send_rtp(self, data: bytes) -> None:
        assert is_rtcp(data)
        if self.error is not None:
            raise self.error
        self.sent += 1

    def _unregister_rtp_sender(self, sender: Any) -> None: ...
    def _unregister_rtp_receiver(self, receiver: Any) -> None: ...

    def start(self) -> None:
        started: Any = self.owner
        setattr(started, self.prefix + "started", True)
        setattr(started, self.prefix + "rtcp_task", asyncio.ensure_future(started._run_rtcp()))
        if isinstance(started, RTCRtpSender):
            task = asyncio.ensure_future(asyncio.sleep(0))
            setattr(started, self.prefix + "rtp_task", task)
            for name in ("rtp_started", "rtp_exited"):
                getattr(started, self.prefix + name).set()


def struct_error() -> Exception:
    return ValueError("more blocks than fit")


@pytest.mark.parametrize("made", [RTCRtpReceiver, RTCRtpSender])
async def test_a_report_that_fails_is_told_and_the_next_one_goes_out(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("random.random", lambda: -0.49)
    failing = Failing(made)
    failing.start()
    await eventually(lambda: caplog.records)
    failing.error = None
    await eventually(lambda: failing.sent)
    await asyncio.wait_for(failing.owner.stop(), PATIENCE)
    assert len([it for it in caplog.records if it.getMessage() == "RTCP report failed"]) == 1


@pytest.mark.parametrize("made", [RTCRtpReceiver, RTCRtpSender])
async def test_stopping_returns_although_reports_fail(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: -0.49)
    failing = Failing(made)
    failing.start()
    await asyncio.sleep(0)
    await asyncio.wait_for(failing.owner.stop(), PATIENCE)


# --- requests of our own


def packet(number: int) -> RtpPacket:
    return RtpPacket(sequence_number=number & 0xFFFF)


@pytest.mark.parametrize("numbers", [[0, 1, 5, 4, 300, 299, 310], [65_530, 3, 65_535, 2, 200], [9, 32_000, 10]])
def test_the_same_packets_are_missing(numbers: list[int]) -> None:
    ours, aiortcs = BoundedNacks(), NackGenerator()
    for number in numbers:
        assert ours.add(packet(number)) == aiortcs.add(packet(number))
        assert ours.missing == aiortcs.missing
        assert ours.max_seq == aiortcs.max_seq


def test_a_step_in_the_numbers_is_not_walked_through() -> None:
    nacks = BoundedNacks()
    nacks.add(packet(0))
    assert calls(lambda: nacks.add(packet(32_000))) < 2_000


# --- requests of others


async def test_packets_that_are_asked_for_a_thousand_times_come_once(room: Room) -> None:
    pair, track, sender, receiver = await flowing(room)
    link: Any = pair.to_b._connection.peer_connection  # type: ignore[union-attr]
    await frames(track, 5)
    stream = sender._next_encoded_frame
    number = stream._sequence_number - 1
    lost = [(number - step) & 0xFFFF for step in range(3)]
    request = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc)
    asked = 0
    again: list[int] = []
    retransmit = sender._retransmit

    async def note(wanted: int) -> None:
        again.append(wanted)
        await retransmit(wanted)

    sender._retransmit = note
    for _ in range(5):
        for _ in range(60):
            for one in lost:
                request.lost = [one]
                await receiver.transport._send_rtp(bytes(request))
                asked += 1
    (slot,) = [it for it in link._sending if it.transceiver.sender is sender]
    await eventually(lambda: slot.retransmissions.refused)
    await frames(track, 3)
    assert asked == 900
    assert len(again) == slot.retransmissions.sent < 100
    (outbound,) = pair.to_b.stats().outbound
    assert outbound.retransmissions == slot.retransmissions.sent
    assert outbound.retransmissions_refused == slot.retransmissions.refused


async def test_one_request_names_a_packet_once_whatever_is_in_it(room: Room) -> None:
    _, track, sender, _ = await flowing(room)
    await frames(track, 5)
    number = (sender._next_encoded_frame._sequence_number - 1) & 0xFFFF
    again: list[int] = []

    async def note(wanted: int) -> None:
        again.append(wanted)

    sender._retransmit = note
    request = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc)
    request.lost = [number] * 4_930
    await sender._handle_rtcp_packet(request)
    assert again == [number]
    request.lost = [*range(65_536)]
    await sender._handle_rtcp_packet(request)
    assert len(again) <= 1 + 128
    assert sender_stats(sender).packets > 0


async def test_late_sources_are_routed_with_their_retransmissions(pcs: list[RTCPeerConnection]) -> None:
    one, other = plain(pcs), make(pcs)
    one.addTrack(GreyTrack())
    await gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    await connect(other)
    description = SessionDescription.parse(one.localDescription.sdp)
    media = description.media[0]
    router = dtls_transport(other)._rtp_router
    (receiver,) = router.receivers
    for ssrc, rtx in ((1_001, 1_002), (1_003, 1_004)):
        media.ssrc[0].ssrc, media.ssrc[1].ssrc = ssrc, rtx
        media.ssrc_group[0].items = [ssrc, rtx]
        route_sources(other, description)
        assert router.ssrc_table[ssrc] is router.ssrc_table[rtx] is receiver
        inside: Any = receiver
        assert inside._RTCRtpReceiver__rtx_ssrc[rtx] == ssrc
    assert {1_001, 1_002}.isdisjoint(router.ssrc_table), "what is not described any more is forgotten"
    assert 1_002 not in inside._RTCRtpReceiver__rtx_ssrc


# --- sources that no description names


class Section:
    """What a gate needs of a receiver."""

    def __init__(self) -> None:
        self._RTCRtpReceiver__rtx_ssrc: dict[int, int] = {}


def gate_of_two_sections() -> tuple[SourceGate, Section, Section]:
    """Return a gate before two sections with the same payload types, `0` and `1`."""
    router, first, second = RtpRouter(), Section(), Section()
    for mid, section in (("0", first), ("1", second)):
        router.register_receiver(section, ssrcs=[], payload_types=[96, 97], mid=mid)  # type: ignore[arg-type]
    return SourceGate(router, lambda: 0.0), first, second


def from_source(source: int, payload_type: int = 96, **ids: str) -> RtpPacket:
    made = RtpPacket(ssrc=source, payload_type=payload_type)
    made.extensions = HeaderExtensions(**ids)
    return made


def test_a_source_that_no_description_names_is_routed_by_the_mid_in_its_first_packets() -> None:
    gate, first, second = gate_of_two_sections()
    assert gate(from_source(1)) is None, "both sections have its payload type"
    assert gate(from_source(1, mid="1")) is second
    assert gate(from_source(1)) is second
    assert gate(from_source(2, mid="0")) is first
    assert gate(from_source(2, mid="1")) is first, "a source stays in its section"
    assert gate(from_source(3, mid="7")) is None
    assert gate(from_source(4, payload_type=111, mid="0")) is None


def test_one_layer_of_simulcast_is_taken_with_its_retransmissions() -> None:
    gate, first, _ = gate_of_two_sections()
    section: Any = first
    gate.select_layer(section, "hi")
    assert gate(from_source(1, mid="0", rtp_stream_id="hi")) is first
    assert gate(from_source(2, mid="0", rtp_stream_id="lo")) is None
    assert gate(from_source(3, 97, mid="0", repaired_rtp_stream_id="hi")) is first
    assert gate(from_source(4, 97, mid="0", repaired_rtp_stream_id="lo")) is None
    assert section._RTCRtpReceiver__rtx_ssrc == {3: 1}
    assert [gate(from_source(source)) for source in (1, 2)] == [first, None]
    gate.select_layer(section, None)
    assert gate(from_source(2)) is first


def test_the_mid_of_a_packet_does_not_open_more_than_the_bounded_number_of_sources() -> None:
    gate, _, _ = gate_of_two_sections()
    for source in range(1_000):
        gate(from_source(source, mid="0"))
    assert gate.refused == 1_000 - MAX_SOURCES
