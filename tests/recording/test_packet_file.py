"""A recording of packets continues, whatever a sender changes, within a bounded number of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import pytest

from metered_realtime.core.media.coded_media import h264_parameters, h264_size
from metered_realtime.media.codecs.available import require_encoder
from metered_realtime.recording import packet_file, reencoding
from metered_realtime.recording.packet_file import MIN_PART, QUICK_PARTS, PacketFile, Unit
from metered_realtime.recording.reencoding import PictureEncoder

from ..support.coding import H264, VP8, pictures, sound


class Recording:
    """A file that gets packets by a clock of the test."""

    def __init__(self, path: Path, format: str = "matroska") -> None:
        self.now = 0.0
        self.file = PacketFile(path, format, clock=lambda: self.now)
        self.pictures = {codec.mimeType: pictures(1, codec=codec)[0] for codec in (VP8, H264)}
        self._sound = sound(1)[0]

    def write(self, codec: str, *, is_key: bool = True) -> None:
        """Write a picture, and the sound of 20 ms."""
        self.file.write(Unit("audio", "audio/opus", self._sound.data, self.now, True))
        self.file.write(Unit("video", codec.lower(), self.pictures[codec].data, self.now, is_key))
        self.now += 0.02


def pictures_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def test_a_codec_that_changes_with_each_picture_costs_a_file_a_second_and_no_sound(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.mkv")
    for number in range(500):
        recording.write(("video/VP8", "video/H264")[number % 2])
    file = recording.file
    file.close()
    assert len(file.files) <= recording.now / MIN_PART + QUICK_PARTS
    assert file.written["audio"] == 500
    assert file.changes_refused > 200
    assert file.written["video"] + file.left_out == 500
    assert sum(map(pictures_in, file.files)) == file.written["video"]


def test_after_a_refused_change_pictures_go_on_with_the_next_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_file, "QUICK_PARTS", 1)
    recording = Recording(tmp_path / "a.mkv")
    recording.write("video/VP8")
    recording.write("video/H264")  # too early
    recording.write("video/VP8", is_key=False)  # depends on a picture that is missing
    assert recording.file.wants_key
    assert recording.file.written["video"] == 1
    recording.now = MIN_PART
    recording.write("video/H264")
    recording.write("video/H264", is_key=False)
    assert not recording.file.wants_key
    recording.file.close()
    assert [pictures_in(path) for path in recording.file.files] == [1, 2]


def test_when_there_are_enough_files_the_last_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_file, "MAX_PARTS", 3)
    recording = Recording(tmp_path / "a.mkv")
    for codec in ("video/VP8", "video/H264") * 5:
        recording.write(codec)
        recording.now += MIN_PART
    file = recording.file
    assert len(file.files) == 3
    assert file.changes_refused == 4
    assert not file.wants_key, "no key frame helps"
    recording.write("video/VP8")
    file.close()
    assert [pictures_in(path) for path in file.files] == [1, 1, 5]
    assert file.written["audio"] == 11


def test_a_change_before_the_file_has_begun_loses_nothing(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.mkv")
    for codec in ("video/VP8", "video/H264"):
        recording.file.write(Unit("video", codec.lower(), recording.pictures[codec].data, recording.now, True))
        recording.now += 0.02
    recording.file.close()
    assert [pictures_in(path) for path in recording.file.files] == [1, 1]


def test_a_size_that_changes_with_each_picture_opens_an_encoder_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Sequence[str]] = []
    monkeypatch.setattr(reencoding, "require_encoder", lambda names: opened.append(names) or require_encoder(names))
    encoder = PictureEncoder("mp4")
    units = [
        unit
        for number in range(90)
        for unit in encoder.units(av.VideoFrame(64 + 16 * (number % 2), 48, "yuv420p"), number / 30)
    ]
    assert len(opened) == 3
    assert len(units) == 90
    assert h264_size(h264_parameters(units[0].data)) == (64, 48)
