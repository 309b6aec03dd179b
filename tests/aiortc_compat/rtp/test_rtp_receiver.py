"""The insides of aiortc's receivers that this package touches: each test fails if a release moves them."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpRrPacket, RtcpRtpfbPacket, RtcpSenderInfo, RtcpSrPacket, RtpPacket

from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat import rtp_receiver as receivers
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.rtp_receiver import Tap, tap_receiver
from metered_realtime.aiortc_compat.transceivers import receiver_of
from tests.support.peers import GreyTrack, eventually

TOUCHED = {
    "__codecs": "test_pictures_are_released_promptly",
    "__decoder_queue": "test_encoded_frames_go_to_the_sink_and_no_decoder_is_left",
    "__jitter_buffer": "test_pictures_are_released_promptly",
    "__nack_generator": "test_packets_are_asked_for_again",
    "__remote_streams": "test_feedback_follows_a_report",
    "__timestamp_mapper": "test_timestamps_come_as_they_were_sent",
    "_data": "test_sound_comes_out_at_once",
    "_handle_rtcp_packet": "test_a_bye_is_ignored",
    "_handle_rtp_packet": "test_a_key_frame_is_asked_for_at_the_source",
    "_origin": "test_sound_comes_out_at_once",
    "_packets": "test_sound_comes_out_at_once",
    "_queue": "test_encoded_frames_go_to_the_sink_and_no_decoder_is_left",
    "_remove_frame": "test_pictures_are_released_promptly",
    "_send_rtcp": "test_feedback_follows_a_report",
    "_send_rtcp_nack": "test_packets_are_asked_for_again",
    "_send_rtcp_pli": "test_a_loss_is_told_to_the_sink_and_not_to_the_sender",
    "_track": "test_encoded_frames_go_to_the_sink_and_no_decoder_is_left",
}
"""Every private name of aiortc in aiortc_compat/rtp_receiver.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(receivers.__file__).read_text(), flags=re.DOTALL)
    names = set(re.findall(r"(?<!\bself)(?<!\bcompat)\.(_[a-zA-Z]\w*)", source))
    names |= {"__" + name for name in re.findall(r"{_RECEIVER}(\w+)", source)}
    assert names == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Notes:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.frames: list[tuple[Any, bytes, int]] = []
        self.reports: list[tuple[int, float, int]] = []
        self.losses = 0
        self.is_over = False

    def take(self, codec: Any, data: bytes, timestamp: int) -> None:
        self.frames.append((codec, data, timestamp))

    def skipped(self, frames: int) -> None:
        """Nothing is skipped while frames are wanted."""
        raise AssertionError(frames)

    def passed(self, codec: Any, timestamp: int) -> None:
        raise AssertionError(codec)

    def reported(self, source: int, clock: float, timestamp: int) -> None:
        self.reports.append((source, clock, timestamp))

    def picture_lost(self) -> None:
        self.losses += 1

    def ended(self) -> None:
        self.is_over = True

    @property
    def keys(self) -> int:
        """How many of the pictures are key frames of VP8."""
        return sum(data[0] & 1 == 0 for _, data, _ in self.frames)


class Tapped:
    """A bare sender, and a receiver that is tapped."""

    def __init__(self) -> None:
        self.one, self.other = RTCPeerConnection(), create_peer_connection()
        self.notes = Notes()
        self.receiver: Any = None
        self.tap: Tap
        self.threads = set(threading.enumerate())
        self.other.on("track", self._tap)

    def _tap(self, track: Any) -> None:
        self.receiver = receiver_of(self.other, track)
        self.tap = tap_receiver(self.receiver, self.notes)
        self.tap.set_wanted(True)

    async def connect(self) -> None:
        self.sender: Any = self.one.addTrack(GreyTrack(60))
        await gather_host_candidates(self.other)
        await self.one.setLocalDescription(await self.one.createOffer())
        await self.other.setRemoteDescription(self.one.localDescription)
        await self.other.setLocalDescription(await self.other.createAnswer())
        await self.one.setRemoteDescription(self.other.localDescription)
        await peer_connection.connect(self.other)

    async def flows(self, more: int = 3) -> None:
        """Return when some more frames have come."""
        wanted = len(self.notes.frames) + more
        await eventually(lambda: len(self.notes.frames) >= wanted)


@pytest.fixture
async def tapped() -> AsyncIterator[Tapped]:
    """A connection over which video flows, closed in the end."""
    tapped = Tapped()
    await tapped.connect()
    await tapped.flows()
    yield tapped
    await asyncio.gather(tapped.one.close(), tapped.other.close())


async def test_encoded_frames_go_to_the_sink_and_no_decoder_is_left(tapped: Tapped) -> None:
    codec, data, _ = tapped.notes.frames[0]
    assert (codec.mimeType, codec.clockRate) == ("video/VP8", 90_000)
    assert data[0] & 1 == 0, "the first one is a key frame"
    inside = tapped.receiver
    await eventually(lambda: not inside._RTCRtpReceiver__decoder_thread.is_alive())  # aiortc's decoder has ended
    assert not {it for it in threading.enumerate() if it.name == "video-decoder"} - tapped.threads
    assert inside.track._queue.__class__.__name__ == "_Nowhere", "nothing piles up in aiortc"
    assert inside._RTCRtpReceiver__decoder_queue.__class__.__name__ == "_EncodedTap"
    assert not tapped.notes.is_over
    await tapped.other.close()
    assert tapped.notes.is_over


async def test_the_end_of_the_transport_is_told(tapped: Tapped) -> None:
    await tapped.one.close()
    await eventually(lambda: tapped.notes.is_over)


async def test_timestamps_come_as_they_were_sent(tapped: Tapped) -> None:
    """aiortc counts from the first frame on; a sender begins at a random number."""
    stamps = [timestamp for _, _, timestamp in tapped.notes.frames]
    assert {(later - sooner) % (1 << 32) for sooner, later in itertools.pairwise(stamps)} == {4_500}
    assert stamps[0] != 0
    assert all(0 <= stamp < 1 << 32 for stamp in stamps)


async def test_pictures_are_released_promptly(tapped: Tapped) -> None:
    buffer = tapped.receiver._RTCRtpReceiver__jitter_buffer
    prompt = buffer._remove_frame.__self__
    assert prompt.__class__.__name__ == "PromptPictures"
    assert prompt._codecs is tapped.receiver._RTCRtpReceiver__codecs


async def test_packets_are_asked_for_again(tapped: Tapped) -> None:
    sent: list[Any] = []

    async def send(data: bytes) -> None:
        sent.extend(RtcpPacket.parse(data))

    tapped.receiver.transport._send_rtp = send
    tapped.receiver._RTCRtpReceiver__jitter_buffer._remove_frame.__self__._ask(77, [5, 7])
    await eventually(lambda: any(isinstance(it, RtcpRtpfbPacket) for it in sent))
    (request,) = (it for it in sent if isinstance(it, RtcpRtpfbPacket))
    assert (request.media_ssrc, request.lost) == (77, [5, 7])


def sound(buffer: JitterBuffer, numbers: list[int]) -> list[int]:
    """Put packets of sound into a buffer; return the numbers of those that come out, in order."""
    heard = []
    for number in numbers:
        packet = RtpPacket(sequence_number=number % (1 << 16), timestamp=number)
        packet._data = bytes([1])  # type: ignore[attr-defined]
        _, frame = buffer.add(packet)
        if frame is not None:
            heard += [each.timestamp for each in (frame, *frame.more)]  # type: ignore[attr-defined]
    return heard


def sound_buffer() -> JitterBuffer:
    buffer = JitterBuffer(capacity=16, prefetch=4)
    receivers._PromptSound(buffer)
    return buffer


def test_sound_comes_out_at_once() -> None:
    buffer = sound_buffer()
    for number in range(65_530, 65_545):  # across the wrap
        assert sound(buffer, [number]) == [number]


def test_sound_waits_a_little_for_what_is_late_and_no_longer() -> None:
    buffer = sound_buffer()
    assert sound(buffer, [1, 3, 4]) == [1]
    assert sound(buffer, [2]) == [2, 3, 4]
    assert sound(buffer, [6, 7, 8]) == []
    assert sound(buffer, [9]) == [6, 7, 8, 9]
    assert sound(buffer, [5, 10]) == [10], "too late"


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3])
def test_all_sound_that_arrives_in_time_is_heard_in_order(loss: float) -> None:
    chance = random.Random(7)
    arriving = [number for number in range(2_000) if chance.random() > loss]
    order = sorted(arriving, key=lambda number: number + chance.uniform(0, 1.5))  # neighbours change places
    buffer = sound_buffer()
    heard = sound(buffer, order)
    assert heard == sorted(heard)
    assert set(arriving[: -receivers.LATE_SOUND]) <= set(heard)


def test_sound_goes_on_after_a_long_silence() -> None:
    buffer = sound_buffer()
    assert sound(buffer, [1, 2]) == [1, 2]
    assert sound(buffer, list(range(500, 510)))[-1] == 509
    assert sound(buffer, [510]) == [510]


async def test_a_bye_is_ignored(tapped: Tapped) -> None:
    (ssrc,) = tapped.receiver._handle_rtp_packet.sources
    await tapped.receiver._handle_rtcp_packet(RtcpByePacket(sources=[ssrc]))
    await tapped.flows()
    assert not tapped.notes.is_over


async def test_other_rtcp_packets_still_reach_the_receiver(tapped: Tapped) -> None:
    info = RtcpSenderInfo(ntp_timestamp=1 << 32, rtp_timestamp=0, packet_count=0, octet_count=0)
    await tapped.receiver._handle_rtcp_packet(RtcpSrPacket(ssrc=7, sender_info=info))
    assert tapped.receiver._RTCRtpReceiver__lsr[7] == 1 << 16


async def test_reports_of_the_source_that_sends_media_go_to_the_sink(tapped: Tapped) -> None:
    """Also aiortc's own, which says when it has sent its last picture."""
    await eventually(lambda: tapped.notes.reports)
    source, clock, timestamp = tapped.notes.reports[0]
    assert [source] == list(tapped.receiver._handle_rtp_packet.sources)
    assert timestamp in {it for _, _, it in tapped.notes.frames}
    assert clock - 2_208_988_800 == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(("ssrc", "clock", "is_told"), [(None, 1, True), (None, (1 << 64) - 1, True),
                                                        (None, 0, False), (7, 1, False)])  # fmt: skip
async def test_of_other_sources_and_without_a_time_they_say_nothing(
    tapped: Tapped, ssrc: int | None, clock: int, is_told: bool
) -> None:
    (source,) = tapped.receiver._handle_rtp_packet.sources
    told = RtcpSenderInfo(ntp_timestamp=clock, rtp_timestamp=77, packet_count=0, octet_count=0)
    tapped.notes.reports.clear()
    await tapped.receiver._handle_rtcp_packet(RtcpSrPacket(ssrc=ssrc or source, sender_info=told))
    assert [it for it in tapped.notes.reports if it[2] == 77] == [(source, clock / (1 << 32), 77)] * is_told


async def test_a_key_frame_is_asked_for_at_the_source(tapped: Tapped) -> None:
    await tapped.flows(5)
    assert tapped.notes.keys == 1
    assert tapped.tap.request_key_frame()
    await eventually(lambda: tapped.notes.keys == 2)


async def test_a_loss_is_told_to_the_sink_and_not_to_the_sender(tapped: Tapped) -> None:
    """A leap in the sequence numbers makes aiortc's jitter buffer give up what it holds, and send a PLI."""
    (ssrc,) = tapped.receiver._handle_rtp_packet.sources
    packet = RtpPacket(payload_type=97, ssrc=ssrc)
    packet.sequence_number = (tapped.receiver._RTCRtpReceiver__jitter_buffer._origin - 5_000) % (1 << 16)
    packet.payload = b"\x10\x00"
    assert tapped.notes.losses == 0
    await tapped.receiver._handle_rtp_packet(packet, arrival_time_ms=0)
    assert tapped.notes.losses == 1
    await tapped.flows(1)
    keys = tapped.notes.keys
    await asyncio.sleep(0.3)
    assert tapped.notes.keys == keys == 1


async def test_before_the_first_packet_there_is_nobody_to_ask() -> None:
    one, other = RTCPeerConnection(), RTCPeerConnection()
    one.addTrack(GreyTrack())
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    (receiver,) = other.getReceivers()
    assert not tap_receiver(receiver, Notes()).request_key_frame()
    await asyncio.gather(one.close(), other.close())


async def test_feedback_follows_a_report(tapped: Tapped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it would have to be negotiated (RFC 5506), and Janus drops it."""
    await tapped.flows()
    (source,) = tapped.receiver._handle_rtp_packet.sources
    sent: list[bytes] = []

    async def note(data: bytes) -> None:
        sent.append(data)

    monkeypatch.setattr(tapped.receiver.transport, "_send_rtp", note)
    await tapped.receiver._send_rtcp_nack(source, [7])
    report, feedback = RtcpPacket.parse(sent[-1])
    assert isinstance(report, RtcpRrPacket)
    assert [block.ssrc for block in report.reports] == [source]
    assert isinstance(feedback, RtcpRtpfbPacket)
    assert (feedback.media_ssrc, feedback.lost) == (source, [7])
