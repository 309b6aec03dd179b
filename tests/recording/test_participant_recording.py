"""A recorder keeps only stats of participants that have left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import av
import pytest

from metered_realtime import PeerJoined, PeerLeft, Recorder, RecordingError
from metered_realtime.core.media.lip_sync import SyncGroup
from metered_realtime.emitter import AsyncEventEmitter
from metered_realtime.media.receiving import waiting
from metered_realtime.media.receiving.mailbox import Tally
from metered_realtime.media.receiving.remote_track import RemoteTrack
from metered_realtime.recording import channel_recording, packet_file
from metered_realtime.recording.mix import MixedFrame
from metered_realtime.recording.mixed_recording import MixWriter
from metered_realtime.recording.participant_recording import ParticipantRecording, PlacedTrack
from tests.support.peers import eventually

from ..support.coding import picture, sound


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


PACKETS = 30
"""Enough for the track to have its place in the recording."""


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin files without waiting for pictures."""
    monkeypatch.setattr(packet_file, "HEADER_WAIT", 0.1)


class Remote(AsyncEventEmitter):
    """A participant that sends sound."""

    def __init__(self, peer_id: str) -> None:
        super().__init__()
        self.id = peer_id
        self.track = RemoteTrack("audio", "t")
        self.incoming_tracks = [self.track]


class Channel(AsyncEventEmitter):
    """A channel in which participants come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.remote_peers: list[Remote] = []

    async def visit(self, recorder: Recorder, peer_id: str) -> weakref.ref[Remote]:
        """Let a participant come, be recorded, and leave."""
        remote = Remote(peer_id)
        self.emit(PeerJoined(remote))  # type: ignore[arg-type]
        before = recorder.frames_written["audio"]
        await asyncio.sleep(0)
        for frame in sound(PACKETS):
            remote.track.push_frame(frame)
        remote.track.stop()
        await eventually(lambda: recorder.frames_written["audio"] == before + PACKETS)
        self.emit(PeerLeft(remote))  # type: ignore[arg-type]
        await eventually(lambda: recorder.stats().participants[-1].state in ("closed", "failed"))
        return weakref.ref(remote)


def kept() -> list[Any]:
    """Return the objects of participants that are alive. `isinstance` would fail for a weak proxy of a dead object."""
    return [it for it in gc.get_objects() if type(it) in (ParticipantRecording, SyncGroup)]


async def test_only_stats_of_the_last_participants_that_have_left_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_recording, "MAX_LEFT", 3)
    channel, recorder = Channel(), Recorder(tmp_path / "{peer}.webm")
    before = kept()
    recorder.follow(channel)
    async with recorder:
        gone = [await channel.visit(recorder, f"p{number}") for number in range(8)]
        gc.collect()
        stats = recorder.stats()
        assert [ref() for ref in gone] == [None] * 8, "nobody is kept"
        assert not [it for it in kept() if it not in before]
    assert [it.peer_id for it in stats.participants] == ["p5", "p6", "p7"]
    assert {it.state for it in stats.participants} == {"closed"}
    assert stats.participants_forgotten == 5
    assert (stats.tracks, stats.frames_written["audio"]) == (8, 8 * PACKETS)
    assert stats.bytes_written > 0
    assert len(files(tmp_path)) == 8


async def test_a_participant_that_comes_back_often_gets_another_name_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_recording, "MAX_NAMES", 5)
    channel, recorder = Channel(), Recorder(tmp_path / "{peer}.webm")
    recorder.follow(channel)
    async with recorder:
        for peer_id in ("a", "a-2", "a", "b", "a", "b", "b-6", "b"):
            await channel.visit(recorder, peer_id)
    names = [path.name for it in recorder.stats().participants for path in it.files]
    assert names == ["a.webm", "a-2.webm", "a-3.webm", "b.webm", "a-4.webm", "b+6.webm", "b-6+7.webm", "b+8.webm"]


async def test_failures_are_reported_and_only_the_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_recording, "MAX_ERRORS", 2)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("metered_realtime.recording.packet_file.av.open", fail)
    told: list[RecordingError] = []
    channel, recorder = Channel(), Recorder(tmp_path / "{peer}.webm", on_error=told.append)
    recorder.follow(channel)
    await recorder.start()
    for number in range(4):
        remote = Remote(f"p{number}")
        channel.emit(PeerJoined(remote))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for frame in sound(100):
            remote.track.push_frame(frame)
        remote.track.stop()
        await asyncio.sleep(0)
        channel.emit(PeerLeft(remote))  # type: ignore[arg-type]
        await eventually(lambda: len(told) == number + 1)  # noqa: B023
    with pytest.raises(RecordingError, match="and 2 before them") as caught:
        await recorder.close()
    assert list(caught.value.files) == ["p2", "p3"]


def test_pictures_that_wait_to_be_mixed_are_no_larger_than_the_mix(tmp_path: Path) -> None:
    mix = MixWriter(tmp_path / "a.webm", "webm", lambda: 0.0)
    mix.write(MixedFrame(("a", 1), av.VideoFrame(4_000, 1_000, "yuv420p"), 5.0))
    (waiting_frame,) = mix._coming
    assert isinstance(waiting_frame, MixedFrame)
    assert (waiting_frame.frame.width, waiting_frame.frame.height) == (1280, 320)


async def test_of_large_pictures_fewer_wait_for_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 3 * 64 * 48)  # two pictures in yuv420p
    put: list[Any] = []
    drops = Tally()
    placed = PlacedTrack(RemoteTrack("video", "t"), SyncGroup(), lambda: 0.0, put.append, drops)
    for number in range(5):
        placed.push_frame(0.0, MixedFrame(("a", 1), picture(number), 0.0))
    assert not put, "it has no place yet"
    assert drops.count == 3
    placed.end()
    assert len(put) == 2
