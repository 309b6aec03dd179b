"""The places of frames in a recording and of pictures in a grid, names of files, and reading encoded media."""

from __future__ import annotations

import random
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.coded_media import OPUS_SILENCE, h264_parameters, opus_samples, vp8_size
from metered_realtime.core.media.grid import Tile, fitted, tiles
from metered_realtime.core.media.recording_names import check_template, file_name, is_per_participant, numbered
from metered_realtime.core.media.track_clock import MAX_DRIFT, SLEW, TrackClock

NOON = datetime(2026, 1, 31, 12, 0, 5)


def placed(
    delays: list[float],
    *,
    step: float = 0.02,
    drift: float = 0.0,
    start: float = 100.0,
    clock: TrackClock | None = None,
) -> list[float]:
    """Return the places of frames that are sent `step` apart from second 0 on, with these delays."""
    clock = clock if clock is not None else TrackClock()
    found, waiting = [], []
    for number, delay in enumerate(delays):
        sent = number * step
        own = start + sent * (1 + drift)
        clock.note_frame(own, sent + delay)
        waiting.append(own)
        if clock.is_settled:
            found += map(clock.place_frame, waiting)
            waiting.clear()
    return found


def errors(found: list[float], step: float = 0.02) -> list[float]:
    return [at - number * step for number, at in enumerate(found)]


def test_a_track_has_its_place_by_the_quickest_of_its_first_frames() -> None:
    dice = random.Random(1)
    delays = [0.03 + dice.expovariate(1 / 0.02) for _ in range(500)]
    off = errors(placed(delays))
    assert max(off) - min(off) < 0.005, "they keep their distances"
    assert 0.03 <= off[0] < 0.04


def test_a_buffer_that_grows_moves_nothing() -> None:
    """After a loss aiortc delays sound for good (aiortc#1203)."""
    off = errors(placed([0.03] * 200 + [0.35] * 3000))
    assert max(off) - min(off) < 0.005


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_a_clock_that_is_wrong_is_followed(drift: float) -> None:
    off = errors(placed([0.03] * 50 * 600, drift=drift))
    assert abs(off[-1] - off[100]) < 0.02, "it would be 60 ms after ten minutes"
    steps = [abs(later - earlier) for earlier, later in pairwise(off[100:])]
    assert max(steps) <= (SLEW + MAX_DRIFT) * 0.02 + 1e-9, "and inaudibly"


def test_a_frame_quicker_than_all_before_moves_the_earliest_place_at_once() -> None:
    clock = TrackClock()
    placed([0.1] * 50 + [0.03] + [0.1] * 400, clock=clock)
    assert clock.earliest_place(109.0) == pytest.approx(9.03, abs=0.002)
    assert clock.place_frame(109.0) == pytest.approx(9.1, abs=0.01)
    early = TrackClock()
    placed([0.1] * 50 + [0.03, 0.1], clock=early)
    assert early.earliest_place(101.0) == pytest.approx(1.03, abs=0.001)
    assert early.place_frame(101.0) == pytest.approx(1.1, abs=0.001)


def test_times_that_restart_are_placed_by_arrival() -> None:
    clock = TrackClock()
    placed([0.03] * 200, clock=clock)
    clock.note_frame(7.0, 10.03)
    assert clock.place_frame(7.0) == pytest.approx(10.03)
    clock.note_frame(7.02, 10.05)
    assert clock.place_frame(7.02) == pytest.approx(10.05)


def test_a_pause_is_a_pause() -> None:
    clock = TrackClock()
    placed([0.03] * 100, clock=clock)
    clock.note_frame(100.0 + 60.0, 60.03)
    assert clock.place_frame(160.0) == pytest.approx(60.03, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100)), max_size=60))
def test_no_times_make_it_raise_and_places_are_finite(frames: list[tuple[float, float]]) -> None:
    clock, now = TrackClock(), 0.0
    for own, pause in frames:
        now += pause
        clock.note_frame(own, now)
        assert abs(clock.place_frame(own)) < 1e9


@given(st.integers(1, 60))
def test_tiles_are_even_inside_the_picture_and_do_not_overlap(count: int) -> None:
    placed_tiles = tiles(count, 1280, 720)
    assert len(placed_tiles) == count
    for index, tile in enumerate(placed_tiles):
        assert all(side % 2 == 0 for side in tile)
        assert tile.left >= 0 <= tile.top
        assert tile.left + tile.width <= 1280
        assert tile.top + tile.height <= 720
        for other in placed_tiles[:index]:
            apart = tile.left >= other.left + other.width or tile.top >= other.top + other.height
            assert apart or other.left >= tile.left + tile.width


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_a_fitted_picture_keeps_its_shape_and_stays_in_its_tile(width: int, height: int) -> None:
    tile = Tile(100, 50, 640, 360)
    inside = fitted(tile, width, height)
    assert tile.left <= inside.left
    assert inside.left + inside.width <= tile.left + tile.width
    assert tile.top <= inside.top
    assert inside.top + inside.height <= tile.top + tile.height
    if 50 < width < 1000 and 50 < height < 1000:
        assert inside.width / inside.height == pytest.approx(width / height, rel=0.1)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "C:\\x", ".hidden", "", "…", "x" * 500, "a\0b", "-rf"])
def test_no_peer_chooses_where_its_file_goes(name: str) -> None:
    made = file_name("{peer}-{start}.mp4", name, NOON)
    assert made.endswith("-20260131T120005.mp4")
    assert not set(made) & set('/\\\0:*?"<>|')
    assert not made.startswith((".", "-"))
    assert len(made) < 150


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{peer}.mp4", "_CON.mp4"),
        ("COM².{peer}.mp4", "_COM².CON.mp4"),
        ("{peer}-{start}.mp4", "CON-20260131T120005.mp4"),
    ],
)
def test_no_recording_is_named_like_a_device_of_windows(template: str, name: str) -> None:
    assert file_name(template, "CON", NOON) == name


def test_templates_and_numbers() -> None:
    assert is_per_participant("{peer}.mp4")
    assert not is_per_participant("mix-{start}.mp4")
    check_template("{peer}{start}.mp4")
    with pytest.raises(ValueError, match="room"):
        check_template("{room}.mp4")
    assert [numbered("a.mp4", number) for number in (1, 2)] == ["a.mp4", "a.2.mp4"]


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (OPUS_SILENCE, 960),
        (b"", 0),
        (b"\xfb", 0),
        (b"\xfb\x03", 2_880),
        (b"\xf9", 1_920),
        (b"\x08", 960),
        (b"\x60", 480),
    ],
)
def test_an_opus_packet_says_how_long_it_is(packet: bytes, samples: int) -> None:
    assert opus_samples(packet) == samples


def test_a_vp8_key_frame_says_its_size_and_h264_its_parameters() -> None:
    assert vp8_size(bytes(6) + (640 | 1 << 14).to_bytes(2, "little") + (480).to_bytes(2, "little")) == (640, 480)
    assert h264_parameters(b"\0\0\0\1\x67sps\0\0\0\1\x68pps\0\0\1\x65idr") == b"\x67sps"
    assert h264_parameters(b"\0\0\1\x41slice") == h264_parameters(b"") == b""
