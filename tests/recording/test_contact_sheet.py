"""A contact sheet shows a stream of any length in one picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import pytest

from metered_realtime.media.sources.pattern import Pattern, read_counter
from metered_realtime.recording.contact_sheet import MAX_SHAPE, ContactSheet


def cells(path: Path, columns: int, width: int, height: int) -> list[int]:
    """Return the numbers shown in the cells of a sheet, row by row."""
    with av.open(str(path)) as container:
        sheet = next(container.decode(video=0)).reformat(format="rgb24")
    pixels, stride = bytes(sheet.planes[0]), sheet.planes[0].line_size
    numbers = []
    for row in range(sheet.height // height):
        for column in range(columns):
            cell = av.VideoFrame(width, height, "rgb24")
            target, line = memoryview(cell.planes[0]), cell.planes[0].line_size
            for y in range(height):
                start = (row * height + y) * stride + 3 * column * width
                target[y * line : y * line + 3 * width] = pixels[start : start + 3 * width]
            numbers.append(read_counter(cell))
    return numbers


@pytest.mark.parametrize("length", [6, 7, 12, 13, 100, 1000])
def test_the_cells_are_spread_over_the_whole_stream(tmp_path: Path, length: int) -> None:
    sheet, pattern = ContactSheet(3, 2, 160), Pattern(320, 240)
    for number in range(length):
        sheet.add(pattern.frame(number))
        assert sheet.frames_kept <= 12
    shown = cells(sheet.write_png(tmp_path / "sheet.png"), 3, 160, 120)
    assert shown[0] == 0
    assert len(shown) == 6
    steps = [after - before for before, after in pairwise(shown)]
    assert min(steps) >= 1
    assert shown[-1] >= length * 0.75 - 1
    assert max(steps) <= 2 * min(steps) + 1
    assert sheet.frames_seen == length


def test_few_frames_make_a_short_sheet(tmp_path: Path) -> None:
    sheet, pattern = ContactSheet(4, 3, 160), Pattern(320, 240)
    for number in range(2):
        sheet.add(pattern.frame(number))
    assert cells(sheet.write_png(tmp_path / "sheet.png"), 4, 160, 120)[:2] == [0, 1]
    with av.open(str(tmp_path / "sheet.png")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (640, 120)


def test_frames_of_another_shape_are_fitted_into_the_cell(tmp_path: Path) -> None:
    sheet = ContactSheet(2, 1, 160)
    sheet.add(Pattern(320, 240).frame(3))
    sheet.add(Pattern(120, 480).frame(5))
    path = sheet.write_png(tmp_path / "sheet.png")
    assert cells(path, 2, 160, 120)[0] == 3
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).reformat(format="gray")
    row = bytes(frame.planes[0])[60 * frame.planes[0].line_size :][160:320]
    assert not any(row[:60])
    assert any(row[65:95])


def test_frames_are_not_changed() -> None:
    frame = Pattern(320, 240).frame(1)
    frame.pts = 5
    ContactSheet().add(frame)
    assert (frame.width, frame.height, frame.format.name, frame.pts) == (320, 240, "yuv420p", 5)


def test_an_empty_sheet_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        ContactSheet().write_png(tmp_path / "sheet.png")


@pytest.mark.parametrize("shape", [(0, 3, 320), (4, 0, 320), (40, 40, 320), (4, 3, 0)])
def test_impossible_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not"):
        ContactSheet(*shape)


def test_only_video_frames_are_taken() -> None:
    with pytest.raises(TypeError, match="AudioFrame"):
        ContactSheet().add(av.AudioFrame())  # type: ignore[arg-type]


def test_a_first_picture_of_an_extreme_shape_makes_no_huge_cells(tmp_path: Path) -> None:
    sheet = ContactSheet(2, 2, 16)
    sheet.add(av.VideoFrame(2, 2_000, "yuv420p"))
    sheet.add(av.VideoFrame(16, 16, "yuv420p"))
    with av.open(str(sheet.write_png(tmp_path / "sheet.png"))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (32, 16 * MAX_SHAPE)
