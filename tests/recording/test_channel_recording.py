"""Recording a channel: what each participant sent is in its place in a file, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest
from benchmarks.flash_and_click import ClickTrack, FlashTrack, Metronome, clicks, flashes, losing, offsets, seconds_of

from metered_realtime import MediaStream, MeteredPeer, Recorder, RecordingError, RemotePeer
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.server import SignallingServer
from tests.support import killed_recorder
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, Room, eventually


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with SignallingServer(port=0) as server:
        room = Room(server)
        yield room
        await asyncio.gather(*(peer.close() for peer in room.peers))


async def bot_and(room: Room, *names: str) -> tuple[MeteredPeer, list[MeteredPeer]]:
    """Return a bot in the channel, and peers that have not joined yet."""
    bot = room.peer("bot")
    await bot.join("room")
    return bot, [room.peer(name) for name in names]


async def written(recorder: Recorder, *, video: int = 0, audio: int = 0) -> None:
    """Wait until so many more frames are in the files."""
    before = recorder.frames_written
    await eventually(
        lambda: (
            recorder.frames_written["video"] >= before["video"] + video
            and recorder.frames_written["audio"] >= before["audio"] + audio
        )
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def streams(path: Path) -> dict[str, str]:
    """Return the codecs of a file by kind."""
    with av.open(str(path)) as container:
        return {it.type: it.codec_context.codec.canonical_name for it in container.streams}


def decoded(path: Path, kind: str) -> list[Any]:
    """Return all frames of a kind. Raises if one is broken."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0) if kind == "video" else container.decode(audio=0))


@pytest.mark.alone
@pytest.mark.parametrize(
    ("extension", "codecs", "reencoded"),
    [
        ("webm", {"video": "vp8", "audio": "opus"}, ()),
        ("mkv", {"video": "vp8", "audio": "opus"}, ()),
        ("mp4", {"video": "h264", "audio": "opus"}, ("video",)),
    ],
)
async def test_each_participant_has_a_file_in_what_it_sent_as_far_as_the_format_takes_it(
    room: Room, tmp_path: Path, extension: str, codecs: dict[str, str], reencoded: tuple[str, ...]
) -> None:
    bot, (ann, ben) = await bot_and(room, "ann", "b/e n")
    for peer in (ann, ben):
        beat = Metronome()
        peer.add_stream(MediaStream([FlashTrack(beat, width=320, height=240), ClickTrack(beat)]))
    recorder = Recorder(tmp_path / f"{{peer}}.{extension}")
    recorder.follow(bot)
    async with recorder:
        await room.join(ann, ben)
        await eventually(lambda: len(recorder.stats().participants) == 2)
        await written(recorder, video=60, audio=110)
        assert {it.state for it in recorder.stats().participants} == {"recording"}
    assert [it.name for it in files(tmp_path)] == [f"ann.{extension}", f"b_e_n.{extension}"]
    for stats in recorder.stats().participants:
        (path,) = stats.files
        assert (stats.state, stats.error, stats.reencoded) == ("closed", None, reencoded)
        assert streams(path) == codecs
        assert len(decoded(path, "video")) == stats.packets["video"]
        found = offsets(path)
        assert found
        assert max(map(abs, found)) < 0.04
        assert seconds_of(path) == pytest.approx(stats.duration, abs=0.1)


@pytest.mark.alone
async def test_over_a_lossy_link_sound_and_picture_stay_together(room: Room, tmp_path: Path) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    beat = Metronome()
    ann.add_stream(MediaStream([FlashTrack(beat, width=320, height=240), ClickTrack(beat)]))
    recorder = Recorder(tmp_path / "{peer}.webm")
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=10)
        with losing(ann.remote_peers[0].pc, 0.05):
            await written(recorder, audio=180)
    (stats,) = recorder.stats().participants
    assert stats.lost > 0, "what is lost is a hole, and counted"
    found = offsets(tmp_path / "ann.webm")
    assert len(found) >= 2
    assert max(map(abs, found)) < 0.04


@pytest.mark.alone
@pytest.mark.xdist_group("busy")
async def test_all_participants_are_mixed_into_one_file_from_its_beginning(room: Room, tmp_path: Path) -> None:
    bot, (ann, ben) = await bot_and(room, "ann", "ben")
    beat = Metronome()
    ann.add_stream(MediaStream([FlashTrack(beat, width=320, height=240), ClickTrack(beat)]))
    ben.add_stream(MediaStream([GreyTrack(60)]))
    recorder = Recorder(tmp_path / "mix.mp4")
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=40)
        await ben.join("room")
        await written(recorder, video=40)
        await ben.leave()
        await written(recorder, video=50)
    path = tmp_path / "mix.mp4"
    assert streams(path) == {"video": "h264", "audio": "opus"}
    pictures = decoded(path, "video")
    assert {(it.width, it.height) for it in pictures} == {(1280, 720)}
    right = [float(it.to_ndarray(format="gray")[360 - 20 : 360 + 20, 900:1000].mean()) for it in pictures]
    assert any(50 < level < 70 for level in right), "ben has a tile"
    assert right[-1] > 100 or right[-1] < 50, "and it is given to others when he has left"
    found = offsets(path)
    assert len(found) >= 3
    assert max(map(abs, found)) < 0.04
    assert seconds_of(path) == pytest.approx(recorder.stats().seconds, rel=0.05)


@pytest.mark.alone
@pytest.mark.parametrize("name", ["{peer}.webm", "{peer}.mp4", "mix.mkv"])
async def test_what_a_killed_program_recorded_can_be_played(tmp_path: Path, name: str) -> None:
    program = Path(killed_recorder.__file__)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(tmp_path / name), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        seconds = float(await process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    (path,) = files(tmp_path)
    pictures = decoded(path, "video")
    assert float(pictures[-1].time) > seconds - 1.5
    assert len(decoded(path, "audio")) > 50 * (seconds - 1.5)


@pytest.mark.alone
async def test_replaced_paused_and_ended_tracks_keep_their_place(room: Room, tmp_path: Path) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    beat = Metronome()
    first, sound = FlashTrack(beat, width=320, height=240), ClickTrack(beat)
    ann.add_stream(MediaStream([first, sound]))
    recorder = Recorder(tmp_path / "{peer}.mkv")
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=30)
        second = FlashTrack(beat, width=320, height=240)
        await ann.replace_track(first, second)
        await written(recorder, video=30)
        await ann.replace_track(second, None)
        await written(recorder, audio=55)
        ann.remove_track(sound)
        third = FlashTrack(beat, width=320, height=240)
        ann.add_stream(MediaStream([third, ClickTrack(beat)]))
        await written(recorder, video=40, audio=60)
    found = [offset for path in files(tmp_path) for offset in offsets(path)]
    assert len(found) >= 3
    assert max(map(abs, found)) < 0.06


async def test_a_participant_that_comes_back_gets_another_file(room: Room, tmp_path: Path) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    ann.add_stream(MediaStream([GreyTrack(), ToneTrack()]))
    recorder = Recorder(tmp_path / "{peer}.webm")
    recorder.follow(bot)
    async with recorder:
        for visits in (1, 2):
            await ann.join("room")
            await eventually(lambda least=visits: len(recorder.stats().participants) == least)
            await written(recorder, video=15)
            await ann.leave()
            await eventually(lambda: recorder.stats().participants[-1].state == "closed")
    first, second = recorder.participants["ann"]
    assert (first, second) == recorder.stats().participants
    assert list(recorder.participants) == ["ann"]
    assert [it.name for it in files(tmp_path)] == ["ann-2.webm", "ann.webm"]
    assert all(decoded(path, "video") for path in files(tmp_path))


@pytest.mark.alone
async def test_a_replaced_connection_leaves_a_gap_and_nothing_else(room: Room, tmp_path: Path) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    beat = Metronome()
    ann.add_stream(MediaStream([FlashTrack(beat, width=320, height=240), ClickTrack(beat)]))
    recorder = Recorder(tmp_path / "{peer}.webm")
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=30)
        await ann.remote_peers[0].pc.close()
        await written(recorder, video=40, audio=60)
    found = [offset for path in files(tmp_path) for offset in offsets(path)]
    assert len(found) >= 2
    assert max(map(abs, found)) < 0.06


@pytest.mark.parametrize("kind", ["audio", "video"])
async def test_a_participant_that_sends_one_kind_only_has_a_file(room: Room, tmp_path: Path, kind: str) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    ann.add_stream(MediaStream([ToneTrack() if kind == "audio" else PatternTrack(width=320, height=240)]))
    remote: RemotePeer
    await ann.join("room")
    await eventually(lambda: bot.remote_peers)
    (remote,) = bot.remote_peers
    recorder = Recorder(tmp_path / "one.mkv")
    recorder.follow(remote)
    async with recorder:
        await written(recorder, **{kind: 60})
    assert decoded(tmp_path / "one.mkv", kind)


async def test_a_file_that_cannot_be_written_does_not_affect_others(room: Room, tmp_path: Path) -> None:
    bot, (ann, ben) = await bot_and(room, "ann", "ben")
    for peer in (ann, ben):
        peer.add_stream(MediaStream([GreyTrack(), ToneTrack()]))
    (tmp_path / "ann.webm").mkdir()  # a file of this name cannot be created
    told: list[RecordingError] = []
    recorder = Recorder(tmp_path / "{peer}.webm", on_error=told.append)
    recorder.follow(bot)
    await recorder.start()
    await room.join(ann, ben)
    await written(recorder, video=20)
    await eventually(lambda: told)
    with pytest.raises(RecordingError, match=r"ann\.webm") as caught:
        await recorder.close()
    assert list(caught.value.files) == list(told[0].files) == ["ann"]
    assert decoded(tmp_path / "ben.webm", "video")
    by_id = {it.peer_id: it for it in recorder.stats().participants}
    assert (by_id["ann"].state, by_id["ben"].state) == ("failed", "closed")
    assert by_id["ann"].error


async def test_a_recorder_without_media_can_be_closed_repeatedly(room: Room, tmp_path: Path) -> None:
    bot, _ = await bot_and(room)
    for name in ("{peer}.mp4", "mix.mp4"):
        recorder = Recorder(tmp_path / name)
        recorder.follow(bot)
        await asyncio.gather(recorder.start(), recorder.start())
        await asyncio.gather(recorder.close(), recorder.close())
        await recorder.close()
        with pytest.raises(RuntimeError, match="closed"):
            await recorder.start()
    await Recorder(tmp_path / "never.mp4").close()


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.avi"):
        Recorder(tmp_path / "call.avi")
    with pytest.raises(ValueError, match="room"):
        Recorder(tmp_path / "{room}.mp4")
    recorder = Recorder(tmp_path / "{peer}.mp4")
    with pytest.raises(ValueError, match="peer"):
        recorder.add_track(ToneTrack())
    with pytest.raises(TypeError, match="17"):
        recorder.follow(17)


def test_the_measurement_detects_late_sound(tmp_path: Path) -> None:
    """A file whose sound is 100 ms late."""
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48_000)
        for number in range(75):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, (220 if number % 25 < 2 else 40, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts = number
            container.mux(video.encode(frame))
        for number in range(150):
            sound = av.AudioFrame("s16", "mono", 960)
            level = b"\x00\x40\x00\xc0" if number % 50 == 5 else bytes(4)
            sound.planes[0].update(level * 480)
            sound.sample_rate, sound.pts = 48_000, number * 960
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    assert len(flashes(path)) == 2
    assert len(clicks(path)) == 3
    assert offsets(path) == pytest.approx([0.1, 0.1], abs=0.025)
