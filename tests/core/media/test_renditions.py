"""Which receiver gets which rendition, and at which bitrate: a slow receiver does not affect the others."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.renditions import (
    BACK_AFTER,
    FIRST_RETRY,
    LOW_SHARE,
    SLOW_AFTER,
    SLOW_SHARE,
    BitrateLimits,
    Decision,
    Renditions,
)

LIMITS = BitrateLimits(floor=250_000, start=500_000, ceiling=1_500_000, low_floor=100_000, step=0.15, hold=2.0)
STEP = 0.25


class Room:
    """Receivers with given estimates, over time. Renditions reach their targets, as with a moving picture."""

    def __init__(self, estimates: Mapping[str, int | None]) -> None:
        self.renditions: Renditions[str] = Renditions(LIMITS)
        self.now = 0.0
        self.moves = 0
        self.decision: Decision[str] = Decision(LIMITS.start, None, frozenset())
        self.set(estimates)

    def set(self, estimates: Mapping[str, int | None]) -> None:
        for name, estimate in estimates.items():
            self.renditions.add_receiver(name)
            if estimate is not None:
                self.renditions.set_estimate(name, estimate)

    def run(self, seconds: float, *, full: float | None = None, low: float | None = None) -> Decision[str]:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            before = self.decision
            carried = full if full is not None else float(before.full)
            low_carried = low if low is not None else float(before.low or 0)
            self.decision = self.renditions.decide(self.now, carried, low_carried)
            self.moves += len(self.decision.slow ^ before.slow)
        return self.decision


def test_without_estimates_the_target_is_the_start() -> None:
    assert Room({"a": None, "b": None}).run(10) == Decision(LIMITS.start, None, frozenset())


def test_a_single_receiver_is_followed_within_the_limits() -> None:
    for estimate, target in ((800_000, 800_000), (50_000, LIMITS.floor), (9_000_000, LIMITS.ceiling)):
        assert Room({"a": estimate}).run(10) == Decision(target, None, frozenset())


def test_a_slow_receiver_gets_a_rendition_of_its_own_and_the_others_keep_theirs() -> None:
    room = Room({"a": 2_000_000, "b": 1_400_000, "slow": 200_000})
    assert room.run(STEP).full == 1_400_000
    assert room.run(SLOW_AFTER + STEP) == Decision(1_400_000, 200_000, frozenset({"slow"}))


def test_most_of_them_may_be_slow() -> None:
    decision = Room({"fast": 1_500_000, "b": 300_000, "c": 250_000, "d": 600_000}).run(3)
    assert decision == Decision(1_500_000, 250_000, frozenset("bcd"))


def test_receivers_that_are_all_slow_are_not_slow() -> None:
    assert Room({"a": 400_000, "b": 300_000}).run(10) == Decision(300_000, None, frozenset())


def test_an_estimate_above_what_is_sent_proves_nothing_and_lowers_nothing() -> None:
    """A still picture: the estimate of a new receiver cannot rise."""
    assert Room({"old": 1_500_000, "new": 150_000}).run(30, full=100_000) == Decision(1_500_000, None, frozenset())


def test_a_receiver_that_recovers_is_fast_again() -> None:
    room = Room({"a": 1_500_000, "b": 200_000})
    assert room.run(3).slow == {"b"}
    room.set({"b": 1_200_000})
    assert room.run(BACK_AFTER - 2 * STEP).slow == {"b"}
    assert room.run(4 * STEP) == Decision(1_200_000, None, frozenset())


def test_a_single_remaining_receiver_is_not_slow() -> None:
    room = Room({"a": 1_500_000, "b": 200_000})
    assert room.run(3).slow == {"b"}
    room.renditions.remove_receiver("a")
    assert room.run(STEP).slow == frozenset()


def test_a_receiver_with_room_to_spare_is_tried_again_and_less_often_after_failures() -> None:
    room = Room({"a": 1_500_000, "b": 200_000})
    assert room.run(3).slow == {"b"}
    assert room.run(FIRST_RETRY - 4, low=100_000).slow == {"b"}
    assert room.run(4, low=100_000).slow == frozenset()
    assert room.run(3).slow == {"b"}
    room.moves = 0
    room.run(FIRST_RETRY + 2, low=100_000)
    assert room.moves == 0
    room.run(FIRST_RETRY, low=100_000)
    assert room.moves >= 1


def test_a_target_falls_at_once_and_rises_slowly() -> None:
    room = Room({"a": 1_000_000})
    assert room.run(STEP).full == 1_000_000
    room.set({"a": 900_000})
    assert room.run(10).full == 1_000_000, "not worth a change"
    room.set({"a": 500_000})
    assert room.run(STEP).full == 500_000
    room.set({"a": 1_000_000})
    assert room.run(LIMITS.hold - STEP).full == 500_000
    assert room.run(2 * STEP).full == 1_000_000


ESTIMATES = st.dictionaries(st.sampled_from("abcdef"), st.integers(10_000, 5_000_000), min_size=1)


@given(ESTIMATES)
def test_the_slow_never_drag_the_fast_down(estimates: dict[str, int]) -> None:
    decision = Room(estimates).run(10)
    best = min(max(estimates.values()), LIMITS.ceiling)
    assert decision.full >= max(LIMITS.floor, SLOW_SHARE * best * (1 - LIMITS.step)) - 1
    assert LIMITS.floor <= decision.full <= LIMITS.ceiling
    assert (decision.low is None) == (not decision.slow)
    if decision.low is not None:
        assert LIMITS.low_floor <= decision.low <= max(LIMITS.low_floor, LOW_SHARE * best / (1 - LIMITS.step))
    for name, estimate in estimates.items():
        fast = estimate >= SLOW_SHARE * best
        assert fast <= (name not in decision.slow)


@given(ESTIMATES)
def test_what_stays_the_same_moves_ever_more_rarely(estimates: dict[str, int]) -> None:
    """Once, and twice for each trial, after 15, 30, 60, 120 and 240 s."""
    room = Room(estimates)
    room.run(500)
    assert room.moves <= (1 + 2 * 5) * len(estimates)
