"""The rate of a counter, for readers that sample it at any interval."""

from __future__ import annotations

from collections import deque

SPAN = 0.75
"""Seconds that a rate covers at least. A reader that samples once a second gets exactly the time since its last sample,
and a reader in between does not shorten that."""

SPACING = 0.2
"""Seconds between two kept samples, which bounds their number. A younger counter has no rate yet."""


class RateWindow:
    """The latest samples of one counter that began at 0. Time is an argument, in seconds of any clock.

    The rate is taken from the newest sample that is at least `SPAN` old, or from the start if there is none.
    """

    __slots__ = ("_samples",)

    def __init__(self, began_at: float) -> None:
        self._samples = deque([(began_at, 0)])

    def rate(self, count: int, now: float) -> float | None:
        """Record the counter and return its increase per second, None during the first `SPACING` seconds."""
        samples = self._samples
        while len(samples) > 1 and now - samples[1][0] >= SPAN:
            samples.popleft()
        since, before = samples[0]
        if now - samples[-1][0] >= SPACING:
            samples.append((now, count))
        return (count - before) / (now - since) if now - since >= SPACING else None
