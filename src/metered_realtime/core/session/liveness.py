"""When to ask a silent connection for a sign of life, and when to take it for dead."""

from __future__ import annotations

import math

MIN_HEARTBEAT = 1.0
"""Seconds between two pings at least, so that a short timeout makes no flood."""

ANSWER_TIMEOUT = 5.0
"""Seconds for a sign of life once there is a reason to doubt the connection. TCP repeats what was lost some four times
in them; a server that needs longer is no help to whoever has to find a new way to a remote."""


class Liveness:
    """The deadlines of one connection. A timeout of 0 or less, or infinite, turns them off."""

    def __init__(self, inactivity_timeout: float) -> None:
        if math.isnan(inactivity_timeout):
            raise ValueError("inactivity_timeout must be a number of seconds, not nan")
        self._timeout = inactivity_timeout if 0 < inactivity_timeout < math.inf else None
        # A third leaves room for two unanswered pings; never later than half way, however short the timeout.
        self._heartbeat = min(max(MIN_HEARTBEAT, inactivity_timeout / 3), inactivity_timeout / 2)
        self._heard_at = self._asked_at = 0.0
        self._doubted_at = math.inf

    def start(self, now: float) -> None:
        """Begin with a new connection."""
        self._heard_at = self._asked_at = now
        self._doubted_at = math.inf

    def heard(self, now: float) -> None:
        """Note a text frame from the server."""
        self._heard_at = now
        self._doubted_at = math.inf

    def asked(self, now: float) -> None:
        """Note a ping to the server."""
        self._asked_at = now

    def doubted(self, now: float) -> None:
        """Note a ping to the server that was sent because the connection may be dead."""
        self._asked_at = now
        self._doubted_at = min(self._doubted_at, now)

    @property
    def dead_at(self) -> float:
        if self._timeout is None:
            return math.inf
        return min(self._heard_at + self._timeout, self._doubted_at + ANSWER_TIMEOUT)

    @property
    def ask_at(self) -> float:
        return math.inf if self._timeout is None else max(self._heard_at, self._asked_at) + self._heartbeat
