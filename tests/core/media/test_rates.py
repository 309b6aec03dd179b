"""Rates of a counter with several readers."""

from __future__ import annotations

import pytest

from metered_realtime.core.media.rates import SPACING, SPAN, RateWindow


def test_the_first_rate_is_that_since_the_beginning() -> None:
    assert RateWindow(100.0).rate(50, 110.0) == 5.0


def test_a_counter_that_has_just_begun_has_no_rate() -> None:
    window = RateWindow(100.0)
    assert window.rate(50, 100.0) is None
    assert window.rate(50, 100.0 + SPACING / 2) is None
    assert window.rate(50, 101.0) == 50.0


def test_a_reader_gets_the_rate_since_it_read_last() -> None:
    window = RateWindow(0.0)
    counts = [0, 10, 10, 40, 40]
    assert [window.rate(count, float(now)) for now, count in enumerate(counts)][1:] == [10.0, 0.0, 30.0, 0.0]


def test_a_slow_reader_gets_the_rate_since_it_read_last() -> None:
    window = RateWindow(0.0)
    window.rate(1_000, 10.0)
    assert window.rate(1_300, 40.0) == 10.0


@pytest.mark.parametrize("every", [0.01, 0.1, 0.3, 0.5])
def test_a_hasty_reader_does_not_shorten_the_time_of_a_rate(every: float) -> None:
    window, rates = RateWindow(0.0), []
    for step in range(int(10 / every)):
        now = step * every
        rates.append(window.rate(int(now) * 100, now))  # the counter rises once per second
        assert len(window._samples) <= SPAN / SPACING + 3
    late = [rate for rate in rates[int(3 / every) :] if rate is not None]
    assert max(late) <= 100 / SPAN
    assert sum(late) / len(late) == pytest.approx(100, rel=0.2)


def test_two_readers_each_second_both_get_about_the_rate() -> None:
    window = RateWindow(0.0)
    for second in range(1, 10):
        for now in (second, second + 0.4):
            assert window.rate(round(100 * now), now) == pytest.approx(100)
