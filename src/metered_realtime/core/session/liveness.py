"""When to ping a silent connection, and when to consider it dead."""

from __future__ import annotations

import math

MIN_HEARTBEAT = 1.0
"""Minimum interval between pings, in seconds, so that a short timeout causes no flood."""

ANSWER_TIMEOUT = 5.0
"""Seconds that a connection has to answer once there is a reason to doubt it. TCP retransmits about four times in
them; a server that needs longer is of no use for restoring the connection to a remote."""


class Liveness:
    """The deadlines of one connection. A timeout that is infinite, 0 or negative disables them."""

    def __init__(self, inactivity_timeout: float) -> None:
        if math.isnan(inactivity_timeout):
            raise ValueError("inactivity_timeout must be a number of seconds, not nan")
        self._timeout = inactivity_timeout if 0 < inactivity_timeout < math.inf else None
        # A third leaves time for two unanswered pings; with a short timeout it is half of it at the latest.
        self._heartbeat = min(max(MIN_HEARTBEAT, inactivity_timeout / 3), inactivity_timeout / 2)
        self._heard_at = self._asked_at = 0.0
        self._doubted_at = math.inf

    def start(self, now: float) -> None:
        """Start over for a new connection."""
        self._heard_at = self._asked_at = now
        self._doubted_at = math.inf

    def frame_received(self, now: float) -> None:
        """Record that a text frame arrived."""
        self._heard_at = now
        self._doubted_at = math.inf

    def ping_sent(self, now: float) -> None:
        """Record a ping to the server."""
        self._asked_at = now

    def probe_sent(self, now: float) -> None:
        """Record a ping that was sent because the connection may be dead."""
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
