"""When to repair a connection that failed, and when to stop trying."""

from __future__ import annotations

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
