"""When to replace the token of a live connection, so that its end does not end the connection.

Times are the server's: what is left of a token is reckoned from the server's clock in the welcome and from the time
that passed since. The client's wall clock, which may be anything, has no part in it.
"""

from __future__ import annotations

import math

MAX_MARGIN = 60.0
"""Seconds before the end of a token at which the refresh is due at the latest: room for a provider that needs its
10 s more than once."""

MARGIN_SHARE = 1 / 3
"""Of what is left of a token, for tokens too short for `MAX_MARGIN`."""

SPREAD = 0.5
"""Up to so much of the margin earlier, so that clients which came together do not ask the backend together."""

SLACK = 1.25
"""Seconds that a token ends earlier than it seems: servers tell their time in whole seconds, and close a little
ahead of the end."""

RETRIES = 4
"""Further tries, each after half of what is left then: at 60, 30, 15, 7.5 and 3.75 seconds before the end. Early ones
leave a backend time to recover, late ones suit a provider that hands out the old token until it is nearly over."""

MAX_LIFETIME = 2.0**40
"""Seconds. Beyond it a token does not expire as far as a program can tell."""


class Renewal:
    """The refreshes of one connection at a time. Off while it has no token that expires, or the server knows none.

    `spread`, from 0 to 1, is this client's place in the crowd.
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
        """The fetch of a token that is under way. Any other that reports is stale."""
        self.asking: str | None = None
        """The request that is under way."""

    def start(self, expires_at: int | None, server_time: int, now: float) -> None:
        """Begin with a new connection and what its welcome said."""
        self.stop()
        self._server_time, self._started_at = server_time, now
        self._plan(expires_at, now)

    def stop(self) -> None:
        """Plan nothing more for this connection."""
        self.due_at = math.inf
        self.fetching = self.asking = None

    def fetch(self) -> int:
        """Note that a token is being fetched. Return the number that its report has to carry."""
        self.due_at = math.inf
        self._serial += 1
        self.fetching = self._serial
        return self._serial

    def ask(self, request_id: str) -> None:
        """Note that the token was fetched and the server is being asked."""
        self.fetching, self.asking = None, request_id

    def succeed(self, expires_at: int | None, now: float) -> bool:
        """Note the server's consent. False if the new token ends no later than the old one: nothing was won."""
        self.asking = None
        if expires_at is not None and self._expires_at is not None and expires_at <= self._expires_at:
            return False
        self._plan(expires_at, now)
        return True

    def fail(self, now: float) -> bool:
        """Note a failure. Return whether there will be another try."""
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
        # Whole numbers first: a server may say what no float holds.
        left = min(max(expires_at - self._server_time, 0), MAX_LIFETIME) - passed - SLACK
        if left > 0 and expires_at - self._server_time < MAX_LIFETIME:
            self._ends_at = now + left
            self.due_at = self._ends_at - min(MAX_MARGIN, left * MARGIN_SHARE) * self._stretch
