"""The ladder of attempts to repair a connection."""

from __future__ import annotations

from metered_realtime.core.negotiation.ladder import LADDER, STABLE_AFTER, Ladder


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
