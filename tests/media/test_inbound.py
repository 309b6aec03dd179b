"""Frames, samples and arrays of a track, read to its end."""

from __future__ import annotations

import array
import asyncio
import sys
from contextlib import aclosing
from fractions import Fraction
from typing import Any

import numpy
import pytest
from av import AudioFrame

from metered_realtime.media.codecs.pcm import pcm_frame, s16_frame
from metered_realtime.media.codecs.pcm_chunks import MAX_SILENCE
from metered_realtime.media.receiving.inbound import MAX_CHUNK, iter_frames, iter_pcm, track_to_numpy
from metered_realtime.media.sources.testsource import PatternTrack
from tests.support.coding import Remote, picture, pictures, sound

pytestmark = pytest.mark.usefixtures("no_task_left")


async def test_frames_come_in_order_until_the_track_ends(feed_track: Any) -> None:
    track = feed_track("audio")
    for item in ("a", "b", None):
        track.feed.put_nowait(item)
    assert [frame async for frame in iter_frames(track)] == ["a", "b"]


async def test_leaving_the_loop_does_not_stop_the_track() -> None:
    track = PatternTrack(width=64, height=64)
    async with aclosing(iter_frames(track)) as frames:  # type: ignore[type-var]
        async for _ in frames:
            break
    assert track.readyState == "live"
    assert (await track.recv()).pts == 3000
    track.stop()


async def test_cancelling_the_reader_does_not_stop_the_track(feed_track: Any) -> None:
    track = feed_track("video")
    reader = asyncio.ensure_future(anext(iter_frames(track)))
    await asyncio.wait({reader}, timeout=0.01)
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    assert track.readyState == "live"


async def test_errors_other_than_the_end_come_through() -> None:
    class Broken:
        async def recv(self) -> Any:
            raise OSError("camera unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await anext(iter_frames(Broken()))


async def test_each_iteration_reads_a_remote_track_for_itself() -> None:
    remote, frames = Remote(), pictures(4)
    iterations = [iter_frames(remote.track) for _ in range(2)]
    for frame in frames:
        reads = [asyncio.ensure_future(anext(each)) for each in iterations]
        await asyncio.sleep(0)
        await remote.send(frame)
        assert [it.pts for it in await asyncio.gather(*reads)] == [frame.timestamp] * 2
    assert remote.track.frames_decoded == 4
    remote.track.stop()
    assert [frame for each in iterations for frame in [it async for it in each]] == []


async def test_leaving_the_loop_takes_the_reader_along() -> None:
    remote = Remote("audio")
    async with aclosing(iter_frames(remote.track)) as frames:  # type: ignore[type-var]
        read = asyncio.ensure_future(anext(frames))
        await asyncio.sleep(0)
        await remote.send(*sound(3))
        await read
        assert remote.track.queue_length == 2
    assert (remote.track.queue_length, remote.track.readyState) == (0, "live")
    remote.track.stop()


# --- samples for speech models


def tone(samples: int, start: int, level: int = 1_000) -> AudioFrame:
    """Return 48 kHz stereo of one level."""
    return pcm_frame(array.array("h", [level] * (2 * samples)).tobytes(), start)


async def pcm_of(feed_track: Any, *frames: AudioFrame, **options: Any) -> list[bytes]:
    track = feed_track("audio")
    for frame in (*frames, None):
        track.feed.put_nowait(frame)
    return [chunk async for chunk in iter_pcm(track, **options)]


def levels(chunks: list[bytes]) -> list[int]:
    """Return the sample in the middle of each chunk."""
    return [array.array("h", chunk)[len(chunk) // 4] for chunk in chunks]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 640),
        ({"rate": 48_000, "channels": 2}, 3_840),
        ({"rate": 8_000, "chunk": 0.03}, 480),
        ({"chunk": 1}, 32_000),
    ],
)
async def test_sound_comes_in_chunks_of_one_length(feed_track: Any, options: dict[str, Any], size: int) -> None:
    chunks = await pcm_of(feed_track, *(tone(960, n * 960) for n in range(100)), **options)
    assert {len(chunk) for chunk in chunks} == {size}
    channels, rate = options.get("channels", 1), options.get("rate", 16_000)
    seconds = sum(map(len, chunks)) / 2 / channels / rate
    assert 2 <= seconds <= 2 + options.get("chunk", 0.02)
    assert all(abs(level - 1_000) < 5 for level in levels(chunks)[:-2])


@pytest.mark.parametrize("gap", [0.02, 0.4, MAX_SILENCE])
async def test_a_gap_becomes_silence(feed_track: Any, gap: float) -> None:
    lost = round(gap * 50)
    frames = [tone(960, n * 960) for n in (*range(10), *range(10 + lost, 20 + lost))]
    chunks = await pcm_of(feed_track, *frames)
    assert len(chunks) in (20 + lost, 21 + lost)
    silent = [number for number, level in enumerate(levels(chunks)[: 20 + lost]) if level == 0]
    assert silent == list(range(10, 10 + lost))


async def test_a_longer_gap_and_a_step_back_are_left_out(feed_track: Any) -> None:
    away = round((MAX_SILENCE + 0.1) * 50)
    frames = [tone(960, n * 960) for n in (*range(10), *range(10 + away, 20 + away), *range(5))]
    chunks = await pcm_of(feed_track, *frames)
    assert len(chunks) in (25, 26)
    assert 0 not in levels(chunks)[:25]


async def test_rounded_timestamps_leave_no_holes(feed_track: Any) -> None:
    frames = []
    for number in range(50):
        frame = s16_frame(array.array("h", [500] * 441).tobytes(), 22_050, "mono")
        frame.pts, frame.time_base = number * 20 + number % 2, Fraction(1, 1_000)
        frames.append(frame)
    chunks = await pcm_of(feed_track, *frames)
    assert len(chunks) in (50, 51)
    assert all(abs(level - 500) < 5 for level in levels(chunks)[:-2])


async def test_frames_without_timestamps_follow_each_other(feed_track: Any) -> None:
    frames = [tone(960, 0) for _ in range(10)]
    for frame in frames:
        frame.pts = None
    assert len(await pcm_of(feed_track, *frames)) in (10, 11)


async def test_the_last_chunk_is_filled_up(feed_track: Any) -> None:
    (chunk,) = await pcm_of(feed_track, tone(960, 0), chunk=0.5, rate=48_000)
    assert len(chunk) == 48_000
    assert array.array("h", chunk)[959:961].tolist() == [1_000, 0]


async def test_a_remote_track_is_heard_with_its_losses() -> None:
    remote, packets = Remote("audio"), sound(30)
    chunks = iter_pcm(remote.track)
    read = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    await remote.send(*packets[:10], *packets[20:])
    first = await read
    remote.track.stop()
    rest = [chunk async for chunk in chunks]
    assert len(first) == 640
    assert len(rest) + 1 in (30, 31)


@pytest.mark.parametrize(
    ("error", "text", "options"),
    [
        (ValueError, "rate must be from 4000 to 192000, not 0", {"rate": 0}),
        (TypeError, "rate must be a number, not 16000.0", {"rate": 16_000.0}),
        (TypeError, "rate must be a number, not True", {"rate": True}),
        (ValueError, "channels must be from 1 to 2, not 6", {"channels": 6}),
        (ValueError, "chunk must be from .* not 0", {"chunk": 0}),
        (ValueError, "chunk must be from .* not nan", {"chunk": float("nan")}),
        (ValueError, "chunk must be from .* not 11", {"chunk": MAX_CHUNK + 1}),
        (TypeError, "chunk must be a number, not '20ms'", {"chunk": "20ms"}),
    ],
)
async def test_bad_arguments_are_refused_at_once(feed_track: Any, error: type, text: str, options: Any) -> None:
    with pytest.raises(error, match=text):
        iter_pcm(feed_track("audio"), **options)


async def test_tracks_of_another_kind_are_refused_at_once(feed_track: Any) -> None:
    with pytest.raises(TypeError, match="iter_pcm takes audio tracks, not <"):
        iter_pcm(feed_track("video"))
    with pytest.raises(TypeError, match="track_to_numpy takes audio and video tracks, not 'x'"):
        track_to_numpy("x")


# --- arrays


async def arrays_of(feed_track: Any, frame: Any, *format: str) -> list[Any]:
    track = feed_track("audio" if isinstance(frame, AudioFrame) else "video")
    for item in (frame, None):
        track.feed.put_nowait(item)
    return [array async for array in track_to_numpy(track, *format)]


@pytest.mark.parametrize(
    ("format", "shape"), [((), (48, 64, 3)), (("bgr24",), (48, 64, 3)), (("rgba",), (48, 64, 4)), (("gray",), (48, 64))]
)
async def test_pictures_become_arrays(feed_track: Any, format: tuple[str, ...], shape: tuple[int, ...]) -> None:
    (array,) = await arrays_of(feed_track, picture(0, 200), *format)
    assert (array.shape, array.dtype) == (shape, numpy.uint8)
    assert abs(int(array[20, 20].flat[0]) - 200) < 20
    array[:] = 0  # the array belongs to the caller


@pytest.mark.parametrize(
    ("format", "kind", "level"), [((), numpy.int16, 1_000), (("flt",), numpy.float32, 1_000 / 32_768)]
)
async def test_sound_becomes_arrays(feed_track: Any, format: tuple[str, ...], kind: Any, level: float) -> None:
    (array,) = await arrays_of(feed_track, tone(960, 0), *format)
    assert (array.shape, array.dtype) == ((960, 2), kind)
    assert numpy.allclose(array, level)


async def test_planar_sound_becomes_arrays(feed_track: Any) -> None:
    rows = numpy.array([[0.5] * 100, [-0.5] * 100], dtype=numpy.float32)
    frame = AudioFrame.from_ndarray(rows, format="fltp", layout="stereo")
    frame.sample_rate = 48_000
    (array,) = await arrays_of(feed_track, frame)
    assert array[7].tolist() == [16_384, -16_384]


@pytest.mark.parametrize(("kind", "format"), [("video", "s16"), ("audio", "rgb24")])
async def test_formats_of_another_kind_are_refused(feed_track: Any, kind: str, format: str) -> None:
    with pytest.raises(ValueError, match=f"a format of {kind} is one of .*, not '{format}'"):
        track_to_numpy(feed_track(kind), format)


async def test_without_numpy_it_says_what_to_install(feed_track: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match=r"\[numpy\]"):
        track_to_numpy(feed_track("video"))
