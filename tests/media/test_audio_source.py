"""Pushed sound is played in real time."""

from __future__ import annotations

import asyncio
from array import array
from fractions import Fraction
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.sources.audio_source import AudioSource
from tests.support.patience import PATIENCE

from ..support.virtual_time import block, now, virtual_time

FRAME = 960


def samples(*runs: tuple[int, int]) -> bytes:
    """Return mono s16le samples of runs of (value, count)."""
    return b"".join(array("h", [value]).tobytes() * count for value, count in runs)


def values(frame: av.AudioFrame) -> array[int]:
    return array("h", bytes(frame.planes[0])[: 4 * frame.samples])


async def play_out(source: AudioSource) -> array[int]:
    """Return all samples up to the end of the track, both channels interleaved."""
    played = array("h")
    while True:
        try:
            played += values(await source.recv())
        except MediaStreamError:
            return played


async def refuse_to_finish(task: asyncio.Task[None]) -> None:
    done, _ = await asyncio.wait({task}, timeout=0.03)
    assert not done


def loud(played: array[int]) -> list[int]:
    """Return the left channel without silence, with one value for each run of equal samples."""
    left = [value for value in played[0::2] if value]
    return [value for index, value in enumerate(left) if not index or value != left[index - 1]]


@virtual_time
async def test_frames_are_20_ms_of_48_khz_stereo_from_pts_0() -> None:
    source = AudioSource()
    started = now()
    frames = [await source.recv()]
    assert now() == started  # the first one does not wait
    frames.append(await source.recv())
    for frame in frames:
        assert (frame.format.name, frame.layout.name) == ("s16", "stereo")
        assert (frame.sample_rate, frame.samples) == (48000, 960)
        assert frame.time_base == Fraction(1, 48000)
    assert [frame.pts for frame in frames] == [0, 960]
    source.stop()


@virtual_time
async def test_pacing_is_by_deadline_and_does_not_drift() -> None:
    source = AudioSource()
    started = now()
    for _ in range(16):
        await source.recv()
        block(0.004)  # work between frames must not add up
    assert now() - started == pytest.approx(0.304)
    source.stop()


@virtual_time
async def test_a_reader_that_comes_late_gets_no_burst() -> None:
    source = AudioSource()
    await source.recv()
    block(0.2)
    began = now()
    late = await source.recv()
    assert late.pts == pytest.approx(began * 48_000, abs=960)
    following = [await source.recv() for _ in range(3)]
    assert now() - began == pytest.approx(0.06, abs=0.021)
    assert [frame.pts for frame in following] == [late.pts + number * 960 for number in (1, 2, 3)]
    source.stop()


@virtual_time
async def test_a_reader_that_comes_a_little_late_catches_up() -> None:
    source = AudioSource()
    started = now()
    await source.recv()
    block(0.05)
    for _ in range(4):
        await source.recv()
    assert now() - started == pytest.approx(0.08)
    source.stop()


@virtual_time
async def test_without_audio_there_is_silence() -> None:
    source = AudioSource()
    assert not any(values(await source.recv()))
    await source.push(samples((500, 100)))
    assert any(values(await source.recv()))
    assert any(values(await source.recv())[:96])  # the rest in the resampler, at most a millisecond
    assert not any(values(await source.recv()))
    source.stop()


@virtual_time
async def test_mono_comes_out_on_both_channels_at_its_own_level() -> None:
    source = AudioSource(input_rate=48000)
    await source.push(samples((1, FRAME // 2), (-30000, FRAME // 2)))
    assert values(await source.recv()) == array("h", [1, 1] * (FRAME // 2) + [-30000, -30000] * (FRAME // 2))
    source.stop()


@virtual_time
async def test_stereo_keeps_its_channels_apart() -> None:
    source = AudioSource(input_rate=48000, input_layout="stereo")
    await source.push(samples((3, 1), (-4, 1)) * FRAME)
    assert values(await source.recv()) == array("h", [3, -4] * FRAME)
    source.stop()


@virtual_time
async def test_bytes_may_be_cut_within_samples() -> None:
    whole = array("h", range(1, 2 * FRAME + 1)).tobytes()
    source = AudioSource(input_rate=48000, input_layout="stereo")
    for start in range(0, len(whole), 7):
        await source.push(whole[start : start + 7])
    assert values(await source.recv()).tobytes() == whole
    source.stop()


RATES = [(8000, "mono"), (16000, "mono"), (44100, "stereo"), (11025, "mono")]


@pytest.mark.parametrize(("rate", "layout"), RATES)
@virtual_time
async def test_a_quarter_of_a_second_stays_that_long_at_any_rate(rate: int, layout: str) -> None:
    source = AudioSource(input_rate=rate, input_layout=layout)
    channels = 1 if layout == "mono" else 2
    await source.push(samples((1000, channels * (rate // 4))))
    assert source.buffered_seconds == pytest.approx(0.25, abs=0.005)
    source.end()
    assert source.buffered_seconds == pytest.approx(0.25, abs=0.0005)
    source.stop()


def audio_frame(format: str, layout: str, rate: int, count: int) -> av.AudioFrame:
    frame = av.AudioFrame(format=format, layout=layout, samples=count)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate = rate
    return frame


@virtual_time
async def test_frames_of_any_format_are_converted_and_not_changed() -> None:
    source = AudioSource(max_buffered_seconds=5)
    for format, layout, rate in (
        ("s16", "stereo", 48000),
        ("fltp", "5.1", 44100),
        ("u8", "mono", 8000),
        ("s16", "stereo", 48000),
    ):
        frame = audio_frame(format, layout, rate, rate // 10)
        await source.push(frame)
        assert (frame.pts, frame.sample_rate, frame.samples) == (None, rate, rate // 10)
    source.end()
    assert source.buffered_seconds == pytest.approx(0.4, abs=0.001)
    source.stop()


FORMATS = [(name, layout) for name in ("u8", "s16", "s32", "flt", "dbl") for layout in ("mono", "stereo", "5.1")]


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(("format", "layout"), FORMATS)
@virtual_time
async def test_sound_of_any_format_keeps_its_level(format: str, layout: str, planar: bool) -> None:
    source = AudioSource()
    code, half = {"u8": ("B", 192), "s16": ("h", 1 << 14), "s32": ("i", 1 << 30), "flt": ("f", 0.5), "dbl": ("d", 0.5)}[
        format
    ]
    frame = audio_frame(format + "p" * planar, layout, 48000, 2 * FRAME)
    for plane in frame.planes:
        plane.update(array(code, [half] * (plane.buffer_size // array(code).itemsize)).tobytes())
    await source.push(frame)
    level = values(await source.recv())[FRAME]
    if layout == "5.1":
        assert 8000 < level <= 32767  # the channels come together, and do not clip
    else:
        assert level == pytest.approx(1 << 14, abs=2)
    source.stop()


@pytest.mark.parametrize("format", ["flt", "fltp", "dbl", "dblp"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@virtual_time
async def test_samples_that_are_not_finite_are_refused(format: str, bad: float) -> None:
    source = AudioSource()
    frame = audio_frame(format, "stereo", 48000, FRAME)
    code = "f" if format.startswith("flt") else "d"
    plane = frame.planes[-1]
    plane.update(array(code, [0.0, bad]).tobytes().ljust(plane.buffer_size, b"\0"))
    with pytest.raises(ValueError, match=r"nan|inf"):
        await source.push(frame)
    assert source.buffered_seconds == 0
    source.stop()


@virtual_time
async def test_a_frame_without_a_rate_is_refused() -> None:
    source = AudioSource()
    frame = av.AudioFrame("s16", "mono", 960)
    with pytest.raises(ValueError, match="sample rate"):
        await source.push(frame)
    source.stop()


@virtual_time
async def test_sound_that_comes_in_time_is_never_broken_though_a_resampler_holds_some_back() -> None:
    source = AudioSource(input_rate=16000)
    await source.recv()
    played = array("h")
    for _ in range(10):
        await source.push(samples((1000, 320)))  # exactly 20 ms for every 20 ms
        played += values(await source.recv())
    await asyncio.sleep(0)
    played += values(await source.recv())
    left = played[0::2]
    sounding = [n for n, value in enumerate(left) if value]
    assert len(sounding) == 10 * FRAME
    assert sounding == list(range(sounding[0], sounding[0] + 10 * FRAME))
    assert 0 < sounding[0] <= 48  # the silence is before the sound
    source.stop()


@virtual_time
async def test_a_push_after_silence_is_heard_in_the_next_frame() -> None:
    source = AudioSource(input_rate=48000)
    for _ in range(3):
        await source.recv()
    await source.push(samples((7, 100)))
    assert values(await source.recv()) == array("h", [0, 0] * (FRAME - 100) + [7, 7] * 100)
    await source.push(samples((7, 100)))
    assert values(await source.recv()) == array("h", [7, 7] * 100 + [0, 0] * (FRAME - 100))
    source.stop()


@virtual_time
async def test_a_flush_cuts_within_a_frame_and_says_how_much_it_dropped() -> None:
    source = AudioSource(input_rate=48000)
    await source.push(samples((1000, 48000)))
    await source.recv()
    flushed = now()
    assert source.flush() == pytest.approx(0.98)
    assert source.flush() == 0.0
    await source.wait_drained()
    frame = await source.recv()
    assert not any(values(frame))
    assert now() - flushed <= 0.02
    source.stop()


async def speak(source: AudioSource, seconds: float) -> None:
    """Push sound in real time, as a device does."""
    began = now()
    for number in range(round(seconds * 50)):
        await asyncio.sleep(max(0.0, began + number * 0.02 - now()))
        await source.push(samples((number + 1, FRAME)))


@pytest.mark.parametrize(("max_delay", "late", "lost"), [(None, 1.04, 0.0), (0.2, 0.2, 0.8)])
@virtual_time
async def test_sound_in_real_time_does_not_stay_late_after_a_stall(
    max_delay: float | None, late: float, lost: float
) -> None:
    source = AudioSource(input_rate=48000, max_delay=max_delay)
    speaking = asyncio.ensure_future(speak(source, 3.0))
    asyncio.get_running_loop().call_later(1.0, block, 1.0)
    played = array("h")
    while not speaking.done():
        played += values(await source.recv())
    assert source.buffered_seconds <= late
    assert source.dropped_seconds == pytest.approx(lost, abs=0.15)
    heard = loud(played)
    assert heard == sorted(heard)
    if max_delay is None:
        assert heard == list(range(1, len(heard) + 1))
    source.stop()


@virtual_time
async def test_push_suspends_above_the_cap_and_goes_on_as_frames_are_read() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.1)
    push = asyncio.create_task(source.push(samples((9, 48000 // 5))))
    await refuse_to_finish(push)
    assert 0.1 <= source.buffered_seconds <= 0.12
    while not push.done():
        await source.recv()
        assert source.buffered_seconds <= 0.12
    assert source.buffered_seconds >= 0.05
    source.stop()


@virtual_time
async def test_one_long_frame_is_held_to_the_cap_too() -> None:
    source = AudioSource(max_buffered_seconds=0.1)
    push = asyncio.create_task(source.push(audio_frame("s16", "mono", 48000, 48000)))
    await refuse_to_finish(push)
    assert source.buffered_seconds <= 0.12
    source.stop()
    await push


@virtual_time
async def test_concurrent_pushes_play_one_after_the_other() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.02)
    pushes = [asyncio.create_task(source.push(samples((value, 3 * FRAME)))) for value in (1, 2, 3)]
    played = array("h")
    while not all(push.done() for push in pushes) or source.buffered_seconds:
        played += values(await source.recv())
    assert loud(played) == [1, 2, 3]
    source.stop()


@virtual_time
async def test_a_push_that_comes_just_as_room_comes_free_waits_its_turn() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.02)
    first = asyncio.create_task(source.push(samples((1, 2 * FRAME))))
    await refuse_to_finish(first)
    played = values(await source.recv())
    reading = asyncio.create_task(read_on(source, played))
    await source.push(samples((2, FRAME)))  # gets here before the first one can wake up
    await reading
    assert loud(played) == [1, 2]
    source.stop()
    await first


async def read_on(source: AudioSource, played: array[int]) -> None:
    for _ in range(3):
        played += values(await source.recv())


@virtual_time
async def test_a_cancelled_push_leaves_the_next_one_in_order_and_on_a_sample_boundary() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.02)
    push = asyncio.create_task(source.push(samples((1, 5 * FRAME)) + b"\x02"))
    await refuse_to_finish(push)
    push.cancel()
    await asyncio.wait({push})
    after = asyncio.create_task(source.push(b"\x00" + samples((3, FRAME))))
    played = array("h")
    while not after.done() or source.buffered_seconds:
        played += values(await source.recv())
    assert loud(played) == [1, 2, 3]
    source.stop()


@virtual_time
async def test_stop_wakes_every_suspended_push_and_waiter() -> None:
    source = AudioSource(max_buffered_seconds=0.02)
    waiting = [asyncio.create_task(source.push(samples((1, 16000)))) for _ in range(2)]
    waiting.append(asyncio.create_task(source.wait_drained()))
    await refuse_to_finish(waiting[0])
    source.stop()
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
    assert source.buffered_seconds == 0
    with pytest.raises(MediaStreamError):
        await source.recv()


@virtual_time
async def test_stop_ends_a_recv_that_is_waiting() -> None:
    source = AudioSource()
    await source.recv()
    reading = asyncio.create_task(source.recv())
    await asyncio.wait({reading}, timeout=0.001)
    source.stop()
    with pytest.raises(MediaStreamError):
        await asyncio.wait_for(reading, PATIENCE)


@virtual_time
async def test_end_plays_out_what_is_queued_then_ends_the_track() -> None:
    source = AudioSource(input_rate=16000)
    ended = []
    source.on("ended", lambda: ended.append(True))
    await source.push(samples((1000, 800)))
    source.end()
    await source.push(samples((7, 16000)))  # comes too late
    assert source.buffered_seconds < 0.06
    played = await play_out(source)
    assert len(played) == 2 * 3 * FRAME  # 50 ms, the last frame filled up with silence
    assert ended == [True]
    assert source.readyState == "ended"


@virtual_time
async def test_end_lets_a_suspended_push_finish() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.02)
    push = asyncio.create_task(source.push(samples((5, 4 * FRAME))))
    await refuse_to_finish(push)
    source.end()
    await asyncio.wait_for(push, PATIENCE)
    assert (await play_out(source)).count(5) == 2 * 4 * FRAME


@virtual_time
async def test_end_of_an_empty_source_ends_it_at_the_next_read() -> None:
    source = AudioSource()
    source.end()
    with pytest.raises(MediaStreamError):
        await source.recv()


@virtual_time
async def test_flush_silences_at_once_and_ends_pushes_in_progress() -> None:
    source = AudioSource(input_rate=48000, max_buffered_seconds=0.1)
    pushes = [asyncio.create_task(source.push(samples((value, 48000)) + b"\x01")) for value in (1, 2)]
    await refuse_to_finish(pushes[0])
    assert source.flush() == pytest.approx(0.1, abs=0.02)
    await asyncio.wait_for(asyncio.gather(*pushes), PATIENCE)
    assert not any(values(await source.recv()))
    await source.push(samples((3, FRAME)))
    assert set(values(await source.recv())) == {3}
    source.stop()


@virtual_time
async def test_drained_means_that_everything_has_been_read() -> None:
    source = AudioSource(input_rate=48000)
    await asyncio.wait_for(source.wait_drained(), PATIENCE)
    await source.push(samples((1, 2 * FRAME)))
    drained = asyncio.create_task(source.wait_drained())
    await source.recv()
    await refuse_to_finish(drained)
    await source.recv()
    await asyncio.wait_for(drained, PATIENCE)
    source.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"input_layout": "5.1"},
        {"input_layout": None},
        {"input_rate": 0},
        {"input_rate": 16.0},
        {"input_rate": True},
        {"max_buffered_seconds": 0},
        {"max_buffered_seconds": float("nan")},
        {"max_buffered_seconds": "5"},
        {"max_delay": 0},
        {"max_delay": 0.03},
        {"max_delay": float("nan")},
        {"max_delay": "1"},
    ],
)
@virtual_time
async def test_impossible_options_are_named(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=name) as caught:
        AudioSource(**options)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("bad", ["text", 5, None, [1, 2]])
@virtual_time
async def test_only_bytes_and_frames_can_be_pushed(bad: Any) -> None:
    source = AudioSource()
    with pytest.raises(TypeError) as caught:
        await source.push(bad)
    assert repr(bad) in str(caught.value)
    source.stop()
