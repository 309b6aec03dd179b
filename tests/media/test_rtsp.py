"""A camera that fails is opened again, through FFmpeg's own RTSP client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.sources import player as player_module
from metered_realtime.media.sources import reopening
from metered_realtime.media.sources.factories import from_rtsp
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.media.sources.player import Player, PlayerTrack
from tests.support.patience import PATIENCE, takes_less_than

from ..support.rtsp_server import FPS, HEIGHT, WIDTH, Camera

pytestmark = pytest.mark.usefixtures("no_task_left")

SILENCE = 1.0


class Log:
    """Collects log lines as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(f"{msg} {ctx}")

    debug = info = warning = error = note


@pytest.fixture
async def camera() -> AsyncIterator[Camera]:
    async with Camera(login="user:hunter2") as camera:
        yield camera
    await asyncio.get_running_loop().shutdown_default_executor()  # in which `from_rtsp` blocked


async def watch(camera: Camera, *, silence: float = SILENCE, **options: Any) -> Player:
    return await asyncio.to_thread(from_rtsp, camera.url, silence=silence, **options)


async def picture(track: PlayerTrack | None) -> tuple[int, int]:
    """Return the number of the next picture, and its pts."""
    assert track is not None
    frame = await asyncio.wait_for(track.recv(), PATIENCE)
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)  # type: ignore[union-attr]
    assert frame.pts is not None
    return read_counter(frame), frame.pts  # type: ignore[arg-type]


async def picture_from(track: PlayerTrack | None, number: int) -> list[tuple[int, int]]:
    """Return all pictures up to one with this number or a later one."""
    seen = [await picture(track)]
    while seen[-1][0] < number:
        seen.append(await picture(track))
    return seen


@pytest.mark.alone
async def test_a_camera_is_seen_and_heard_live(camera: Camera) -> None:
    player = await watch(camera)
    assert player.audio
    seen = await picture_from(player.video, FPS * 2)
    assert camera.number - seen[-1][0] <= FPS // 2  # never more than half a second old
    assert [number for number, _ in seen] == sorted(number for number, _ in seen)
    heard = [await player.audio.recv() for _ in range(10)]
    assert heard[0].samples == 960  # type: ignore[union-attr]
    assert player.reopened == 0
    await player.close()


@pytest.mark.alone
async def test_a_camera_that_hangs_up_is_opened_again_with_timestamps_that_go_on(camera: Camera) -> None:
    log = Log()
    player = await watch(camera, logger=log)
    began, seen = time.monotonic(), [await picture(player.video)]
    video = player.video
    for _ in range(2):
        camera.hang_up()
        sessions = camera.sessions
        seen += await picture_from(player.video, camera.number + FPS)
        assert camera.sessions == sessions + 1
    assert player.video is video
    assert player.reopened == 2
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(seen))
    on_the_line, on_the_clock = (seen[-1][1] - seen[0][1]) / 90_000, time.monotonic() - began
    assert on_the_line == pytest.approx(on_the_clock, abs=1.5)
    assert "source lost" in log.lines[0]
    assert "hunter2" not in "".join(log.lines)
    assert not any(secret in repr(vars(it)) for it in (player, player.video) for secret in ("hunter2", "rtsp://user"))
    await player.close()


async def test_a_camera_that_falls_silent_is_opened_again(camera: Camera) -> None:
    player = await watch(camera)
    await picture(player.video)
    camera.silent = True
    while camera.sessions < 2:
        await asyncio.wait_for(wait_for_session(camera, 2), PATIENCE)
    camera.silent = False
    await picture_from(player.video, camera.number + FPS)
    assert player.reopened == 1
    await player.close()


async def wait_for_session(camera: Camera, count: int) -> None:
    while camera.sessions < count:  # noqa: ASYNC110 - the camera has no event for it
        await asyncio.sleep(0.02)


async def test_a_camera_that_is_away_for_a_while_is_asked_again_and_again(camera: Camera) -> None:
    log = Log()
    player = await watch(camera, logger=log)
    await picture(player.video)
    camera.refuses = True
    camera.hang_up()
    async with asyncio.timeout(PATIENCE):
        while camera.refused < 2:  # noqa: ASYNC110 - the camera has no event for it
            await asyncio.sleep(0.02)
    camera.refuses = False
    await picture_from(player.video, camera.number + 5)
    assert player.reopened == 1
    assert any("cannot be opened" in line for line in log.lines)
    assert "hunter2" not in "".join(log.lines)
    await player.close()


async def test_a_camera_that_was_not_read_for_long_is_opened_again(camera: Camera) -> None:
    player = await watch(camera)
    await asyncio.sleep(1.5 * SILENCE)
    number, _ = await picture(player.video)
    assert player.reopened == 1
    assert number > FPS
    await player.close()


async def test_a_camera_without_a_reader_is_not_decoded_until_one_comes(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "LIVE_IDLE", 0.3)
    player = await watch(camera)
    await picture(player.video)
    async with asyncio.timeout(PATIENCE):
        while any(it.name == player_module.THREAD_NAME for it in threading.enumerate()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
    await asyncio.sleep(SILENCE)
    number = camera.number
    again, _ = await picture(player.video)
    assert again >= number
    reading = asyncio.ensure_future(picture_from(player.video, camera.number + FPS))  # a waiting reader counts
    await reading
    await player.close()


async def test_closing_does_not_wait_for_a_camera_that_is_away(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "MAX_PAUSE"):
        monkeypatch.setattr(reopening, name, 3 * PATIENCE)
    monkeypatch.setattr(player_module, "CLOSE_TIMEOUT", 3 * PATIENCE)
    player = await watch(camera)
    await picture(player.video)
    camera.refuses = True
    camera.hang_up()
    async with asyncio.timeout(PATIENCE):
        while not camera.refused:  # noqa: ASYNC110 - the camera has no event for it
            await asyncio.sleep(0.02)
    reading = asyncio.ensure_future(picture(player.video))
    async with takes_less_than(player_module.CLOSE_TIMEOUT / 2):
        await player.close()
    with pytest.raises(MediaStreamError):
        await reading


async def test_closing_waits_only_so_long_for_a_camera_that_is_silent(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "CLOSE_TIMEOUT", 0.1)
    player = await watch(camera, silence=3 * PATIENCE)
    await picture(player.video)
    camera.silent = True
    await asyncio.sleep(0.1)
    async with takes_less_than(0.5):
        await player.close()


async def test_the_error_of_a_wrong_password_does_not_contain_it(camera: Camera) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+/live") as caught:
        await asyncio.to_thread(from_rtsp, camera.url.replace("hunter2", "hunter3"))
    assert "hunter3" not in f"{caught.value!r} {vars(caught.value)}"
