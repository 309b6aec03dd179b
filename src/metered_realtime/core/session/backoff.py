"""The delay before the next connection attempt, and when to stop."""

from __future__ import annotations

import math

from ...options import ReconnectOptions

OVER_LIMIT_FLOOR = 30.0
"""Minimum delay in seconds after close code 4010: the server is full, and retrying sooner keeps it full."""

MAX_FLOOR = 300.0
"""Maximum delay in seconds that a server may ask for: a typo there must not silence a client for a day."""

SHORT_DELAY = 4.0
"""Maximum delay in seconds while an outage is short: 4.8 s with the default jitter, so that clients find a restarted
server within 5 s. The jitter spreads clients that lost the server together over 1.6 s."""

SHORT_OUTAGE = 60.0
"""Seconds of waiting during which an outage counts as short, by default: restarts and failovers. About 16 attempts."""


class Backoff:
    """Exponential backoff with jitter: attempt n waits `initial_delay * multiplier ** (n - 1)`, at most `max_delay`.

    During the first `short_outage` seconds of waiting the delay is at most `SHORT_DELAY`.

    A minimum that the server asked for applies to the next attempt only, and after the jitter: a shorter delay is
    replaced by the minimum plus jitter, so that clients with the same minimum still spread out. The delay after which a
    server that goes away expects its clients replaces that of the next attempt, less jitter: nobody waits for longer.
    """

    def __init__(self, options: ReconnectOptions | None) -> None:
        self._options = options
        self._floor = 0.0
        self._invitation: float | None = None
        self._base = 0.0
        self._waited = 0.0
        self.attempts = 0

    def reset(self) -> None:
        """Reset the attempts and the minimum delay, after a welcome."""
        self.attempts = 0
        self._floor = 0.0
        self._invitation = None
        self._base = 0.0
        self._waited = 0.0

    def require(self, floor: float) -> None:
        """Wait at least `floor` seconds before the next attempt."""
        self._floor = max(self._floor, min(floor, MAX_FLOOR))

    def invite(self, delay: float) -> None:
        """Wait at most `delay` seconds before the next attempt, and little less: then the server expects to be back."""
        self._invitation = min(delay, MAX_FLOOR)

    def next_delay(self, chance: float) -> float | None:
        """Count an attempt and return the seconds to wait before it. None means no attempt is left.

        `chance` is a number from 0 to 1.
        """
        options = self._options
        if options is None or self.attempts >= options.max_attempts:
            return None
        self.attempts += 1
        # Step by step instead of a power: attempt 1100 would overflow a float.
        grown = self._base * options.multiplier if self._base else options.initial_delay
        is_short = self._waited < options.short_outage
        self._base = min(grown, options.max_delay, SHORT_DELAY if is_short else math.inf)
        delay = self._base * (1 + options.jitter_ratio * (2 * chance - 1))
        if self._invitation is not None:
            delay, self._invitation = self._invitation * (1 - options.jitter_ratio * chance), None
        floor, self._floor = self._floor, 0.0
        delay = delay if delay >= floor else floor * (1 + options.jitter_ratio * chance)
        self._waited += delay
        return delay
