"""Messages leased in blocks, by engines that answer at once, later, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.server.engine.contract import EngineError, EngineUnavailable
from metered_realtime.server.lease import ASK_INTERVAL, LARGEST_BLOCK, MessageLease


class SharedCount:
    """Counts the messages of several nodes. Answers wait for `answer` if it `is_slow`."""

    def __init__(self, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        self.is_down = False
        self.counted = self.requests = 0
        self.waiting: list[Callable[[], None]] = []

    def lease(self, period: int, wanted: int, limit: int | None, done: Callable[[int | EngineError], None]) -> None:
        self.requests += 1
        if self.is_slow:
            self.waiting.append(lambda: self._grant(wanted, limit, done))
        else:
            self._grant(wanted, limit, done)

    def give_back(self, period: int, unused: int) -> None:
        self.counted -= unused

    def answer(self, which: int = 0) -> None:
        self.waiting.pop(which)()

    def _grant(self, wanted: int, limit: int | None, done: Callable[[int | EngineError], None]) -> None:
        if self.is_down:
            return done(EngineUnavailable("down"))
        granted = wanted if limit is None else max(0, min(wanted, limit - self.counted))
        self.counted += granted
        return done(granted)


def test_nodes_share_a_limit_to_the_last_message() -> None:
    count = SharedCount()
    one, other = MessageLease(count), MessageLease(count)
    taken = [lease.take(1, 150, 0.0) for _ in range(100) for lease in (one, other)]
    assert taken == [True] * 150 + [False] * 50


def test_asking_costs_little_and_is_done_in_advance() -> None:
    count = SharedCount(is_slow=True)
    lease = MessageLease(count)
    assert lease.take(1, None, 0.0)
    count.answer()
    for _ in range(LARGEST_BLOCK // 2):
        assert lease.take(1, None, 0.0)
    assert (count.requests, lease.left > 0) == (2, True)


def test_messages_pass_while_the_answer_is_on_its_way_and_are_counted_with_it() -> None:
    count = SharedCount(is_slow=True)
    lease = MessageLease(count)
    assert all(lease.take(1, 100, 0.0) for _ in range(7))
    count.answer()
    assert lease.left == -6
    assert lease.take(1, 100, 0.0)
    count.answer()
    assert (count.counted, lease.left) == (8, 0)


def test_what_others_give_back_is_found_after_a_moment() -> None:
    count = SharedCount()
    one, other = MessageLease(count), MessageLease(count)
    one.begin(1, 1, 0.0)
    assert not other.take(1, 1, 0.0)
    one.close()
    assert not other.take(1, 1, ASK_INTERVAL / 2)
    # The refusals count as messages too, and one of them has taken what was given back.
    assert not other.take(1, 1, ASK_INTERVAL)
    assert count.counted == 1


def test_nothing_is_refused_while_the_engine_does_not_answer() -> None:
    count = SharedCount()
    count.is_down = True
    lease = MessageLease(count)
    assert all(lease.take(1, 2, number / 10) for number in range(50))
    assert count.requests <= 6
    count.is_down = False
    assert lease.take(1, 2, 10.0) is False
    assert count.counted == 2


def test_a_new_period_starts_anew_and_an_answer_for_the_old_one_is_nothing() -> None:
    count = SharedCount(is_slow=True)
    lease = MessageLease(count)
    lease.take(1, 500, 0.0)
    lease.take(2, 500, 0.0)
    count.answer()
    assert lease.left == -1
    count.answer()
    assert lease.left == 4


@given(st.integers(1, 400), st.integers(1, 3), st.randoms(use_true_random=False), st.booleans())
def test_what_is_used_never_passes_the_limit_by_more_than_what_is_on_its_way(
    limit: int, nodes: int, chance: random.Random, is_slow: bool
) -> None:
    count = SharedCount(is_slow)
    leases = [MessageLease(count) for _ in range(nodes)]
    used = unanswered = 0
    for step in range(600):
        lease = chance.choice(leases)
        used += lease.take(1, limit, step / 50)
        unanswered += bool(count.waiting)
        if count.waiting and chance.random() < 0.5:
            count.answer(chance.randrange(len(count.waiting)))
    assert used <= limit + unanswered
    assert count.counted <= limit
    assert is_slow or used == limit
