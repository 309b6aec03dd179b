"""When to repair a connection that failed, and when to stop trying."""

from __future__ import annotations

import math

LADDER = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)
"""Seconds to wait before each attempt, about two minutes in all: a tunnel, a lift, a router that restarts."""

STABLE_AFTER = 10.0
"""Seconds that a connection has to stay up for the next failure to start the ladder from its foot."""


class Ladder:
    """The attempts to repair one connection. Once exhausted it stays so until the connection holds again."""

    def __init__(self) -> None:
        self.attempts = 0
        self.started_at: float | None = None
        self._up_since: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether every attempt has been made."""
        return self.attempts >= len(LADDER)

    def next_delay(self, now: float) -> float | None:
        """Return the seconds to wait for the next attempt after a failure, None if no attempt is left."""
        if self._up_since is not None and now - self._up_since >= STABLE_AFTER:
            self.reset()
        self._up_since = None
        if self.exhausted:
            return None
        if self.started_at is None:
            self.started_at = now
        delay = LADDER[self.attempts]
        self.attempts += 1
        return delay

    def connected(self, now: float) -> None:
        """Handle the connection coming up."""
        self._up_since = now

    def reset(self) -> None:
        """Start from the foot again."""
        self.attempts = 0
        self.started_at = None
        self._up_since = None


class Pace:
    """How often the other end may have this end do something that is costly.

    The first time it is done at once. Then the rungs of the ladder lie between one time and the next, until the
    connection has held for a while, and the last one or `longest` for ever.

    Attributes:
        is_over: Whether all rungs are used up.
    """

    def __init__(self, longest: float = LADDER[-1]) -> None:
        self.is_over = False
        self._longest = longest
        self._ladder = Ladder()
        self._last = -math.inf

    @property
    def times(self) -> int:
        """How many rungs were used."""
        return self._ladder.attempts

    def seconds(self, now: float) -> float:
        """Return the seconds since the first rung was used."""
        return now - (self._ladder.started_at if self._ladder.started_at is not None else now)

    def next_time(self, now: float) -> float:
        """Return when to do it: now, or later."""
        delay = self._ladder.next_delay(now)
        self.is_over = delay is None
        self._last = max(now, self._last + min(LADDER[-1] if delay is None else delay, self._longest))
        return self._last

    def connected(self, now: float) -> None:
        """Handle the connection coming up. What it was before it is done again does not count."""
        if now >= self._last:
            self._ladder.connected(now)
