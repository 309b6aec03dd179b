"""Sources as received at the other end of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy
import pytest

from metered_realtime import MediaStream, MeteredPeer, PeerJoined, Track, VideoSource, from_file
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

from ..support.clips import FPS, write


@asynccontextmanager
async def shown(*tracks: Any) -> AsyncIterator[dict[str, Any]]:
    """Send tracks from one peer to another, and yield what the other receives, by kind."""
    received: dict[str, Any] = {}
    complete = asyncio.Event()

    def note(event: Track) -> None:
        received[event.track.kind] = event.track
        if len(received) == len(tracks):
            complete.set()

    async with SignallingServer() as server:
        one, other = (MeteredPeer(api_key=server.api_key, url=server.url) for _ in range(2))
        other.on(PeerJoined, lambda event: event.peer.on(Track, note))
        async with one, other:
            one.add_stream(MediaStream(tracks))
            await other.join("room")
            await one.join("room")
            await asyncio.wait_for(complete.wait(), PATIENCE)
            yield received


@pytest.mark.parametrize(
    ("name", "codec", "options", "media_type"),
    [("t.mp4", "libx264", {"profile": "Baseline"}, "video/H264"), ("t.webm", "libvpx", {}, "video/VP8")],
)
async def test_packets_of_a_file_are_shown_picture_by_picture(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any], media_type: str
) -> None:
    player = from_file(str(write(tmp_path / name, codec, "libopus", seconds=2.0, **options)), loop=True, packets=True)
    async with shown(player.audio, player.video) as received, asyncio.timeout(PATIENCE):
        numbers = [read_counter(await received["video"].recv())]
        dropped = received["video"].frames_dropped
        numbers += [read_counter(await received["video"].recv()) for _ in range(3 * FPS)]
        steps = [(later - earlier) % (2 * FPS) for earlier, later in pairwise(numbers)]
        skipped = received["video"].frames_dropped - dropped  # where the machine was too busy to read them
        assert min(steps) == 1
        assert sum(steps) - len(steps) <= skipped
        assert received["video"].codec.lower() == media_type.lower()
        sound = [await received["audio"].recv() for _ in range(20)]
        assert {frame.samples for frame in sound} == {960}
    await player.close()


async def test_a_peer_that_joins_sees_a_still_picture() -> None:
    source = VideoSource()
    source.push(numpy.full((120, 160, 3), (220, 40, 40), numpy.uint8))
    async with shown(source) as received, asyncio.timeout(PATIENCE):
        frame: av.VideoFrame = await received["video"].recv()
        assert (frame.width, frame.height) == (160, 120)
        colour = [int(value) for value in frame.to_ndarray(format="rgb24")[60, 80]]
        assert colour == pytest.approx([220, 40, 40], abs=16)
        source.push(numpy.zeros((240, 320), numpy.uint8))  # another size within the stream
        while frame.width != 320:
            frame = await received["video"].recv()
    source.stop()
