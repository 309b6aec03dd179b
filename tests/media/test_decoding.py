"""A file is read as frames or packets on one time line, over any number of loops."""

from __future__ import annotations

import struct
from array import array
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from metered_realtime.media.sources.decoding import MAX_SOUND, Decoded, FrameReader
from metered_realtime.media.sources.factories import from_file
from metered_realtime.media.sources.passthrough import Passthrough
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.media.sources.testsource import write_test_clip

from ..support.clips import write

LOOPS = 20


def read(path: Path, *, until: float = float("inf"), packets: bool = False, **options: Any) -> list[Decoded]:
    """Return everything that is read from a file up to this time."""
    with av.open(str(path)) as container:
        passed: dict[Any, Passthrough] = {}
        if packets:
            passed = {stream.type: Passthrough(stream) for stream in container.streams}
        seen = []
        for decoded in FrameReader(container, passed=passed, **options).frames(lambda: ("audio", "video")):
            if decoded.time > until:
                break
            seen.append(decoded)
        return seen


def of(kind: str, seen: list[Decoded]) -> list[Any]:
    return [decoded.frame for decoded in seen if decoded.kind == kind]


def clicks(frames: list[av.AudioFrame]) -> list[float]:
    """Return the times at which clicks begin."""
    found, quiet = [], 1.0
    for frame in frames:
        left = array("h", bytes(frame.planes[0])[: 4 * frame.samples])[0::2]
        assert frame.pts is not None
        for n in range(0, len(left), 48):
            if max(map(abs, left[n : n + 48])) > 4000:
                if quiet > 0.05:
                    found.append((frame.pts + n) / 48_000)
                quiet = 0.0
            else:
                quiet += 0.001
    return found


FILES = [
    ("t.mp4", "libx264", "aac", {}),  # 1.0 s and AAC's whole frames of 21.3 ms
    ("t.mp4", "libx264", "aac", {"rate": 44_100}),
    ("t.mp4", "libx264", "aac", {"audio_seconds": 0.93}),
    ("t.mp4", "libx264", "aac", {"audio_seconds": 1.07}),
    ("t.webm", "libvpx", "libopus", {}),
    ("t.mkv", "mpeg4", "pcm_s16le", {"rate": 8000, "audio_seconds": 0.99}),
    ("t.ts", "libx264", "aac", {}),  # begins at 1.4 s
]


@pytest.mark.parametrize(("name", "video", "audio", "options"), FILES)
def test_sound_and_picture_stay_together_over_many_loops(
    tmp_path: Path, name: str, video: str, audio: str, options: dict[str, Any]
) -> None:
    path = write(tmp_path / name, video, audio, **options)
    seen = read(path, loop=True, until=LOOPS * 1.1)
    pictures, sound = of("video", seen), of("audio", seen)
    firsts = [frame.pts / 90_000 for frame in pictures if read_counter(frame) == 0]
    heard = clicks(sound)
    assert len(firsts) >= LOOPS
    assert len(heard) >= LOOPS
    apart = [min((click - first for click in heard), key=abs) for first in firsts[:LOOPS]]
    assert max(apart) - min(apart) < 0.005
    assert abs(apart[-1] - apart[0]) < 0.002
    lengths = [b - a for a, b in pairwise(firsts)]
    assert max(lengths) - min(lengths) < 0.025
    assert all(b.pts > a.pts for a, b in pairwise(pictures))
    assert all(b.pts - a.pts == 960 for a, b in pairwise(sound))


@pytest.mark.parametrize(("name", "video", "audio"), [(f[0], f[1], f[2]) for f in FILES if not f[3]])
@pytest.mark.parametrize("start", [0.4, 0.52, 0.96])
def test_a_start_is_met_to_the_picture_and_the_sample(
    tmp_path: Path, name: str, video: str, audio: str, start: float
) -> None:
    path = write(tmp_path / name, video, audio, seconds=2.0)
    seen = read(path, start=start)
    pictures, sound = of("video", seen), of("audio", seen)
    whole = read(path)
    first = next(frame for frame in of("video", whole) if frame.pts / 90_000 >= start - 0.001)
    assert read_counter(pictures[0]) == read_counter(first)
    assert pictures[0].pts / 90_000 == pytest.approx(first.pts / 90_000 - start, abs=0.001)
    assert sound[0].pts == 0
    assert clicks(sound)[0] == pytest.approx(clicks(of("audio", whole))[1] - start, abs=0.002)


def test_loops_begin_at_the_start_that_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.mp4", "libx264", "aac")
    seen = read(path, start=0.6, loop=True, until=1.5)
    numbers = [read_counter(frame) for frame in of("video", seen)]
    assert numbers[:10] == list(range(15, 25))
    assert numbers[10:20] == list(range(15, 25))


def test_sound_alone_starts_where_it_was_asked_to(tmp_path: Path) -> None:
    for name, codec in (("t.wav", "pcm_s16le"), ("t.mp3", "libmp3lame"), ("t.ogg", "libopus"), ("t.flac", "flac")):
        path = write(tmp_path / name, None, codec, seconds=3.0)
        assert clicks(of("audio", read(path, start=1.7)))[0] == pytest.approx(0.3, abs=0.003), name


BASELINE = {"profile": "Baseline"}


def decode(kind: str, codec: str, packets: list[Any]) -> list[Any]:
    """Decode the packets alone, as a receiver does."""
    context: Any = av.CodecContext.create(codec, "r")
    frames = []
    for packet in packets:
        frames += context.decode(av.Packet(bytes(packet)))
    return frames + context.decode(None)


@pytest.mark.parametrize(
    ("name", "video", "decoder", "media_type", "options"),
    [
        ("t.mp4", "libx264", "h264", "video/H264", BASELINE),
        ("t.mkv", "libx264", "h264", "video/H264", BASELINE),
        ("t.ts", "libx264", "h264", "video/H264", BASELINE),
        ("t.webm", "libvpx", "vp8", "video/VP8", {}),
    ],
)
def test_packets_can_be_decoded_by_themselves_over_loops(
    tmp_path: Path, name: str, video: str, decoder: str, media_type: str, options: dict[str, Any]
) -> None:
    path = write(tmp_path / name, video, "libopus", **options)
    player = from_file(str(path), packets=True)
    assert player.video
    assert player.audio
    assert (player.video.codec, player.audio.codec) == (media_type, "audio/opus")
    player.video.stop()
    player.audio.stop()
    seen = read(path, packets=True, loop=True, until=3.2)
    pictures, sound = of("video", seen), of("audio", seen)
    numbers = [read_counter(frame) for frame in decode("video", decoder, pictures)]
    assert numbers[:75] == [*range(25)] * 3
    assert len(decode("audio", "opus", sound)) == len(sound) > 140
    for frames, clock in ((pictures, 90_000), (sound, 48_000)):
        assert {frame.time_base for frame in frames} == {Fraction(1, clock)}
        assert all(0 < (b.pts - a.pts) / clock < 0.07 for a, b in pairwise(frames))
    keys = [decoded.key for decoded in seen if decoded.kind == "video"]
    assert keys == [bool(packet.is_keyframe) for packet in pictures]
    assert keys[0]


def test_packets_start_at_the_key_frame_before(tmp_path: Path) -> None:
    path = write(tmp_path / "t.webm", "libvpx", "libopus")
    seen = read(path, packets=True, start=0.7)
    numbers = [read_counter(frame) for frame in decode("video", "vp8", of("video", seen))]
    assert numbers == list(range(10, 25))
    assert of("video", seen)[0].pts == 0
    assert of("audio", seen)[0].pts <= 960


@pytest.mark.parametrize(
    ("name", "video", "audio", "options", "named"),
    [
        ("t.mp4", "libx264", "libopus", {"profile": "High"}, "High"),
        ("t.mp4", "libx264", "aac", BASELINE, "aac"),
        ("t.mkv", "mpeg4", None, {}, "mpeg4"),
        ("t.wav", None, "pcm_s16le", {}, "pcm_s16le"),
    ],
)
def test_what_cannot_be_sent_as_packets_is_named(
    tmp_path: Path, name: str, video: str | None, audio: str | None, options: dict[str, Any], named: str
) -> None:
    path = write(tmp_path / name, video, audio, **options)
    with pytest.raises(ValueError, match=named) as caught:
        from_file(str(path), packets=True)
    assert name in str(caught.value)


def test_packets_where_possible_decodes_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "t.mp4", "libx264", "aac", **BASELINE)
    player = from_file(str(path), packets=None)
    assert player.video
    assert player.audio
    assert (player.video.codec, player.audio.codec) == ("video/H264", None)
    player.video.stop()
    player.audio.stop()


def test_nothing_is_sent_as_packets_unless_asked(clip: Path) -> None:
    player = from_file(str(clip))
    assert player.video
    assert player.video.codec is None
    player.video.stop()


def test_a_clip_of_the_demo_loops_without_drift(tmp_path: Path) -> None:
    path = write_test_clip(tmp_path / "demo.mp4", seconds=1.0, width=128, height=96).path
    seen = read(path, loop=True, until=LOOPS * 1.1)
    firsts = [frame.pts / 90_000 for frame in of("video", seen) if read_counter(frame) == 0]
    assert firsts[LOOPS] - firsts[0] == pytest.approx(LOOPS * (firsts[1] - firsts[0]), abs=0.03)


def test_a_frame_of_sound_that_lasts_for_minutes_is_not_stretched_out(tmp_path: Path) -> None:
    path = tmp_path / "t.flac"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("flac", rate=1)
        sound.layout = "mono"
        frame = av.AudioFrame("s16", "mono", 4_000)
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate, frame.pts = 1, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        reader = FrameReader(container)
        assert len(list(reader.frames(lambda: ("audio",)))) <= MAX_SOUND / 0.02 + 1
        assert reader.errors > 0


@pytest.mark.parametrize(("rate", "channels", "format"), [(8_000, 9, 1), (8_000, 1, 3)])
def test_sound_that_cannot_be_played_is_counted(tmp_path: Path, rate: int, channels: int, format: int) -> None:
    """Channels that cannot be mixed; samples that are not finite."""
    path, size = tmp_path / "t.wav", 4 if format == 3 else 2
    data = (struct.pack("<f", float("nan")) if format == 3 else b"\1\2") * channels * 20_000
    layout = struct.pack("<IHHIIHH", 16, format, channels, rate, rate * size * channels, size * channels, 8 * size)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", len(data))
    path.write_bytes(head + data)
    with av.open(str(path)) as container:
        reader = FrameReader(container)
        assert not list(reader.frames(lambda: ("audio",)))
        assert reader.errors > 0


@pytest.mark.parametrize("packets", [False, True])
def test_pictures_without_times_follow_each_other(tmp_path: Path, packets: bool) -> None:
    path = write(tmp_path / "t.h264", "libx264", None, **BASELINE)
    seen = read(path, packets=packets)
    assert [frame.pts for frame in of("video", seen)] == [3_600 * number for number in range(25)]
