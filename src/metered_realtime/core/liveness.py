"""When to ask a silent connection for a sign of life, and when to take it for dead."""

from __future__ import annotations

import math

MIN_HEARTBEAT = 1.0
"""Seconds between two pings at least, so that a short timeout makes no flood."""


class Liveness:
    """The deadlines of one connection. A timeout of 0 or less, or infinite, turns them off."""

    def __init__(self, inactivity_timeout: float) -> None:
        if math.isnan(inactivity_timeout):
            raise ValueError("inactivity_timeout must be a number of seconds, not nan")
        self._timeout = inactivity_timeout if 0 < inactivity_timeout < math.inf else None
        # A third leaves room for two unanswered pings; never later than half way, however short the timeout.
        self._heartbeat = min(max(MIN_HEARTBEAT, inactivity_timeout / 3), inactivity_timeout / 2)
        self._heard_at = self._asked_at = 0.0

    def start(self, now: float) -> None:
        """Begin with a new connection."""
        self._heard_at = self._asked_at = now

    def heard(self, now: float) -> None:
        """Note a text frame from the server."""
        self._heard_at = now

    def asked(self, now: float) -> None:
        """Note a ping to the server."""
        self._asked_at = now

    @property
    def dead_at(self) -> float:
        return math.inf if self._timeout is None else self._heard_at + self._timeout

    @property
    def ask_at(self) -> float:
        return math.inf if self._timeout is None else max(self._heard_at, self._asked_at) + self._heartbeat
