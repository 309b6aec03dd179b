"""A local track that ends by itself: the other end is told, once, and another one can take its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamTrack

from metered_realtime import (
    AudioSource,
    Data,
    LocalTrackEnded,
    MediaStream,
    MeteredPeer,
    StreamRemoved,
    Track,
    TrackEnded,
    VideoSource,
    from_file,
    iter_frames,
)
from metered_realtime.media.sending import fanout
from metered_realtime.media.sources.player import Player
from metered_realtime.media.sources.testsource import ToneTrack, write_test_clip
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Pair, Room, eventually, frames, shows


class FailingTrack(GreyTrack):
    """A camera that breaks while it is being used."""

    def __init__(self, failure: BaseException, after: int = 5) -> None:
        super().__init__()
        self._failure = failure
        self._left = after

    async def recv(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._failure
        return await super().recv()


async def all_frames(track: Any) -> int:
    """Read a track until it ends, and return how many frames it gave."""
    async with asyncio.timeout(PATIENCE):
        return len([frame async for frame in iter_frames(track)])


async def ended_once(pair: Pair, track: Any) -> None:
    """Return once b was told that a track of a ended; fail if it is told twice."""
    assert (await pair.log_b.until(TrackEnded)).track is track
    log = EventLog(pair.b)
    await pair.a.send("what a says next")
    await log.until(Data)
    assert len(pair.log_b.of(TrackEnded)) == 1
    assert len(pair.log_b.of(StreamRemoved)) == 1


def played_sound() -> tuple[MediaStreamTrack, Callable[[], None]]:
    source = AudioSource()
    return source, source.end


def played_pictures() -> tuple[MediaStreamTrack, Callable[[], None]]:
    source = VideoSource()
    source.push(bytes_of_a_picture())
    return source, source.end


def stopped_tone() -> tuple[MediaStreamTrack, Callable[[], None]]:
    source = ToneTrack()
    return source, source.stop


def bytes_of_a_picture() -> Any:
    return memoryview(bytes(64 * 64 * 3)).cast("B", (64, 64, 3))


@pytest.mark.parametrize("make", [played_sound, played_pictures, stopped_tone])
async def test_the_other_end_is_told_once_and_its_reading_ends(
    room: Room, make: Callable[[], tuple[MediaStreamTrack, Callable[[], None]]]
) -> None:
    pair = await room.pair()
    log = EventLog(pair.a)
    track, end = make()
    pair.a.add_stream(MediaStream([track]), {"name": "first"})
    received = (await pair.log_b.until(Track)).track
    reading = asyncio.ensure_future(all_frames(received))
    await eventually(lambda: received.frames_decoded)
    end()
    assert await reading
    await ended_once(pair, received)
    assert pair.to_a.streams == []
    assert pair.a.get_track_metadata(track) is None
    assert [(event.track, event.err) for event in log.of(LocalTrackEnded)] == [(track, None)]
    assert pair.a.stats().tracks_failed == 0


class StuckTrack(GreyTrack):
    """A track of a program, whose queue nobody fills any more once it has been stopped."""

    async def recv(self) -> Any:
        if self.readyState != "live":
            await asyncio.Event().wait()
        return await super().recv()


class StubbornTrack(StuckTrack):
    """A track that also takes no notice of cancellation."""

    async def recv(self) -> Any:
        with suppress(asyncio.CancelledError):
            return await super().recv()
        return await GreyTrack(200).recv()


class DeafTrack(GreyTrack):
    """A track that goes on when it has been stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._source = GreyTrack()

    async def recv(self) -> Any:
        return await self._source.recv()


@pytest.mark.parametrize("kind", [StuckTrack, StubbornTrack, DeafTrack])
@pytest.mark.parametrize("when", ["while it is read", "before"])
async def test_a_stopped_track_ends_whatever_its_recv_does(
    room: Room, kind: type[GreyTrack], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "END_GRACE", 0.05)
    pair = await room.pair()
    log = EventLog(pair.a)
    track = kind()
    if when == "before":
        track.stop()
        pair.a.add_track(track)
    else:
        pair.a.add_track(track)
        received = (await pair.log_b.until(Track)).track
        await frames(received)
        track.stop()
        await all_frames(received)
    await pair.log_b.until(TrackEnded)
    event = await log.until(LocalTrackEnded)
    assert (event.track, event.err) == (track, None)


async def test_all_of_a_file_arrives_before_its_end_is_told(room: Room, tmp_path: Path) -> None:
    pair = await room.pair()
    clip = write_test_clip(tmp_path / "clip.mp4", seconds=1.0, width=64, height=64, fps=10)
    player = from_file(clip.path)
    pair.a.add_stream(MediaStream([player.audio, player.video]))
    await pair.log_b.until(Track, 2)
    tracks = {event.track.kind: event.track for event in pair.log_b.of(Track)}
    sound, pictures = await asyncio.gather(*(all_frames(tracks[kind]) for kind in ("audio", "video")))
    assert sound >= 45
    assert pictures >= 8  # the jitter buffer knows that a picture is whole when the next one comes
    await pair.log_b.until(TrackEnded, 2)
    await pair.log_b.until(StreamRemoved)
    await player.close()


@pytest.mark.parametrize("failure", [RuntimeError("unplugged"), asyncio.CancelledError()])
async def test_a_failing_track_is_told_here_and_there(
    room: Room, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await room.pair()
    log = EventLog(pair.a)
    track = FailingTrack(failure)
    pair.a.add_stream(MediaStream([track]))
    received = (await pair.log_b.until(Track)).track
    await all_frames(received)
    await ended_once(pair, received)
    (event,) = log.of(LocalTrackEnded)
    assert (event.track, event.err) == (track, failure)
    assert pair.a.stats().tracks_failed == 1
    assert "local track failed" in caplog.text
    assert ", in recv" in caplog.text


@pytest.mark.parametrize("way", ["again", "another", "replace"])
async def test_another_track_can_take_its_place(room: Room, way: str) -> None:
    pair = await room.pair()
    stream = MediaStream(id="camera")
    track = FailingTrack(RuntimeError("unplugged"))
    pair.a.add_track(track, stream, {"name": "camera"})
    await ended_once(pair, (await pair.log_b.until(Track)).track)
    successor = GreyTrack(200)
    if way == "again":
        track._left = 1_000
        track.level = 200
        pair.a.add_track(track, stream, {"name": "camera"})
    elif way == "another":
        pair.a.add_track(successor, stream, {"name": "camera"})
    else:
        await pair.a.replace_track(track, successor)
    event = await pair.log_b.until(Track, 2)
    await shows(event.track, 200)
    assert event.metadata == {"name": "camera"}
    assert [it.id for it in event.streams] == ["camera"]
    assert len(pair.log_b.of(TrackEnded)) == 1


async def test_a_track_that_is_replaced_in_time_ends_nothing(room: Room) -> None:
    pair = await room.pair()
    source, received = await pair.media_to_b(60)
    successor = GreyTrack(200)
    source.stop()
    await pair.a.replace_track(source, successor)
    await shows(received, 200)
    assert pair.log_b.of(TrackEnded) == []


async def test_a_track_that_ended_while_nobody_received_it_reaches_nobody(room: Room) -> None:
    peer: MeteredPeer = room.peer("a")
    gone, there = GreyTrack(), GreyTrack(200)
    peer.add_stream(MediaStream([gone]))
    peer.add_stream(MediaStream([there]))
    log = EventLog(peer)
    gone.stop()
    pair = await room.meet(peer, room.peer("b"))
    received = (await pair.log_b.until(Track)).track
    await shows(received, 200)
    assert (await log.until(LocalTrackEnded)).track is gone
    assert pair.log_b.of(TrackEnded) == []


async def test_a_track_that_is_passed_on_ends_with_its_origin(room: Room) -> None:
    pair = await room.pair()
    source, received = await pair.media_to_b()
    pair.b.add_track(received)
    back = (await pair.log_a.until(Track)).track
    await frames(back)
    pair.a.remove_track(source)
    await all_frames(back)
    assert (await pair.log_a.until(TrackEnded)).track is back


class BrokenReader:
    """A camera that is pulled out."""

    ended, has_audio, has_video, reopened = False, False, True, 0

    def __init__(self) -> None:
        self.passed: dict[Any, Any] = {}

    def frames(self, wanted: Any) -> Any:
        raise OSError("pulled out")

    def holds(self, kind: str) -> bool:
        return False

    def close(self) -> None: ...


async def test_a_player_says_of_what_its_source_failed(room: Room) -> None:
    pair = await room.pair()
    log = EventLog(pair.a)
    player = Player(BrokenReader())
    pair.a.add_track(player.video)
    assert repr((await log.until(LocalTrackEnded)).err) == "OSError('pulled out')"
    await pair.log_b.until(TrackEnded)
    await player.close()
