"""When to replace a connection that does not work, and when to stop trying."""

from __future__ import annotations

LADDER = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)
"""Seconds to wait before each attempt. Together about two minutes: a tunnel, a lift, a router that restarts."""

STABLE_AFTER = 10.0
"""Seconds that a connection has to hold before the next failure starts the ladder from its foot."""


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
        """Return the seconds to wait before the next attempt after a failure, None when there is none left."""
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
