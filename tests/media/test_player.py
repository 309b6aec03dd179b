"""Files play in real time, with bounded queues, from a thread that ends."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.receiving.inbound import iter_frames
from metered_realtime.media.sources import player as player_module
from metered_realtime.media.sources.decoding import FrameReader
from metered_realtime.media.sources.factories import from_file
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.media.sources.player import Player, PlayerTrack
from metered_realtime.media.sources.testsource import write_test_clip
from tests.support.patience import PATIENCE

from ..support.clips import FPS, write

pytestmark = pytest.mark.usefixtures("no_task_left")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no frame count as late, however busy the machine is. Tests of lateness set their own limits."""
    monkeypatch.setattr(player_module, "LATE", 20.0)
    monkeypatch.setattr(player_module, "STALLED", 20.0)


def decoder_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "metered-realtime-player"]


def wait_for_decoder() -> None:
    """Wait until the file has been read to its end."""
    for thread in decoder_threads():
        thread.join(PATIENCE)


def block(seconds: float) -> None:
    """Block the event loop, as a busy program does."""
    time.sleep(seconds)


async def read_all(track: PlayerTrack) -> list[tuple[Any, float]]:
    """Return the frames and the time of each."""
    return [(frame, time.monotonic()) async for frame in iter_frames(track)]


async def read_some(track: PlayerTrack, count: int) -> list[Any]:
    return [await track.recv() for _ in range(count)]


@pytest.mark.alone
async def test_a_file_plays_to_its_end_in_real_time(clip: Path) -> None:
    player = from_file(str(clip))
    assert isinstance(player, MediaPlayer)
    assert player.audio
    assert player.video
    audio, video = await asyncio.gather(read_all(player.audio), read_all(player.video))
    assert [read_counter(frame) for frame, _ in video] == list(range(20))
    assert [frame.pts for frame, _ in video] == [n * 3600 for n in range(20)]
    assert 0.7 < video[-1][1] - video[0][1] < 1.5
    assert 0.7 < audio[-1][1] - audio[0][1] < 1.5
    for frame, _ in audio:
        assert (frame.format.name, frame.layout.name) == ("s16", "stereo")
        assert (frame.sample_rate, frame.samples) == (48000, 960)
    assert [frame.pts for frame, _ in audio] == [n * 960 for n in range(len(audio))]
    assert player.audio.readyState == player.video.readyState == "ended"
    await player.close()
    assert not decoder_threads()


async def test_a_looped_file_goes_on_with_growing_timestamps(clip: Path) -> None:
    player = from_file(str(clip), loop=True)
    assert player.audio
    assert player.video
    audio, video = await asyncio.gather(read_some(player.audio, 60), read_some(player.video, 30))
    assert [read_counter(frame) for frame in video] == [*range(20), *range(10)]
    assert {b.pts - a.pts for a, b in pairwise(video[:20])} == {3600}
    assert 0 < video[20].pts - video[19].pts <= 3600 + 0.05 * 90000
    assert all(b.pts - a.pts >= 960 for a, b in pairwise(audio))
    await player.close()


async def test_an_unread_track_is_not_decoded(clip: Path) -> None:
    player = from_file(str(clip))
    assert player.audio
    assert player.video
    await read_all(player.audio)
    assert not player.video.queue
    assert player.video.frames_dropped == 0
    await player.close()


@pytest.mark.alone
async def test_a_late_reader_joins_at_the_present_without_waiting_for_a_key_frame(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "LATE", 0.2)
    player = from_file(str(clip))
    assert player.audio
    assert player.video
    await read_some(player.audio, 25)  # 0.48 s in; the clip's only key frame is its first
    audio = asyncio.ensure_future(read_all(player.audio))
    first = await player.video.recv()
    assert 5 <= read_counter(first) <= 19
    await audio
    await player.close()


async def test_a_reader_that_comes_after_the_file_was_decoded_still_gets_its_end(tmp_path: Path) -> None:
    path = write_test_clip(tmp_path / "short.mp4", seconds=0.2, width=64, height=64).path
    player = from_file(str(path))
    assert player.audio
    assert player.video
    await player.audio.recv()
    wait_for_decoder()  # a file this short is decoded at once
    assert [read_counter(frame) for frame, _ in await read_all(player.video)] == [0, 1, 2, 3, 4]
    await player.close()


async def test_stopping_one_track_leaves_the_other_playing(clip: Path) -> None:
    player = from_file(str(clip))
    assert player.audio
    assert player.video
    player.audio.stop()
    assert [read_counter(frame) for frame, _ in await read_all(player.video)] == list(range(20))
    with pytest.raises(MediaStreamError):
        await player.audio.recv()


async def test_stopping_the_tracks_ends_the_thread_and_does_not_wait_for_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = from_file(str(clip), loop=True)
    assert player.audio
    assert player.video
    await asyncio.gather(player.audio.recv(), player.video.recv())
    [thread] = decoder_threads()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", None)
        player.audio.stop()
        player.video.stop()
    await player.close()
    await player.close()
    assert not thread.is_alive()


async def test_stopping_the_only_track_that_is_read_ends_the_thread(clip: Path) -> None:
    player = from_file(str(clip))
    assert player.audio
    await player.audio.recv()
    [thread] = decoder_threads()
    player.audio.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert player.video
    assert read_counter(await player.video.recv()) < 20  # a thread starts again for the other
    await player.close()


@pytest.mark.alone
async def test_stop_ends_a_recv_that_is_waiting(clip: Path) -> None:
    player = from_file(str(clip))
    assert player.video
    await read_some(player.video, 2)
    reading = asyncio.ensure_future(player.video.recv())
    await asyncio.wait({reading}, timeout=0.005)
    player.video.stop()
    with pytest.raises(MediaStreamError):
        await asyncio.wait_for(reading, PATIENCE)
    await player.close()


async def test_a_file_waits_without_a_reader_and_then_continues_where_it_was(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "LATE", 0.25)
    monkeypatch.setattr(player_module, "STALLED", 0.5)
    player = from_file(str(clip))
    assert player.video
    await player.video.recv()
    block(1.3)  # longer than the clip: all readers stall
    assert player.video.queued_seconds <= player_module.AHEAD + 0.05
    assert read_counter(await player.video.recv()) == 1
    assert player.video.frames_dropped == 0
    await player.close()


@pytest.mark.alone
async def test_a_slow_reader_loses_frames_and_does_not_delay_the_other(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "AHEAD", 0.1)
    monkeypatch.setattr(player_module, "MAX_QUEUED", 0.2)
    monkeypatch.setattr(player_module, "LATE", 0.2)
    player = from_file(str(clip))
    assert player.audio
    assert player.video
    await player.video.recv()
    audio = await read_all(player.audio)
    assert audio[-1][0].time > 0.75
    assert audio[-1][1] - audio[0][1] < 1.5
    assert player.video.frames_dropped > 5
    rest = [read_counter(frame) for frame, _ in await read_all(player.video)]
    assert rest == sorted(rest)
    await player.close()


async def test_a_track_that_ends_early_does_not_cost_the_other_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "AHEAD", 0.05)
    monkeypatch.setattr(player_module, "MAX_QUEUED", 0.1)
    path = tmp_path / "short-video.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"  # type: ignore[union-attr]
        audio = container.add_stream("aac", rate=48000)
        picture = av.VideoFrame(64, 64, "yuv420p")
        picture.pts = 0
        container.mux(video.encode(picture))  # type: ignore[union-attr, arg-type]
        container.mux(video.encode(None))  # type: ignore[union-attr]
        for start in range(0, 48000 // 2, 960):
            sound = av.AudioFrame("s16", "stereo", 960)
            sound.planes[0].update(bytes(3840))
            sound.sample_rate, sound.pts = 48000, start
            container.mux(audio.encode(sound))  # type: ignore[union-attr, arg-type]
        container.mux(audio.encode(None))  # type: ignore[union-attr]
    player = from_file(str(path))
    assert player.audio
    assert player.video
    heard, _ = await asyncio.gather(read_all(player.audio), read_all(player.video))
    assert player.audio.frames_dropped == 0
    assert len(heard) in (25, 26)


async def test_a_live_source_keeps_only_the_newest(clip: Path) -> None:
    player = Player(
        FrameReader(av.open(str(clip))), live=True
    )  # a file that is read as fast as possible, like a device
    assert player.video
    await player.video.recv()
    wait_for_decoder()
    assert player.video.queued_seconds <= player_module.LIVE_QUEUED + 0.04
    rest = [read_counter(frame) for frame, _ in await read_all(player.video)]
    assert rest[-1] == 19
    assert player.video.frames_dropped == 20 - 1 - len(rest)


async def test_packets_are_dropped_only_up_to_the_next_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "AHEAD", 0.1)
    monkeypatch.setattr(player_module, "MAX_QUEUED", 0.3)
    monkeypatch.setattr(player_module, "LATE", 0.1)
    path = write(tmp_path / "t.webm", "libvpx", "libopus", seconds=2.0)
    player = from_file(str(path), packets=True)
    assert player.audio
    assert player.video
    seen = [await player.video.recv()]
    await read_some(player.audio, 60)  # 1.2 s: the video reader is away
    assert player.video.frames_dropped > 0
    seen += [packet for packet, _ in await read_all(player.video)]
    numbers = [round(packet.pts * FPS / 90_000) for packet in seen]
    for before, number, packet in zip(numbers, numbers[1:], seen[1:], strict=False):
        assert number == before + 1 or packet.is_keyframe
    assert numbers[-1] == 49
    await player.close()


async def test_a_truncated_file_plays_to_its_end(tmp_path: Path) -> None:
    truncated = tmp_path / "cut.mkv"
    write_test_clip(tmp_path / "whole.mp4", seconds=0.4, width=128, height=96)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(truncated), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: len(whole) * 3 // 4])
    player = from_file(str(truncated))
    assert player.video
    shown = [read_counter(frame) for frame, _ in await asyncio.wait_for(read_all(player.video), PATIENCE)]
    assert shown == list(range(len(shown)))
    assert 1 <= len(shown) < 10
    assert player.video.readyState == "ended"


async def test_a_file_with_sound_only_has_no_video_track(tmp_path: Path) -> None:
    wav = tmp_path / "tone.wav"
    with av.open(str(wav), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame("s16", "mono", 1600)
        sound.planes[0].update(b"\x01\x02" * 1600)
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))  # type: ignore[union-attr, arg-type]
    player = from_file(str(wav))
    assert player.video is None
    assert player.audio
    heard = await read_all(player.audio)
    assert len(heard) == 10
    left = bytes(heard[4][0].planes[0])[:2]
    assert int.from_bytes(left, "little", signed=True) == pytest.approx(0x0201, abs=3)
