"""When to refresh the token of a live connection, so that its expiry does not end the connection.

The remaining life of a token is computed from the server's clock in the welcome and the time passed since then. The
client's wall clock, which may be wrong, is not used.
"""

from __future__ import annotations

import math

MAX_MARGIN = 60.0
"""A refresh is due at most this many seconds before the token expires: time for a provider that needs its 10 s more
than once."""

MARGIN_SHARE = 1 / 3
"""Margin as a share of the token's remaining life, for tokens too short for `MAX_MARGIN`."""

SPREAD = 0.5
"""Refreshes are brought forward by up to this share of the margin, to spread clients that connected together."""

SLACK = 1.25
"""Seconds subtracted from the life of a token: servers give their time in whole seconds, and close slightly before the
expiry."""

RETRIES = 4
"""Number of retries, each after half of the remaining time: 60, 30, 15, 7.5 and 3.75 seconds before the expiry. Early
ones leave a backend time to recover, late ones suit a provider that caches a token until it has nearly expired."""

MAX_LIFETIME = 2.0**40
"""Longest remaining life of a token in seconds. A token beyond it counts as one that does not expire."""


class Renewal:
    """The refresh schedule of one connection at a time. Off if its token does not expire or the server knows none.

    `spread`, from 0 to 1, is how far this client brings its refreshes forward.
    """

    def __init__(self, *, enabled: bool, spread: float) -> None:
        self._enabled = enabled
        self._stretch = 1 + SPREAD * spread
        self._started_at = 0.0
        self._server_time = 0
        self._expires_at: int | None = None
        self._ends_at = math.inf
        self._failures = 0
        self._serial = 0
        self.due_at = math.inf
        self.fetching: int | None = None
        """The number of the token fetch in progress. Reports with any other number are stale."""
        self.asking: str | None = None
        """The id of the refresh request in progress."""

    def start(self, expires_at: int | None, server_time: int, now: float) -> None:
        """Start over for a new connection, with the times of its welcome."""
        self.stop()
        self._server_time, self._started_at = server_time, now
        self._plan(expires_at, now)

    def stop(self) -> None:
        """Stop refreshing on this connection."""
        self.due_at = math.inf
        self.fetching = self.asking = None

    def fetch(self) -> int:
        """Record that a token is being fetched. Return the number that its report has to carry."""
        self.due_at = math.inf
        self._serial += 1
        self.fetching = self._serial
        return self._serial

    def ask(self, request_id: str) -> None:
        """Record that the token was fetched and sent to the server."""
        self.fetching, self.asking = None, request_id

    def succeed(self, expires_at: int | None, now: float) -> bool:
        """Record that the server accepted the token. Return False if it expires no later than the old one."""
        self.asking = None
        if expires_at is not None and self._expires_at is not None and expires_at <= self._expires_at:
            return False
        self._plan(expires_at, now)
        return True

    def fail(self, now: float) -> bool:
        """Record a failure. Return whether there will be another attempt."""
        self.fetching = self.asking = None
        left = self._ends_at - now
        if self._failures >= RETRIES or left <= 0:
            return False
        self.due_at = now + left / 2
        self._failures += 1
        return True

    def _plan(self, expires_at: int | None, now: float) -> None:
        self._expires_at, self._failures, self.due_at = expires_at, 0, math.inf
        if expires_at is None or not self._enabled:
            return
        passed = now - self._started_at
        # Subtract as integers first: a server may send a number that no float can hold.
        left = min(max(expires_at - self._server_time, 0), MAX_LIFETIME) - passed - SLACK
        if left > 0 and expires_at - self._server_time < MAX_LIFETIME:
            self._ends_at = now + left
            self.due_at = self._ends_at - min(MAX_MARGIN, left * MARGIN_SHARE) * self._stretch
