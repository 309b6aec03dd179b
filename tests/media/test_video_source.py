"""Pushed pictures are shown: the newest, in time, from any thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from itertools import pairwise
from typing import Any

import av
import numpy
import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.receiving.inbound import iter_frames
from metered_realtime.media.sources.video_source import STILL_SECONDS, VideoSource
from tests.support.patience import PATIENCE

from ..support.virtual_time import now, virtual_time


def grey(level: int, width: int = 64, height: int = 48) -> numpy.ndarray[Any, Any]:
    return numpy.full((height, width), level, numpy.uint8)


def coloured(red: int, green: int, blue: int, width: int = 64, height: int = 48) -> numpy.ndarray[Any, Any]:
    return numpy.full((height, width, 3), (red, green, blue), numpy.uint8)


def colour_of(frame: av.VideoFrame) -> list[int]:
    pixels = frame.to_ndarray(format="rgb24")
    return [int(value) for value in pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]]


@virtual_time
async def test_an_array_comes_out_as_a_picture_of_its_colour_and_size() -> None:
    source = VideoSource()
    source.push(coloured(200, 30, 60))
    frame = await source.recv()
    assert (frame.format.name, frame.width, frame.height) == ("yuv420p", 64, 48)
    assert colour_of(frame) == pytest.approx([200, 30, 60], abs=4)
    assert frame.pts == 0
    source.stop()


@virtual_time
async def test_blue_may_come_first() -> None:
    source = VideoSource(format="bgr24", fps=120)
    source.push(coloured(200, 30, 60))
    assert colour_of(await source.recv()) == pytest.approx([60, 30, 200], abs=4)
    source.push(coloured(200, 30, 60), format="rgb24")
    assert colour_of(await source.recv()) == pytest.approx([200, 30, 60], abs=4)
    source.stop()


@virtual_time
async def test_arrays_of_two_dimensions_are_grey() -> None:
    source = VideoSource()
    source.push(grey(200))
    assert colour_of(await source.recv()) == pytest.approx([200, 200, 200], abs=2)
    source.stop()


@virtual_time
async def test_views_are_taken_as_they_look() -> None:
    picture = numpy.zeros((48, 64, 3), numpy.uint8)
    picture[:, 32:] = (250, 0, 0)
    source = VideoSource(fps=120)
    for view, left in ((picture[::-1, ::-1], [250, 0, 0]), (picture[..., ::-1][:, 32:], [0, 0, 250])):
        source.push(view)
        pixels = (await source.recv()).to_ndarray(format="rgb24")
        assert [int(value) for value in pixels[10, 4]] == pytest.approx(left, abs=6)
    source.stop()


@virtual_time
async def test_the_picture_may_be_changed_after_the_push() -> None:
    source = VideoSource(fps=120)
    array = grey(200)
    source.push(array)
    array[:] = 0
    assert colour_of(await source.recv())[0] == pytest.approx(200, abs=2)
    pushed = av.VideoFrame(64, 48, "yuv420p")
    pushed.pts = 77
    for plane in pushed.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    source.push(pushed)
    frame = await source.recv()
    assert frame is not pushed
    assert pushed.pts == 77
    assert bytes(frame.planes[0]) == bytes(pushed.planes[0])
    source.stop()


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47), (641, 481), (2, 2)])
@virtual_time
async def test_odd_sizes_become_even(width: int, height: int) -> None:
    source = VideoSource(fps=120)
    odd_frame = av.VideoFrame(width, height, "rgb24")
    for picture in (coloured(9, 99, 199, width, height), grey(99, width, height), odd_frame):
        source.push(picture)
        frame = await source.recv()
        assert (frame.width, frame.height) == (width & ~1, height & ~1)
    source.stop()


@virtual_time
async def test_the_size_may_change() -> None:
    source = VideoSource(fps=120)
    for width, height in ((64, 48), (128, 96), (32, 32)):
        source.push(grey(100, width, height))
        frame = await source.recv()
        assert (frame.width, frame.height) == (width, height)
    source.stop()


@virtual_time
async def test_a_size_that_is_asked_for_scales_everything() -> None:
    source = VideoSource(width=160, height=120, fps=120)
    for picture in (grey(100), coloured(100, 100, 100, 641, 481), av.VideoFrame(320, 240, "yuv420p")):
        source.push(picture)
        frame = await source.recv()
        assert (frame.width, frame.height) == (160, 120)
    source.stop()


@virtual_time
async def test_the_newest_wins() -> None:
    source = VideoSource()
    for level in (10, 100, 200):
        source.push(grey(level))
    assert colour_of(await source.recv())[0] == pytest.approx(200, abs=2)
    assert (source.frames_pushed, source.frames_dropped) == (3, 2)
    source.stop()


@virtual_time
async def test_a_reader_that_waits_gets_a_picture_at_once_and_timestamps_are_the_clock() -> None:
    source = VideoSource(fps=25)
    loop, stamps = asyncio.get_running_loop(), []
    for index, at in enumerate((0.0, 0.040, 0.085, 0.118, 0.160)):  # a slightly irregular camera
        loop.call_later(at, source.push, grey(index))
    for _ in range(5):
        frame = await source.recv()
        assert frame.pts is not None
        stamps.append(frame.pts / 90_000)
        assert stamps[-1] == pytest.approx(now(), abs=1e-4)
    assert stamps == pytest.approx([0.0, 0.040, 0.085, 0.120, 0.160], abs=0.006)
    assert source.frames_dropped == 0
    source.stop()


@virtual_time
async def test_the_rate_is_bounded_and_the_newest_goes() -> None:
    source = VideoSource(fps=10)
    loop = asyncio.get_running_loop()
    for index in range(100):
        loop.call_later(index * 0.01, source.push, grey(index))
    seen = [await source.recv() for _ in range(10)]
    assert now() == pytest.approx(0.9, abs=0.11)
    assert {round((b.pts - a.pts) / 9000) for a, b in pairwise(seen[1:])} == {1}  # type: ignore[operator]
    source.stop()
    await asyncio.sleep(1)
    assert source.frames_dropped > 70


@virtual_time
async def test_a_still_picture_is_repeated_slowly_with_timestamps_of_its_own() -> None:
    source = VideoSource(fps=30)
    source.push(grey(150))
    seen = [await source.recv() for _ in range(5)]
    assert now() == pytest.approx(4 * STILL_SECONDS)
    assert len({id(frame) for frame in seen}) == 5  # an encoder may still use an earlier one
    assert [frame.pts for frame in seen] == [round(n * STILL_SECONDS * 90_000) for n in range(5)]
    assert all(bytes(frame.planes[0]) == bytes(seen[0].planes[0]) for frame in seen)
    assert (source.frames_pushed, source.frames_dropped) == (1, 0)
    source.stop()


@virtual_time
async def test_before_the_first_picture_a_reader_waits() -> None:
    source = VideoSource()
    reading = asyncio.ensure_future(source.recv())
    await asyncio.sleep(10)
    assert not reading.done()
    source.push(grey(1))
    await reading
    source.stop()


@virtual_time
async def test_end_shows_the_last_picture_and_ends_the_track() -> None:
    source = VideoSource()
    source.push(grey(50))
    source.end()
    source.push(grey(90))  # too late
    assert colour_of(await source.recv())[0] == pytest.approx(50, abs=2)
    with pytest.raises(MediaStreamError):
        await source.recv()
    assert source.readyState == "ended"


@virtual_time
async def test_end_and_stop_release_a_reader_that_waits() -> None:
    for close in (VideoSource.end, VideoSource.stop):
        source = VideoSource()
        reading = asyncio.ensure_future(source.recv())
        await asyncio.sleep(0)
        close(source)
        with pytest.raises(MediaStreamError):
            await asyncio.wait_for(reading, PATIENCE)


async def test_any_thread_may_push_and_end() -> None:
    source = VideoSource(fps=120)
    pushed = threading.Event()

    def produce() -> None:
        for level in range(0, 200, 10):
            source.push(grey(level))
            pushed.wait(0.01)
        source.end()

    producer = threading.Thread(target=produce)
    producer.start()
    async with asyncio.timeout(PATIENCE):
        seen = [frame async for frame in iter_frames(source)]
    producer.join()
    assert len(seen) > 5
    assert colour_of(seen[-1])[0] == pytest.approx(190, abs=2)
    assert all(b.pts > a.pts for a, b in pairwise(seen))


BAD_PICTURES = [
    ("text", TypeError, "str"),
    (None, TypeError, "NoneType"),
    ([[1, 2], [3, 4]], TypeError, "list"),
    (numpy.zeros((48, 64, 3)), ValueError, "float64"),
    (numpy.zeros((48, 64, 3), numpy.int8), ValueError, "int8"),
    (numpy.zeros((48, 64, 4), numpy.uint8), ValueError, "(48, 64, 4)"),
    (numpy.zeros((3, 48, 64), numpy.uint8), ValueError, "(3, 48, 64)"),
    (numpy.zeros(64, numpy.uint8), ValueError, "(64,)"),
    (numpy.zeros((0, 64, 3), numpy.uint8), ValueError, "0"),
    (numpy.zeros((1, 64), numpy.uint8), ValueError, "1"),
    (numpy.zeros((2, 20_000), numpy.uint8), ValueError, "20000"),
    (b"", ValueError, "(0,)"),
]


@pytest.mark.parametrize(("picture", "error", "named"), BAD_PICTURES)
@virtual_time
async def test_the_error_names_what_is_not_a_picture(picture: Any, error: type[Exception], named: str) -> None:
    source = VideoSource()
    with pytest.raises(error) as caught:
        source.push(picture)
    assert named in str(caught.value)
    assert source.frames_pushed == 0
    source.stop()


OPTIONS = [
    {"width": 0}, {"width": 63}, {"height": -2}, {"height": "48"}, {"width": True}, {"fps": 0}, {"fps": 121},
    {"fps": float("nan")}, {"fps": "30"}, {"format": "yuv420p"}, {"format": None},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@virtual_time
async def test_impossible_options_are_named(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=name) as caught:
        VideoSource(**options)
    assert repr(value) in str(caught.value)


@virtual_time
async def test_a_format_that_is_not_known_is_named_in_push() -> None:
    with pytest.raises(ValueError, match="'rgba'"):
        VideoSource().push(grey(1), format="rgba")


def test_numpy_is_not_needed() -> None:
    program = "import sys; sys.modules['numpy'] = None; import metered_realtime.media.sources.video_source as v; "
    program += "v.VideoSource().push(memoryview(bytes(64 * 48)).cast('B', (48, 64)))"
    subprocess.run([sys.executable, "-c", program], check=True)
