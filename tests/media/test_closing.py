"""Every source can be closed twice, at any time, from any thread, and leaves nothing running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.receiving.inbound import iter_frames
from metered_realtime.media.sources.audio_source import AudioSource
from metered_realtime.media.sources.decoding import FrameReader
from metered_realtime.media.sources.factories import from_file
from metered_realtime.media.sources.player import Player
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.media.sources.video_source import VideoSource
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("no_task_left")


class Subject:
    """A source: its tracks, how to close it, and a way to make `recv` return."""

    def __init__(self, *tracks: Any, player: Player | None = None, feed: Callable[[], object] | None = None) -> None:
        self.tracks = tracks
        self.player = player
        self.feed = feed or (lambda: None)

    def stop(self) -> None:
        for track in self.tracks:
            track.stop()

    async def close(self) -> None:
        self.stop()
        if self.player is not None:
            await self.player.close()


def played(player: Player) -> Subject:
    return Subject(*(track for track in (player.audio, player.video) if track is not None), player=player)


def video_source(clip: Path) -> Subject:
    source = VideoSource()
    return Subject(source, feed=lambda: source.push(av.VideoFrame(64, 48, "yuv420p")))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "AudioSource": lambda clip: Subject(AudioSource()),
    "VideoSource": video_source,
    "PatternTrack": lambda clip: Subject(PatternTrack(width=64, height=64)),
    "ToneTrack": lambda clip: Subject(ToneTrack()),
    "file": lambda clip: played(from_file(str(clip))),
    "file that loops": lambda clip: played(from_file(str(clip), loop=True)),
    "file of packets": lambda clip: played(from_file(str(clip), loop=True, packets=None)),
    "file from a start": lambda clip: played(from_file(str(clip), start=0.4)),
    "live": lambda clip: played(Player(FrameReader(av.open(str(clip)), loop=True), live=True)),
}


@pytest.fixture(params=SUBJECTS)
def make(request: pytest.FixtureRequest, clip: Path) -> Callable[[], Subject]:
    return lambda: SUBJECTS[request.param](clip)


async def ended(subject: Subject) -> None:
    """Check that the source has ended, and that closing again changes nothing."""
    for _ in range(2):
        for track in subject.tracks:
            assert track.readyState == "ended"
            with pytest.raises(MediaStreamError):
                await asyncio.wait_for(track.recv(), PATIENCE)
        await subject.close()


async def begin(subject: Subject) -> None:
    subject.feed()
    await asyncio.gather(*(asyncio.wait_for(track.recv(), PATIENCE) for track in subject.tracks))


async def wait_in_recv(subject: Subject) -> list[asyncio.Future[Any]]:
    """Start readers that read until the end."""

    async def read(track: Any) -> None:
        while True:
            await track.recv()

    readers = [asyncio.ensure_future(read(track)) for track in subject.tracks]
    await asyncio.sleep(0.05)
    return readers


async def released(readers: list[asyncio.Future[Any]]) -> None:
    results = await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), PATIENCE)
    assert all(isinstance(result, MediaStreamError) for result in results)


async def test_before_it_began(make: Callable[[], Subject]) -> None:
    subject = make()
    await subject.close()
    await ended(subject)


async def test_outside_of_any_event_loop(make: Callable[[], Subject]) -> None:
    subject = await asyncio.get_running_loop().run_in_executor(None, make)
    await asyncio.get_running_loop().run_in_executor(None, subject.stop)
    await ended(subject)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_after_a_frame(make: Callable[[], Subject]) -> None:
    subject = make()
    await begin(subject)
    await subject.close()
    await ended(subject)


async def test_while_a_reader_waits(make: Callable[[], Subject]) -> None:
    subject = make()
    await begin(subject)
    readers = await wait_in_recv(subject)
    await asyncio.gather(subject.close(), subject.close())
    await released(readers)
    await ended(subject)


async def test_from_another_thread_while_a_reader_waits(make: Callable[[], Subject]) -> None:
    subject = make()
    await begin(subject)
    readers = await wait_in_recv(subject)
    stoppers = [threading.Thread(target=subject.stop) for _ in range(2)]
    for stopper in stoppers:
        stopper.start()
    await released(readers)
    for stopper in stoppers:
        stopper.join()
    await ended(subject)


async def test_from_its_own_ended_handler(make: Callable[[], Subject]) -> None:
    subject = make()
    closing: list[asyncio.Future[None]] = []
    for track in subject.tracks:
        track.on("ended", subject.stop)
        track.on("ended", lambda: closing.append(asyncio.ensure_future(subject.close())))
    await begin(subject)
    subject.tracks[0].stop()
    await asyncio.wait_for(asyncio.gather(*closing), PATIENCE)
    await ended(subject)


async def test_with_an_ended_handler_that_fails(make: Callable[[], Subject]) -> None:
    subject = make()
    await begin(subject)
    readers = await wait_in_recv(subject)

    def fail() -> None:
        raise RuntimeError("a fault of the application")

    for track in subject.tracks:
        track.on("ended", fail)
        with pytest.raises(RuntimeError, match="a fault"):
            track.stop()
    await released(readers)
    await ended(subject)


async def test_while_closing_is_cancelled(make: Callable[[], Subject]) -> None:
    subject = make()
    await begin(subject)
    closing = asyncio.ensure_future(subject.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await subject.close()
    await ended(subject)


def test_after_its_event_loop_was_closed(make: Callable[[], Subject]) -> None:
    subject = make()
    asyncio.run(begin(subject))
    subject.stop()
    asyncio.run(ended(subject))


def test_on_another_event_loop_than_it_was_read_on(make: Callable[[], Subject]) -> None:
    subject = make()
    asyncio.run(begin(subject))
    asyncio.run(subject.close())
    asyncio.run(ended(subject))


async def test_sources_that_are_told_to_end_can_be_told_so_twice_and_from_a_thread() -> None:
    for source in (AudioSource(), VideoSource()):
        reading = asyncio.ensure_future(source.recv())
        await asyncio.sleep(0.01)
        enders = [threading.Thread(target=source.end) for _ in range(2)]
        for ender in enders:
            ender.start()
        async with asyncio.timeout(PATIENCE):
            assert all([frame async for frame in iter_frames(source)])
        await asyncio.gather(reading, return_exceptions=True)
        for ender in enders:
            ender.join()
        source.end()
        source.stop()
