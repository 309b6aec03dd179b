"""A real X screen is captured."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from metered_realtime.media.sources.factories import screen_share
from tests.support.browsers.display import needs_display, white_screen
from tests.support.patience import takes_less_than

pytestmark = [
    pytest.mark.usefixtures("no_task_left"),
    needs_display,
]


@pytest.fixture
def display() -> Iterator[str]:
    """The name of an X screen of 320 x 240, all white."""
    with white_screen() as name:
        yield name


async def test_the_whole_screen_is_captured_at_the_rate_that_was_asked_for(display: str) -> None:
    player = screen_share(display, fps=20)
    assert player.audio is None
    assert player.video
    began = time.monotonic()
    async with takes_less_than(3):
        frames = [await player.video.recv() for _ in range(20)]
    assert time.monotonic() - began > 0.7
    assert {(frame.width, frame.height) for frame in frames} == {(320, 240)}  # type: ignore[union-attr]
    white = frames[-1].reformat(format="gray")  # type: ignore[union-attr]
    assert bytes(white.planes[0]).count(255) > 0.95 * 320 * 240  # all but the pointer
    assert frames[0].pts == 0
    assert frames[-1].pts / 90_000 == pytest.approx(0.95, abs=0.3)  # type: ignore[operator]
    await player.close()
    await player.close()


async def test_a_part_of_the_screen_of_the_session_can_be_captured(
    display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    player = screen_share(width=160, height=120)
    assert player.video
    frame = await player.video.recv()
    assert (frame.width, frame.height) == (160, 120)  # type: ignore[union-attr]
    player.video.stop()
    await player.close()
