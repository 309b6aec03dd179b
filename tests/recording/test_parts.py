"""Parts keep their place in time and their sync when they are joined."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path

import av
import pytest

from metered_realtime.media.codecs.pcm import FRAME_SAMPLES, pcm_frame
from metered_realtime.media.sources.pattern import Pattern, read_counter
from metered_realtime.recording.parts import AudioPart, VideoPart, join

START = 0.7  # seconds into the recording at which both tracks begin


def write_parts(directory: Path) -> list[Path]:
    """Write 1 s of numbered pictures and 1 s of sound that is loud at its half."""
    audio, video = AudioPart(directory / "audio.nut"), VideoPart(directory / "video.nut")
    for number in range(25):
        frame = Pattern(64, 64).frame(number)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        video.write(frame, START + number / 25)
    for number in range(50):
        level = 20000 if number == 25 else 0
        pcm = array("h", [level, level, -level, -level] * (FRAME_SAMPLES // 2)).tobytes()
        audio.write(pcm_frame(pcm, number * FRAME_SAMPLES), START + number * 0.02)
    audio.close()
    video.close()
    return [audio.path, video.path]


def first_loud(path: Path) -> float:
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            left = array("f", bytes(frame.planes[0])[: 4 * frame.samples])
            for index, level in enumerate(left):
                if abs(level) > 0.2:
                    return float(frame.time) + index / 48000
    raise AssertionError("silence")


@pytest.mark.parametrize(("extension", "format"), [("mp4", "mp4"), ("mkv", "matroska")])
def test_sound_and_picture_stay_together(tmp_path: Path, extension: str, format: str) -> None:
    path = tmp_path / f"joined.{extension}"
    join(write_parts(tmp_path), path, format)
    with av.open(str(path)) as container:
        times = {read_counter(frame): float(frame.time) for frame in container.decode(video=0)}
    assert len(times) == 25
    # Matroska moves everything by the 21 ms of the audio encoder's priming: all tracks together, or none.
    moved = times[0] - START
    assert 0 <= moved < 0.025
    assert first_loud(path) - moved == pytest.approx(START + 0.5, abs=0.004)


def test_parts_without_a_frame_are_left_out(tmp_path: Path) -> None:
    empty = VideoPart(tmp_path / "empty.nut")
    empty.close()
    parts = write_parts(tmp_path)
    join([empty.path, *parts], tmp_path / "joined.mp4", "mp4")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]
    with pytest.raises(ValueError, match="nothing"):
        join([empty.path], tmp_path / "none.mp4", "mp4")


def test_sound_that_overlaps_is_dropped_and_counted(tmp_path: Path) -> None:
    part = AudioPart(tmp_path / "audio.nut")
    silence = bytes(4 * FRAME_SAMPLES)
    for at in (1.0, 1.02, 0.5, 1.04):
        part.write(pcm_frame(silence, 0), at)
    part.close()
    assert (part.frames_written, part.frames_dropped) == (3, 1)


def test_pictures_that_do_not_come_later_are_dropped_and_counted(tmp_path: Path) -> None:
    part = VideoPart(tmp_path / "video.nut")
    for at in (1.0, 1.0, 0.5, 1.1):
        part.write(Pattern(64, 64).frame(0), at)
    part.close()
    assert (part.frames_written, part.frames_dropped) == (2, 2)
