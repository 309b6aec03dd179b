"""A time line that only moves forward, whatever its source does. Time is an argument, in seconds of any clock.

Encoders and receivers need timestamps that rise steadily (RFC 3550 section 5.1): libvpx and x264 reject a step back,
and a browser shows no picture that is older than the previous one. Sources restart, pause, jump or have no times.
"""

from __future__ import annotations

from fractions import Fraction

MAX_LEAP = 1.0
"""Seconds by which a source may run ahead of the clock before its times count as restarted."""

MAX_REORDERING = Fraction(1, 2)
"""Seconds by which a packet may precede the previous one: encoders with B-frames reorder pictures."""

SMALLEST_STEP = Fraction(1, 1_000)
"""Seconds between two units when neither the source nor the clock has advanced."""


class Timeline:
    """Places the frames or packets of a source. With `reorders` they may come out of order and keep their times."""

    def __init__(self, *, reorders: bool = False) -> None:
        self._back = MAX_REORDERING if reorders else Fraction(0)
        self._shift: Fraction | None = None
        self._source: tuple[Fraction, float] | None = None  # the last unit: its own time, and the clock
        self._placed: tuple[Fraction, float] | None = None  # the latest place, and the clock then

    def place_unit(self, at: Fraction | None, now: float) -> Fraction:
        """Return the place in seconds of a unit whose own time is `at`, None if it has none.

        The first unit keeps its own time. A unit whose time does not continue the previous one is placed by the clock,
        and later ones relative to it.
        """
        placed = self._now(now) if at is None else self._follow(at, now)
        if self._placed is None or placed > self._placed[0]:
            self._placed = placed, now
        return placed

    def skip_time(self, seconds: float) -> None:
        """Place everything that follows this much later, because the source has lost that time."""
        if self._shift is not None:
            self._shift += Fraction(seconds).limit_denominator(90_000)

    def _follow(self, at: Fraction, now: float) -> Fraction:
        if self._shift is None:
            self._shift = self._now(now) - at if self._placed is not None else Fraction(0)
        elif not self._follows(at, now):
            self._shift = self._now(now) - at
        self._source = at, now
        return at + self._shift

    def _follows(self, at: Fraction, now: float) -> bool:
        assert self._shift is not None
        assert self._placed is not None
        if at + self._shift <= self._placed[0] - self._back:
            return False
        return self._source is None or float(at - self._source[0]) - (now - self._source[1]) <= MAX_LEAP

    def _now(self, now: float) -> Fraction:
        if self._placed is None:
            return Fraction(0)
        place, since = self._placed
        return place + max(SMALLEST_STEP, Fraction(now - since).limit_denominator(90_000))
