"""Tracks on their way: one reader for many receivers, bounded queues, timestamps that rise whatever the source does."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from aiortc.codecs import get_encoder
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import VideoFrame

from metered_realtime import NoopLogger
from metered_realtime.media.fanout import MAX_WAITING_AUDIO, MAX_WAITING_VIDEO, ForwardTrack, TrackFanout
from metered_realtime.media.pcm import pcm_frame
from metered_realtime.media.remote_track import RemoteTrack
from metered_realtime.media.steady_encoder import MAX_LEAP, SteadyEncoder
from tests.mesh.support import GreyTrack, eventually

VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=96)
OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=111)


class Source(MediaStreamTrack):
    """Hands out what is put into it."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.waiting = 0

    async def recv(self) -> Any:
        self.waiting += 1
        try:
            item = await self.queue.get()
        finally:
            self.waiting -= 1
        if isinstance(item, Exception):
            raise item
        return item


class Notes(NoopLogger):
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(msg)

    error = debug = warning


async def test_a_source_is_read_once_for_all_who_read() -> None:
    source = Source()
    fanout = TrackFanout(source, NoopLogger())
    forwards = [ForwardTrack("video") for _ in range(3)]
    for forward in forwards:
        forward.switch(fanout)
    await asyncio.sleep(0)
    assert source.waiting == 0, "nothing is pulled before somebody reads"
    reads = [asyncio.ensure_future(forward.recv()) for forward in forwards]
    await eventually(lambda: source.waiting)
    source.queue.put_nowait("frame")
    assert await asyncio.gather(*reads) == ["frame"] * 3
    assert source.waiting <= 1
    for forward in forwards:
        forward.stop()
    await eventually(lambda: source.waiting == 0)
    await fanout.close()


async def test_a_switch_takes_effect_with_the_next_frame() -> None:
    sources = Source(), Source()
    fanouts = [TrackFanout(source, NoopLogger()) for source in sources]
    forward = ForwardTrack("video")
    forward.switch(fanouts[0])
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: sources[0].waiting)
    sources[0].queue.put_nowait("old")
    assert await read == "old"
    sources[0].queue.put_nowait("old, too late")
    await eventually(lambda: len(forward._frames) == 1)
    forward.switch(fanouts[1])
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: sources[1].waiting)
    assert sources[0].waiting == 0
    sources[1].queue.put_nowait("new")
    assert await read == "new"
    forward.switch(None)
    read = asyncio.ensure_future(forward.recv())
    await asyncio.sleep(0)
    forward.stop()
    with pytest.raises(MediaStreamError):
        await read
    with pytest.raises(MediaStreamError):
        await forward.recv()
    for fanout in fanouts:
        await fanout.close()


@pytest.mark.parametrize(("kind", "bound"), [("video", MAX_WAITING_VIDEO), ("audio", MAX_WAITING_AUDIO)])
async def test_a_slow_encoder_gets_the_newest(kind: str, bound: int) -> None:
    forward = ForwardTrack(kind)
    for number in range(bound + 3):
        forward._feed(number)
    assert forward.frames_dropped == 3
    assert [await forward.recv() for _ in range(bound)] == list(range(3, bound + 3))


@pytest.mark.parametrize(("error", "line"), [(MediaStreamError(), "ended"), (RuntimeError("x"), "failed")])
async def test_a_source_that_ends_falls_silent_and_is_logged(error: Exception, line: str) -> None:
    source, notes = Source(), Notes()
    fanout = TrackFanout(source, notes)
    forward = ForwardTrack("video")
    forward.switch(fanout)
    source.queue.put_nowait(error)
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: notes.lines)
    assert notes.lines == [f"local track {line}"]
    assert not read.done()
    assert forward.readyState == "live"
    forward.stop()
    await asyncio.gather(read, return_exceptions=True)
    await fanout.close()


@pytest.mark.parametrize(("kind", "bound"), [("video", 4), ("audio", 50)])
async def test_what_a_remote_sends_is_bounded_and_counted(kind: str, bound: int) -> None:
    track = RemoteTrack(kind, "t")
    for number in range(bound + 2):
        track.feed(number)
    assert (track.id, track.frames_received, track.frames_dropped) == ("t", bound + 2, 2)
    track.stop()
    track.feed("late")
    assert [await track.recv() for _ in range(bound)] == list(range(2, bound + 2))
    with pytest.raises(MediaStreamError):
        await track.recv()


async def test_readers_share_the_frames_and_all_end() -> None:
    track = RemoteTrack("video", "t")
    readers = [asyncio.ensure_future(track.recv()) for _ in range(4)]
    await asyncio.sleep(0)
    track.feed(1)
    track.feed(2)
    readers[3].cancel()
    await asyncio.wait(readers, timeout=0.1)
    track.stop()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert results[:2] == [1, 2]
    assert isinstance(results[2], MediaStreamError)
    assert isinstance(results[3], asyncio.CancelledError)


async def test_cancelling_a_reader_loses_no_frame() -> None:
    track = RemoteTrack("video", "t")
    first, second = asyncio.ensure_future(track.recv()), asyncio.ensure_future(track.recv())
    await asyncio.sleep(0)
    track.feed(1)
    first.cancel()
    assert await asyncio.wait_for(second, 1) == 1
    with pytest.raises(asyncio.CancelledError):
        await first


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def picture(seconds: float, level: int = 128) -> VideoFrame:
    track = GreyTrack(level)
    frame = VideoFrame(160, 120, "yuv420p")
    for plane, value in zip(frame.planes, (track.level, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.pts, frame.time_base = round(seconds * 90_000), Fraction(1, 90_000)
    return frame


def is_key_frame(payloads: list[bytes]) -> bool:
    """Tell from the first byte after aiortc's VP8 descriptor of four bytes (RFC 7741 section 4.3)."""
    return bool(payloads) and payloads[0][4] & 1 == 0


class Steady:
    """A steady encoder at the hand of a clock."""

    def __init__(self, codec: RTCRtpCodecParameters = VP8) -> None:
        self.clock, self.notes, self.made = Clock(), Notes(), 0
        self.codec = codec
        self.encoder = SteadyEncoder(self.make, codec.clockRate, self.notes, self.clock)

    def make(self) -> Any:
        self.made += 1
        return get_encoder(self.codec)

    def send(self, unit: Any, after: float) -> tuple[list[bytes], int]:
        self.clock.now += after
        return self.encoder.encode(unit)


def test_one_source_is_encoded_by_one_encoder_under_its_own_times() -> None:
    steady = Steady()
    stamps = [steady.send(picture(5 + n / 20), 0.05)[1] for n in range(5)]
    assert stamps == [450_000 + n * 4_500 for n in range(5)]
    assert steady.made == 1


@pytest.mark.parametrize("start", [0.0, 4.9, 1_000.0])
def test_another_source_goes_on_where_the_last_one_was_with_a_key_frame(start: float) -> None:
    steady = Steady()
    for n in range(3):
        _, last = steady.send(picture(5 + n / 20), 0.05)
    payloads, stamp = steady.send(picture(start), 0.2)
    assert stamp == last + 18_000, "the time that has passed"
    assert is_key_frame(payloads)
    payloads, stamp = steady.send(picture(start + 0.05), 0.05)
    assert stamp == last + 22_500
    assert not is_key_frame(payloads)
    assert (steady.made, steady.encoder.frames_failed) == (2, 0)


def test_a_pause_is_not_another_source() -> None:
    steady = Steady()
    steady.send(picture(0), 0)
    _, stamp = steady.send(picture(10), 10)
    assert (stamp, steady.made) == (900_000, 1)
    _, stamp = steady.send(picture(10.05), 60)
    assert (stamp, steady.made) == (904_500, 1)
    steady.send(picture(10.05 + MAX_LEAP), 0.1)
    assert steady.made == 1


def test_sound_goes_on_as_well() -> None:
    steady = Steady(OPUS)
    stamps = [steady.send(pcm_frame(bytes(3_840), n * 960), 0.02)[1] for n in range(4)]
    _, stamp = steady.send(pcm_frame(bytes(3_840), 0), 0.02)
    assert stamp == stamps[-1] + 960
    assert steady.made == 2


def test_a_frame_that_cannot_be_encoded_is_left_out_and_logged_once() -> None:
    steady = Steady()
    steady.send(picture(0), 0)
    timeless = picture(1)
    timeless.pts = None
    for _ in range(3):
        assert steady.send(timeless, 0.05) == ([], 0)
    assert (steady.encoder.frames_failed, steady.notes.lines) == (3, ["frames cannot be sent"])
    payloads, stamp = steady.send(picture(0.2), 0.05)
    assert is_key_frame(payloads)
    assert stamp == 18_000
    steady.send(timeless, 0)
    assert len(steady.notes.lines) == 2


def test_the_bit_rate_survives_a_change_of_the_source() -> None:
    steady = Steady()
    steady.send(picture(5), 0)
    assert hasattr(steady.encoder, "target_bitrate")
    steady.encoder.target_bitrate = 700_000
    assert steady.encoder.target_bitrate == 700_000
    steady.send(picture(0), 0.1)
    assert steady.encoder._encoder.target_bitrate == 700_000
