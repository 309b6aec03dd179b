"""One time line that only goes forward, whatever its source does. Time is an argument, in seconds of any clock.

Encoders and receivers need timestamps that rise steadily (RFC 3550 section 5.1): libvpx and x264 refuse to go back, and
a browser shows no picture that is older than the one before. Sources start over, stand still, leap, or know no time.
"""

from __future__ import annotations

from fractions import Fraction

MAX_LEAP = 1.0
"""Seconds by which a source may run ahead of the clock before what it says is taken for another time line."""

MAX_REORDERING = Fraction(1, 2)
"""Seconds that a packet may lie behind the one before: encoders with B-frames send pictures out of their order."""

SMALLEST_STEP = Fraction(1, 1_000)
"""Seconds between two units whose source and clock both say that no time has passed."""


class Timeline:
    """Places the units of a source. With `reorders`, units may come out of order and keep their times."""

    def __init__(self, *, reorders: bool = False) -> None:
        self._back = MAX_REORDERING if reorders else Fraction(0)
        self._shift: Fraction | None = None
        self._source: tuple[Fraction, float] | None = None  # the last unit: on its own time line, and on the clock
        self._placed: tuple[Fraction, float] | None = None  # the latest place that was given, and when

    def place(self, at: Fraction | None, now: float) -> Fraction:
        """Return the seconds at which a unit stands that says of itself that it stands at `at`, if it knows.

        The first one stands where it says. One that does not follow stands where the clock says, and the next ones
        behind it.
        """
        placed = self._now(now) if at is None else self._follow(at, now)
        if self._placed is None or placed > self._placed[0]:
            self._placed = placed, now
        return placed

    def skip(self, seconds: float) -> None:
        """Have what follows stand so much later than its source says: it has lost that time."""
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
