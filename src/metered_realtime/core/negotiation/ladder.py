"""When to replace a connection that does not work, and when to stop trying."""

from __future__ import annotations

LADDER = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)
"""Seconds to wait before each attempt. Together about two minutes: a tunnel, a lift, a router that restarts."""

CONNECT_TIMEOUT = 15.0
"""Seconds that a negotiated connection may take to come up before it counts as failed."""

STABLE_AFTER = 10.0
"""Seconds that a connection has to hold before the next failure starts the ladder from its foot."""


class Ladder:
    """Counts attempts to repair one link. Latched once exhausted, until the link works again or `reset`."""

    def __init__(self) -> None:
        self.attempts = 0
        self.started_at: float | None = None
        self._up_since: float | None = None

    @property
    def exhausted(self) -> bool:
        """Tell whether every attempt has been used up."""
        return self.attempts >= len(LADDER)

    def next_delay(self, now: float) -> float | None:
        """Note a failure and return the seconds to wait before the next attempt, None when there is none left."""
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

    def link_up(self, now: float) -> None:
        """Note that the link works."""
        self._up_since = now

    def reset(self) -> None:
        """Start from the foot: the other end gave a sign of life."""
        self.attempts = 0
        self.started_at = None
        self._up_since = None
