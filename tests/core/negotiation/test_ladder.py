"""The ladder of attempts to repair a connection."""

from __future__ import annotations

from metered_realtime.core.negotiation.ladder import LADDER, STABLE_AFTER, Ladder


def test_the_rungs_are_climbed_one_by_one_and_end() -> None:
    ladder = Ladder()
    assert [ladder.next_delay(now=float(n)) for n in range(len(LADDER))] == list(LADDER)
    assert ladder.exhausted
    assert ladder.next_delay(now=100.0) is None
    assert (ladder.attempts, ladder.started_at) == (len(LADDER), 0.0)


def test_a_link_that_holds_begins_at_the_foot_again() -> None:
    ladder = Ladder()
    for now in (0.0, 1.0, 2.0):
        ladder.next_delay(now)
    ladder.connected(3.0)
    assert ladder.next_delay(3.0 + STABLE_AFTER) == LADDER[0]
    assert ladder.started_at == 3.0 + STABLE_AFTER


def test_a_link_that_dies_at_once_goes_on_climbing() -> None:
    ladder = Ladder()
    delays = []
    for n in range(4):
        delays.append(ladder.next_delay(float(n)))
        ladder.connected(n + 0.1)
    assert delays == list(LADDER[:4])


def test_a_moment_up_long_ago_does_not_count_twice() -> None:
    ladder = Ladder()
    ladder.connected(0.0)
    assert ladder.next_delay(1.0) == LADDER[0]
    assert ladder.next_delay(1.0 + STABLE_AFTER) == LADDER[1]


def test_a_reset_begins_anew() -> None:
    ladder = Ladder()
    for n in range(len(LADDER)):
        ladder.next_delay(float(n))
    ladder.reset()
    assert (ladder.exhausted, ladder.attempts, ladder.started_at) == (False, 0, None)
    assert ladder.next_delay(50.0) == LADDER[0]
