"""A time line that moves forward, whatever its source does."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.timeline import MAX_LEAP, MAX_REORDERING, SMALLEST_STEP, Timeline

STEP = Fraction(1, 20)


def test_one_source_keeps_its_own_times() -> None:
    line = Timeline()
    for number in range(5):
        assert line.place_unit(5 + number * STEP, 100 + number * 0.05) == 5 + number * STEP


def test_another_source_goes_on_by_the_time_that_has_passed() -> None:
    for start in (Fraction(0), Fraction(49, 10), Fraction(1_000)):
        line = Timeline()
        line.place_unit(Fraction(5), 100)
        assert float(line.place_unit(start, 100.2)) == 5.2
        assert float(line.place_unit(start + STEP, 100.25)) == 5.25


def test_a_pause_is_not_another_source() -> None:
    line = Timeline()
    line.place_unit(Fraction(0), 0)
    assert line.place_unit(Fraction(10), 10) == 10
    assert line.place_unit(10 + STEP, 70) == 10 + STEP
    assert line.place_unit(10 + STEP + Fraction(MAX_LEAP), 70.1) == 11 + STEP


def test_units_without_a_time_are_placed_by_the_clock() -> None:
    line = Timeline()
    assert line.place_unit(None, 50) == 0
    assert line.place_unit(None, 50.5) == Fraction(1, 2)
    assert line.place_unit(None, 50.5) == Fraction(1, 2) + SMALLEST_STEP
    placed = line.place_unit(Fraction(7), 51)
    assert placed == 1 + SMALLEST_STEP
    assert line.place_unit(7 + STEP, 51.05) == placed + STEP


def test_packets_may_come_out_of_their_order() -> None:
    line = Timeline(reorders=True)
    times = [0, 3, 1, 2, 6, 4, 5]
    assert [line.place_unit(at * STEP, 0.05 * n) for n, at in enumerate(times)] == [at * STEP for at in times]
    assert line.place_unit(6 * STEP - MAX_REORDERING, 0.4) > 6 * STEP


@given(st.lists(st.tuples(st.none() | st.fractions(-5, 5), st.floats(0, 3)), max_size=30))
def test_it_always_goes_forward(units: list[tuple[Fraction | None, float]]) -> None:
    line, now, last = Timeline(), 0.0, None
    for at, passed in units:
        now += passed
        placed = line.place_unit(at, now)
        assert last is None or placed > last
        last = placed
