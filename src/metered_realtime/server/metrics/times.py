"""How long frames and writes take. Counting costs a fraction of a microsecond."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the buckets, in seconds: a frame to one peer takes 50 microseconds, one to thousands some ms."""


class Durations:
    """A histogram of seconds."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The upper bound of each bucket as text, and the number of those up to it."""
        reached, found = 0, []
        for bound, count in zip((*BOUNDS, float("inf")), self._counts, strict=True):
            reached += count
            found.append(("+Inf" if bound == float("inf") else str(bound), float(reached)))
        return found
