"""Messages are counted over all nodes in blocks that each node leases, off the path of the messages. Pure.

A node asks for the next block when half of the one before is used, and goes on meanwhile: what it uses before the
answer is taken from the next block. It refuses once the engine has said that nothing is left, and asks again now and
then, since other nodes give back what they have not used. While the engine does not answer nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .engine.contract import EngineError

LARGEST_BLOCK = 1_000
"""Maximum size of a block: some seconds of a busy node, so that asking costs nothing."""

BLOCKS = 100
"""A block is at most this part of the limit, so that what other nodes hold and do not use is little."""

ASK_INTERVAL = 1.0
"""Minimum interval in seconds between requests that had no success."""


class MessageCounter(Protocol):
    """The part of an engine that counts messages, for one app."""

    def lease(self, period: int, wanted: int, limit: int | None, done: Callable[[int | EngineError], None]) -> None:
        """Count messages before they are used."""

    def give_back(self, period: int, unused: int) -> None:
        """Give back what is left of a block."""


class MessageLease:
    """The messages that a node may still send in a period. Times are in seconds.

    Attributes:
        left: How many messages are left. Below 0 if the engine has yet to count some.
        refused: How many were refused, which count as well, and that the engine has yet to count.
    """

    def __init__(self, counter: MessageCounter) -> None:
        self._counter = counter
        self._period = 0
        self._is_asking = self._is_used_up = False
        self._not_before = 0.0
        self.left = self.refused = 0

    def begin(self, period: int, limit: int | None, now: float) -> None:
        """Ask for the first block of a period, if it is another one."""
        if period != self._period:
            self._period, self.left, self.refused = period, 0, 0
            self._is_asking = self._is_used_up = False
            self._not_before = 0.0
            self._ask(limit, now)

    def take(self, period: int, limit: int | None, now: float) -> bool:
        """Take a message. Return False if none is left."""
        self.begin(period, limit, now)
        if self.left <= _block(limit) // 2:
            self._ask(limit, now)
        if self.left <= 0 and self._is_used_up:
            self.refused += 1
            return False
        self.left -= 1
        return True

    def allow(self) -> None:
        """Ask again: the limit has changed."""
        self._is_used_up, self._not_before = False, 0.0

    def close(self) -> None:
        """Give back what is left."""
        if self.left > 0:
            self._counter.give_back(self._period, self.left)
            self.left = 0

    def _ask(self, limit: int | None, now: float) -> None:
        if self._is_asking or now < self._not_before:
            return
        self._is_asking = True
        period, refused = self._period, min(self.refused, _block(limit))
        wanted = _block(limit) + max(0, -self.left) + refused

        def done(outcome: int | EngineError) -> None:
            if period == self._period:
                self._answered(wanted, refused, outcome, now)

        self._counter.lease(period, wanted, limit, done)

    def _answered(self, wanted: int, refused: int, outcome: int | EngineError, asked_at: float) -> None:
        self._is_asking = False
        granted = 0 if isinstance(outcome, EngineError) else outcome
        paid = min(refused, granted)
        self.refused -= paid
        self.left += granted - paid
        if granted < wanted:
            self._not_before = asked_at + ASK_INTERVAL
        if not isinstance(outcome, EngineError):
            self._is_used_up = granted < wanted


def _block(limit: int | None) -> int:
    return LARGEST_BLOCK if limit is None else max(1, min(LARGEST_BLOCK, limit // BLOCKS))
