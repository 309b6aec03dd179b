"""The clock of a sender, according to the sender reports of one track (RFC 3550 section 6.4.1).

A report maps a time of the track to the sender's clock. The tracks of one sender share that clock, however long each of
them takes to be encoded, paced and delivered.

Some implementations (aiortc) report the time of sending, after an encoder of varying speed, instead of the time of
capture. That is always later, so the smallest recent offset is the best estimate.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10.0
"""Seconds of the sender's clock whose reports count: ten reports of video, two or three of a browser's sound. Clocks
that differ by 100e-6 drift by 1 ms in that time."""

MAX_WAIT = 1.0
"""Seconds that sending takes at most. A report that is later than the others by more means that the track's time or the
sender's clock has restarted."""

MAX_REPORTS = 32
"""Reports that are kept. A sender makes about two per second at most."""


class SenderClock:
    """The recent reports of one track. `count` counts all of them."""

    def __init__(self) -> None:
        self.count = 0
        self.offset: float | None = None
        """Seconds from the track's time to the sender's clock, None before the first report."""
        self._recent: deque[tuple[float, float]] = deque(maxlen=MAX_REPORTS)

    def note_report(self, own: float, clock: float) -> None:
        """Record a report: second `own` of the track's time is second `clock` of the sender's clock.

        Both are finite. They may be false.
        """
        offset = clock - own
        if self.offset is not None and offset - self.offset > MAX_WAIT:
            self._recent.clear()
        # Reports from the future are older than a step back of the sender's clock.
        recent = [it for it in self._recent if clock - WINDOW <= it[0] <= clock]
        self._recent = deque([*recent, (clock, offset)], MAX_REPORTS)
        self.offset = min(offset for _, offset in self._recent)
        self.count += 1

    def reset(self) -> None:
        """Forget all reports, because the time of the track restarts."""
        self._recent.clear()
        self.offset = None
