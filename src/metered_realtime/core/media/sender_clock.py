"""What a track's sender reports (RFC 3550 section 6.4.1) say of the clock of its sender.

A report says at which second of the sender's clock something stands in the track's time. The tracks of one sender are
on the same clock, whatever each of them took on its way: to be encoded, to be paced, to arrive.

Some say the time of sending instead (aiortc does), after an encoder that takes longer at one time than at another. That
is always later than the truth, so the least of what was said lately is the best guess.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10.0
"""Seconds of the sender's clock whose reports count: ten of a sender of pictures, two or three of a browser's sound.
In that time clocks of 100e-6 get 1 ms apart."""

MAX_WAIT = 1.0
"""Seconds that sending can have taken. A report that is later than the others by more tells of a track whose time, or
of a sender whose clock, has begun anew."""

MAX_REPORTS = 32
"""Reports that are kept. A sender makes some two in a second at most."""


class SenderClock:
    """Keeps what the reports of one track say. `count` counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.offset: float | None = None
        """What to add to the track's time to have the sender's clock, in seconds. None while it is not known."""
        self._recent: deque[tuple[float, float]] = deque(maxlen=MAX_REPORTS)

    def note(self, own: float, clock: float) -> None:
        """Take a report: what stands at the second `own` of the track's time was there at `clock` of the sender's.

        Both are finite; that they are true nobody relies on.
        """
        offset = clock - own
        if self.offset is not None and offset - self.offset > MAX_WAIT:
            self._recent.clear()
        # What lies in the future was said before the sender's clock was put back.
        recent = [it for it in self._recent if clock - WINDOW <= it[0] <= clock]
        self._recent = deque([*recent, (clock, offset)], MAX_REPORTS)
        self.offset = min(offset for _, offset in self._recent)
        self.count += 1

    def forget(self) -> None:
        """Take note that the track's time is another one from now on."""
        self._recent.clear()
        self.offset = None
