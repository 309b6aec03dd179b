"""The ladder of attempts to repair a connection."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.negotiation.ladder import LADDER, STABLE_AFTER, Ladder, Pace


def test_each_attempt_has_its_delay_until_none_is_left() -> None:
    ladder = Ladder()
    assert [ladder.next_delay(now=float(n)) for n in range(len(LADDER))] == list(LADDER)
    assert ladder.exhausted
    assert ladder.next_delay(now=100.0) is None
    assert (ladder.attempts, ladder.started_at) == (len(LADDER), 0.0)


def test_a_connection_that_holds_starts_the_ladder_again() -> None:
    ladder = Ladder()
    for now in (0.0, 1.0, 2.0):
        ladder.next_delay(now)
    ladder.connected(3.0)
    assert ladder.next_delay(3.0 + STABLE_AFTER) == LADDER[0]
    assert ladder.started_at == 3.0 + STABLE_AFTER


def test_a_connection_that_fails_at_once_goes_on_up_the_ladder() -> None:
    ladder = Ladder()
    delays = []
    for n in range(4):
        delays.append(ladder.next_delay(float(n)))
        ladder.connected(n + 0.1)
    assert delays == list(LADDER[:4])


def test_a_connection_that_failed_early_does_not_count_as_stable_later() -> None:
    ladder = Ladder()
    ladder.connected(0.0)
    assert ladder.next_delay(1.0) == LADDER[0]
    assert ladder.next_delay(1.0 + STABLE_AFTER) == LADDER[1]


def test_a_reset_starts_the_ladder_again() -> None:
    ladder = Ladder()
    for n in range(len(LADDER)):
        ladder.next_delay(float(n))
    ladder.reset()
    assert (ladder.exhausted, ladder.attempts, ladder.started_at) == (False, 0, None)
    assert ladder.next_delay(50.0) == LADDER[0]


def test_a_pace_puts_the_rungs_between_one_time_and_the_next_and_then_the_last_one() -> None:
    pace, times = Pace(), [0.0]
    for _ in range(len(LADDER) + 2):
        times.append(pace.next_time(times[-1]))
        assert pace.times <= len(LADDER)
    assert pace.is_over
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [*LADDER, LADDER[-1], LADDER[-1]]


def test_a_pace_with_a_longest_wait_goes_no_slower() -> None:
    pace, now = Pace(longest=3.0), 0.0
    waits = []
    for _ in range(12):
        waits.append(pace.next_time(now) - now)
        now += waits[-1]
    assert waits[:4] == [0.0, 1.0, 2.0, 3.0]
    assert max(waits) == 3.0


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 5.0, 10.0, 40.0]), st.booleans()), max_size=80))
def test_no_pattern_of_requests_is_followed_more_often_than_the_first_rungs(story: list[tuple[float, bool]]) -> None:
    """Whoever comes up, holds and asks as cleverly as possible gets four times in the time that counts as stable."""
    pace, now, due = Pace(), 0.0, None
    done: list[float] = []
    for passed, comes_up in story:
        now += passed
        if due is not None and due <= now:
            done.append(due)
            due = None
        if comes_up:
            pace.connected(now)
        if due is None:
            due = pace.next_time(now)
    for first in done:
        assert len([it for it in done if first <= it < first + STABLE_AFTER]) <= 4


def test_a_connection_that_came_up_before_it_is_replaced_again_has_not_held() -> None:
    pace = Pace()
    for _ in range(5):
        at = pace.next_time(0.0)
    pace.connected(at - 3.0)
    assert pace.next_time(at - 3.0 + STABLE_AFTER) == at + LADDER[5]
