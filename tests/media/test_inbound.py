"""`iter_frames` reads a track to its end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from metered_realtime.media.inbound import iter_frames
from metered_realtime.media.testsource import PatternTrack

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
