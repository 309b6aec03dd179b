"""How fast a counter rises, for readers that look at it whenever they like."""

from __future__ import annotations

from collections import deque

SPAN = 0.75
"""Seconds over which a rate is taken at least: who looks each second gets exactly the time since the last look, and who
looks in between does not shorten it."""

SPACING = 0.2
"""Seconds between two samples that are kept, which bounds their number. A counter younger than that has no rate yet."""


class RateWindow:
    """The last samples of one counter that began at 0. Time is an argument, in seconds of any clock.

    A rate is that since the newest sample which is at least `SPAN` old, or since the beginning when there is none.
    """

    __slots__ = ("_samples",)

    def __init__(self, began_at: float) -> None:
        self._samples = deque([(began_at, 0)])

    def rate(self, count: int, now: float) -> float | None:
        """Note the counter, and return how much it rises in a second. None while it is too young to tell."""
        samples = self._samples
        while len(samples) > 1 and now - samples[1][0] >= SPAN:
            samples.popleft()
        since, before = samples[0]
        if now - samples[-1][0] >= SPACING:
            samples.append((now, count))
        return (count - before) / (now - since) if now - since >= SPACING else None
