"""Generated media: pictures show their number, the sound has its pitch."""

from __future__ import annotations

from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.sources import testsource
from metered_realtime.media.sources.pattern import Pattern, read_counter
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack, write_test_clip

from ..support.virtual_time import now, virtual_time


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (642, 362), (1280, 720)])
def test_a_picture_shows_its_number(size: tuple[int, int]) -> None:
    pattern = Pattern(*size)
    for number in (0, 1, 0x5555, 0xAAAA, 65535):
        assert read_counter(pattern.frame(number)) == number
    assert read_counter(pattern.frame(65536 + 7)) == 7


def test_the_number_survives_scaling() -> None:
    frame = Pattern(640, 480).frame(0x1234)
    assert read_counter(frame.reformat(width=160, height=120, format="rgb24")) == 0x1234


def test_pictures_have_bars_of_colour_and_a_box_that_moves() -> None:
    pattern = Pattern(640, 480)
    first, later = pattern.frame(0), pattern.frame(30)
    assert bytes(first.planes[0]) != bytes(later.planes[0])
    assert len(set(bytes(first.planes[1])[:320])) >= 7


@pytest.mark.parametrize("size", [(63, 64), (641, 480), (640, 8192), (640.0, 480)])
def test_sizes_that_cannot_be_drawn_are_named(size: Any) -> None:
    with pytest.raises(ValueError, match=r"width|height"):
        Pattern(*size)


@virtual_time
async def test_pattern_track_runs_at_its_rate() -> None:
    track = PatternTrack(width=64, height=64, fps=50)
    started = now()
    frames = [await track.recv() for _ in range(11)]
    assert now() - started == pytest.approx(0.2)
    assert [read_counter(frame) for frame in frames] == list(range(11))
    assert [frame.pts for frame in frames] == [n * 1800 for n in range(11)]
    track.stop()
    with pytest.raises(MediaStreamError):
        await track.recv()


@virtual_time
async def test_tone_track_has_its_pitch_and_a_click_at_each_second() -> None:
    track = ToneTrack(frequency=1000)
    frames = [await track.recv() for _ in range(3)]
    left = array("h", b"".join(bytes(frame.planes[0])[:3840] for frame in frames))[0::2]
    tone = left[480:]
    rises = sum(before < 0 <= after for before, after in pairwise(tone))
    assert rises == pytest.approx(1000 * len(tone) / 48000, abs=1)
    assert max(left[:240]) > 3 * max(tone)
    assert [frame.pts for frame in frames] == [0, 960, 1920]
    track.stop()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PatternTrack(fps=0), "fps"),
        (lambda: PatternTrack(fps=29.97), "fps"),  # type: ignore[arg-type]
        (lambda: ToneTrack(frequency=0), "frequency"),
        (lambda: ToneTrack(frequency=440.5), "frequency"),  # type: ignore[arg-type]
    ],
)
def test_impossible_rates_are_named(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_the_clip_has_every_picture_and_the_sound(tmp_path: Path) -> None:
    fractions: list[float] = []
    clip = write_test_clip(tmp_path / "t.mp4", seconds=1.2, width=128, height=96, progress=fractions.append)
    with av.open(str(clip.path)) as container:
        assert [read_counter(frame) for frame in container.decode(video=0)] == list(range(30))
    with av.open(str(clip.path)) as container:
        sound = array("f", b"".join(bytes(f.planes[0])[: 4 * f.samples] for f in container.decode(audio=0)))
    assert len(sound) / 48000 == pytest.approx(1.2, abs=0.05)
    for second in (0, 1):
        assert max(sound[second * 48000 : second * 48000 + 480]) > 0.5
    quiet = sound[4800:43200]
    rises = sum(before < 0 <= after for before, after in pairwise(quiet))
    assert rises == pytest.approx(440 * 0.8, abs=2)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_the_clip_does_with_other_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testsource, "H264_ENCODERS", ("no-such-encoder", "mpeg4"))
    monkeypatch.setattr(testsource, "AUDIO_ENCODERS", ("no-such-encoder",))
    clip = write_test_clip(tmp_path / "t.mp4", seconds=0.2, width=128, height=96)
    assert (clip.video_codec, clip.audio_codec) == ("mpeg4", None)
    with av.open(str(clip.path)) as container:
        assert [read_counter(frame) for frame in container.decode(video=0)] == list(range(5))


def test_without_any_video_encoder_the_clip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testsource, "H264_ENCODERS", ("no-such-encoder",))
    with pytest.raises(RuntimeError, match="no-such-encoder"):
        write_test_clip(tmp_path / "t.mp4", seconds=0.2)
    assert not list(tmp_path.iterdir())


def test_a_cancelled_clip_leaves_no_file(tmp_path: Path) -> None:
    def give_up(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_test_clip(tmp_path / "t.mp4", progress=give_up)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_impossible_lengths_are_named(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        write_test_clip(tmp_path / "t.mp4", seconds=seconds)
