"""Fixtures of the media tests: a feed track, a generated clip, and checks that nothing is left running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from metered_realtime.media.sources.testsource import write_test_clip
from tests.support.patience import PATIENCE


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail the test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(PATIENCE)  # on its way out: stopping does not wait
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail the test that leaves a task running."""
    before = asyncio.all_tasks()
    yield
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}


class FeedTrack(MediaStreamTrack):
    """Returns what the test puts in, at once. None ends the track."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.feed: asyncio.Queue[Any] = asyncio.Queue()
        self.taken = 0

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        frame = await self.feed.get()
        if frame is None:
            self.stop()
            raise MediaStreamError
        self.taken += 1
        return frame


@pytest.fixture
def feed_track() -> type[FeedTrack]:
    return FeedTrack


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 0.8 s: 20 pictures of 128 x 96, and sound."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    return write_test_clip(path, seconds=0.8, width=128, height=96, fps=25).path
