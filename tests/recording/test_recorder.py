"""Recorded tracks can be played, with everything in its place in time."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Awaitable, Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from metered_realtime.media.codecs.pcm import pcm_frame
from metered_realtime.media.sources.pattern import Pattern, read_counter
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.recording import track_recorder as recorder_module
from metered_realtime.recording.parts import VideoPart
from metered_realtime.recording.recorder import Recorder
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

pytestmark = pytest.mark.usefixtures("no_task_left")


def sound(value: int, samples: int, pts: int) -> av.AudioFrame:
    return pcm_frame(array("h", [value]).tobytes() * 2 * samples, pts)


def video_frame(pattern: Pattern, number: int, seconds: float) -> av.VideoFrame:
    frame = pattern.frame(number)
    frame.pts, frame.time_base = round(seconds * 90000), Fraction(1, 90000)
    return frame


def pictures(path: Path, stream: int = 0) -> list[tuple[float, av.VideoFrame]]:
    with av.open(str(path)) as container:
        return [(float(frame.time), frame) for frame in container.decode(video=stream)]


def levels(path: Path) -> list[tuple[float, float]]:
    """Return the loudness of the file's sound, from 0 to 1, in steps of 20 ms with their times."""
    steps = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            left = array("f", bytes(frame.planes[0])[: 4 * frame.samples])
            steps.append((float(frame.time), max(map(abs, left))))
    return steps


def watched(track: Any, times: list[float] | None = None) -> Callable[[int], Awaitable[None]]:
    """Return a function that waits for a number of further frames of the track. Their times are added to `times`."""
    receive, read = track.recv, asyncio.Queue[None]()

    async def recv() -> Any:
        frame = await receive()
        read.put_nowait(None)
        if times is not None:
            times.append(frame.time)
        return frame

    async def taken(count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            for _ in range(count):
                await read.get()

    track.recv = recv
    return taken


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
async def test_sound_and_pictures_can_be_played_again(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"call.{extension}"
    audio, video = ToneTrack(), PatternTrack(width=128, height=96, fps=25)
    heard_at, shown_at = list[float](), list[float]()
    taken = watched(video, shown_at)
    watched(audio, heard_at)
    async with Recorder(path) as recorder:
        recorder.add_track(audio)
        recorder.add_track(video)
        await taken(15)
    assert (audio.readyState, video.readyState) == ("live", "live")
    assert names(tmp_path) == [path.name]
    shown = pictures(path)
    assert [read_counter(frame) for _, frame in shown] == list(range(len(shown)))
    assert len(shown) == recorder.frames_written["video"] >= 15
    for (at, _), given in zip(shown, shown_at, strict=False):
        assert at - shown[0][0] == pytest.approx(given - shown_at[0], abs=0.002)
    heard = levels(path)
    assert max(level for _, level in heard[:2]) > 0.5  # the click at the tone's second 0
    last_heard_at = heard_at[recorder.frames_written["audio"] - 1]
    assert heard[-1][0] - heard[0][0] == pytest.approx(last_heard_at - heard_at[0] + 0.02, abs=0.06)
    assert 0 <= heard[0][0] <= recorder.stats().seconds
    assert recorder.frames_dropped == {"audio": 0, "video": 0}
    stats = recorder.stats()
    assert stats.tracks == 2
    assert stats.frames_waiting == 0
    assert stats.bytes_written == path.stat().st_size
    assert stats.errors == ()


async def test_a_track_that_starts_late_stays_late(tmp_path: Path) -> None:
    path = tmp_path / "call.mp4"
    early, late = PatternTrack(width=128, height=96, fps=25), PatternTrack(width=64, height=64, fps=25)
    early_taken, late_taken = watched(early), watched(late)
    recorder = Recorder(path)
    recorder.add_track(early)
    await recorder.start()
    await early_taken(1)
    begun = recorder.stats().seconds
    await early_taken(12)
    added = recorder.stats().seconds
    recorder.add_track(late)
    await late_taken(1)
    joined = recorder.stats().seconds
    await late_taken(7)
    await recorder.close()
    first, second = pictures(path, 0), pictures(path, 1)
    assert first[0][0] <= begun + 0.01
    assert len(second) >= 8
    assert added - 0.01 <= second[0][0] <= joined + 0.01
    assert [read_counter(frame) for _, frame in second] == list(range(len(second)))


async def test_a_gap_in_the_sound_is_silence_of_the_same_length(tmp_path: Path, feed_track: Any) -> None:
    path, track = tmp_path / "call.mkv", feed_track("audio")
    async with Recorder(path) as recorder:
        recorder.add_track(track)
        for start in (*range(10), *range(50, 60)):
            track.feed.put_nowait(sound(12000 if start % 2 else -12000, 960, start * 960))
        track.feed.put_nowait(None)
        await asyncio.wait_for(recorder.wait_ended(), PATIENCE)
    heard = levels(path)
    begin = heard[0][0]
    assert max(level for at, level in heard if 0.3 < at - begin < 0.9) < 0.02
    assert min(level for at, level in heard if 1.05 < at - begin < 1.15) > 0.1
    assert heard[-1][0] - begin == pytest.approx(1.2, abs=0.06)


async def test_timestamps_that_jump_are_anchored_on_arrival(tmp_path: Path, feed_track: Any) -> None:
    path, track, pattern = tmp_path / "call.mp4", feed_track("video"), Pattern(64, 64)
    taken = watched(track)
    async with Recorder(path) as recorder:
        recorder.add_track(track)
        track.feed.put_nowait(video_frame(pattern, 0, 5000.0))
        await taken(1)
        track.feed.put_nowait(video_frame(pattern, 1, 12.0))  # the sender has restarted
        await taken(1)
        track.feed.put_nowait(video_frame(pattern, 2, 12.5))
        await taken(1)
        seconds = recorder.stats().seconds
    shown = pictures(path)
    times = [at for at, _ in shown]
    assert [read_counter(frame) for _, frame in shown] == [0, 1, 2]
    assert 0 <= times[0] < times[1] <= seconds
    assert times[2] - times[1] == pytest.approx(0.5, abs=0.002)


async def test_pictures_of_another_size_are_fitted_into_the_first(tmp_path: Path, feed_track: Any) -> None:
    path, track = tmp_path / "call.mp4", feed_track("video")
    shapes = [(320, 240), (640, 480), (120, 480), (320, 240)]
    async with Recorder(path) as recorder:
        recorder.add_track(track)
        for number, shape in enumerate(shapes):
            track.feed.put_nowait(video_frame(Pattern(*shape), number, number / 10))
        track.feed.put_nowait(None)
        await recorder.wait_ended()
    shown = [frame for _, frame in pictures(path)]
    assert {(frame.width, frame.height) for frame in shown} == {(320, 240)}
    assert [read_counter(shown[index]) for index in (0, 1, 3)] == [0, 1, 3]
    luma, line = bytes(shown[2].planes[0]), shown[2].planes[0].line_size
    middle = luma[60 * line : 60 * line + 320]
    assert max(middle[:120]) < 30  # black bars beside the upright picture
    assert max(middle[135:185]) > 100


async def test_odd_sizes_and_other_pixel_formats_can_be_recorded(tmp_path: Path, feed_track: Any) -> None:
    path, track = tmp_path / "call.mp4", feed_track("video")
    async with Recorder(path) as recorder:
        recorder.add_track(track)
        frame = video_frame(Pattern(320, 240), 7, 0).reformat(width=161, height=121, format="rgb24")
        track.feed.put_nowait(frame)
        track.feed.put_nowait(None)
        await recorder.wait_ended()
    [(_, shown)] = pictures(path)
    assert (shown.width, shown.height, read_counter(shown)) == (160, 120, 7)


async def test_frames_are_not_changed(tmp_path: Path, feed_track: Any) -> None:
    audio, video = feed_track("audio"), feed_track("video")
    said, shown = sound(5, 960, 123456), video_frame(Pattern(64, 64), 1, 77.0)
    shown.pict_type = 1
    before = bytes(shown.planes[0])
    async with Recorder(tmp_path / "call.mp4") as recorder:
        recorder.add_track(audio)
        recorder.add_track(video)
        audio.feed.put_nowait(said)
        video.feed.put_nowait(shown)
        audio.feed.put_nowait(None)
        video.feed.put_nowait(None)
        await recorder.wait_ended()
    assert (said.pts, shown.pts, int(shown.pict_type)) == (123456, 77 * 90000, 1)
    assert bytes(shown.planes[0]) == before


async def test_a_slow_encoder_costs_frames_and_never_the_event_loop(
    tmp_path: Path, feed_track: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = threading.Event(), VideoPart.write

    def stuck(self: VideoPart, frame: av.VideoFrame, at: float) -> None:
        assert go_on.wait(PATIENCE)
        write(self, frame, at)

    monkeypatch.setattr(VideoPart, "write", stuck)
    monkeypatch.setitem(recorder_module.MAX_WAITING, "video", 4)
    track, pattern = feed_track("video"), Pattern(64, 64)
    async with Recorder(tmp_path / "call.mp4") as recorder:
        recorder.add_track(track)
        for number in range(10):
            track.feed.put_nowait(video_frame(pattern, number, number / 25))
        track.feed.put_nowait(None)
        await asyncio.wait_for(recorder.wait_ended(), PATIENCE)
        assert recorder.stats().frames_waiting == 4
        assert recorder.frames_dropped["video"] == 6
        go_on.set()
    assert [read_counter(frame) for _, frame in pictures(recorder.path)] == [0, 1, 2, 3]


async def test_close_gives_up_frames_that_wait_too_long(
    tmp_path: Path, feed_track: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only writing moves the clock: 0.1 s per frame. The first frame is being written when the recorder is closed."""
    write, clock, is_closing = VideoPart.write, [0.0], threading.Event()

    def slow(self: VideoPart, frame: av.VideoFrame, at: float) -> None:
        assert is_closing.wait(PATIENCE)
        clock[0] += 0.1
        write(self, frame, at)

    monkeypatch.setattr(VideoPart, "write", slow)
    monkeypatch.setattr(recorder_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(recorder_module, "DRAIN_TIMEOUT", 0.25)
    track, pattern = feed_track("video"), Pattern(64, 64)
    recorder = Recorder(tmp_path / "call.mp4")
    recorder.add_track(track)
    for number in range(30):
        track.feed.put_nowait(video_frame(pattern, number, number / 25))
    track.feed.put_nowait(None)
    await recorder.start()
    await recorder.wait_ended()
    closing = asyncio.ensure_future(recorder.close())
    await eventually(lambda: recorder._encoded._closing)
    is_closing.set()
    await closing
    assert (recorder.frames_written["video"], recorder.frames_dropped["video"]) == (3, 27)
    assert len(pictures(recorder.path)) == 3


async def test_close_is_idempotent_and_every_call_waits_for_the_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "call.mp4")
    track = ToneTrack()
    taken = watched(track)
    recorder.add_track(track)
    await recorder.start()
    await recorder.start()
    await taken(5)
    await asyncio.gather(recorder.close(), recorder.close())
    size = recorder.path.stat().st_size
    await recorder.close()
    assert recorder.path.stat().st_size == size
    with pytest.raises(RuntimeError, match="closed"):
        recorder.add_track(ToneTrack())
    with pytest.raises(RuntimeError, match="closed"):
        await recorder.start()


async def test_cancelling_close_does_not_stop_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "call.mp4")
    track = ToneTrack()
    taken = watched(track)
    recorder.add_track(track)
    await recorder.start()
    await taken(5)
    closing = asyncio.create_task(recorder.close())
    await asyncio.wait({closing}, timeout=0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await recorder.close()
    assert levels(recorder.path)


async def test_a_track_that_fails_does_not_affect_others(tmp_path: Path, feed_track: Any) -> None:
    good, bad = ToneTrack(), feed_track("video")
    bad.feed.put_nowait("not a frame")
    taken = watched(good)
    async with Recorder(tmp_path / "call.mp4") as recorder:
        recorder.add_track(good)
        recorder.add_track(bad)
        await taken(5)
    [error] = recorder.stats().errors
    assert "'not a frame'" in error
    assert len(levels(recorder.path)) >= 4


async def test_without_frames_there_is_no_file_and_a_warning(tmp_path: Path, feed_track: Any) -> None:
    warnings: list[str] = []

    class Log:
        def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
        def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
        def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
        def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
            warnings.append(msg)

    async with Recorder(tmp_path / "call.mp4", logger=Log()) as recorder:
        recorder.add_track(feed_track("video"))
    assert not names(tmp_path)
    assert len(warnings) == 1
    await Recorder(tmp_path / "never-started.mp4").close()


async def test_a_file_that_cannot_be_finished_leaves_its_parts(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder_module, "join", full)
    recorder = Recorder(tmp_path / "call.mp4")
    track = ToneTrack()
    taken = watched(track)
    recorder.add_track(track)
    await recorder.start()
    await taken(10)
    for _ in range(2):
        with pytest.raises(OSError, match=r"No space left on device.*call\.mp4.*\.nut"):
            await recorder.close()
    [part] = names(tmp_path)
    assert len(levels(tmp_path / part)) >= 8


async def test_recording_into_no_directory_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        await Recorder(tmp_path / "missing" / "call.mp4").start()


@pytest.mark.parametrize("name", ["call.avi", "call", "call.mp4.part"])
def test_only_names_that_say_the_format_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Recorder(name)


@pytest.mark.parametrize("bad", [None, object(), "audio"])
def test_only_tracks_are_taken(bad: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Recorder("call.mp4").add_track(bad)
    assert repr(bad) in str(caught.value)


async def test_a_track_is_recorded_once(tmp_path: Path) -> None:
    track = ToneTrack()
    taken = watched(track)
    async with Recorder(tmp_path / "call.mp4") as recorder:
        recorder.add_track(track)
        recorder.add_track(track)
        await taken(2)
    assert recorder.stats().tracks == 1
