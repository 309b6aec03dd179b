"""Keeping sound and picture of one sender in sync where they are passed on without delay. Time is an argument.

Each track is placed by the quickest of its frames, and pictures are longer on their way than sound: they are encoded,
paced, and complete only with their last packet. What is passed on is reported under the time at which it arrived, so
that its receivers would keep that difference. The sender's own reports tell it: pictures are placed by them.
"""

from __future__ import annotations

from .sender_clock import SenderClock
from .track_clock import TrackClock

LOOK = 0.2
"""Seconds between checks of how far pictures are off. Reports come once a second or more rarely."""

TOLERANCE = 0.01
"""Seconds by which pictures may be off: less than is visible."""

MAX_APART = 2.0
"""Seconds by which reports may move pictures at most. A larger distance means another clock, or a false report."""


class RelaySync:
    """The tracks that one sender sends at the same time."""

    def __init__(self) -> None:
        self._sounds: list[RelayedClock] = []

    def join(self, kind: str, reports: SenderClock) -> RelayedClock:
        """Add a track. It takes part until `leave`."""
        clock = RelayedClock(self, kind, reports)
        if kind == "audio":
            self._sounds.append(clock)
        return clock

    def leave(self, clock: RelayedClock) -> None:
        """Remove a track."""
        if clock in self._sounds:
            self._sounds.remove(clock)

    @property
    def ahead(self) -> float | None:
        """Seconds by which the sender's clock is ahead of this program's, by the sound. None while unknown."""
        return next((it.ahead for it in self._sounds if it.ahead is not None), None)


class RelayedClock:
    """One track of a sender. `correction` is by how many seconds its frames belong later than they arrive."""

    def __init__(self, group: RelaySync, kind: str, reports: SenderClock) -> None:
        self.correction = 0.0
        self._group = group
        self._follows = kind == "video"
        self._reports = reports
        self._arrivals = TrackClock()
        self._look_at = 0.0
        self._has_frames = False

    @property
    def ahead(self) -> float | None:
        """Seconds by which the sender's clock is ahead of this program's, by this track. None while unknown."""
        if self._reports.offset is None or not self._has_frames:
            return None
        return self._reports.offset - self._arrivals.earliest_place(0.0)

    def note_frame(self, own: float, arrived: float) -> None:
        """Record the arrival of a frame: its second of the track, and that of this program's clock."""
        self._arrivals.note_frame(own, arrived)
        self._has_frames = True
        if self._follows and arrived >= self._look_at:
            self._look_at = arrived + LOOK
            self._follow()

    def leave(self) -> None:
        """Leave the group."""
        self._group.leave(self)

    def _follow(self) -> None:
        """Correct the place to that of the sound. Without sound or reports the last correction stays."""
        sound, picture = self._group.ahead, self.ahead
        if sound is None or picture is None:
            return
        correction = picture - sound
        if abs(correction) <= MAX_APART and abs(correction - self.correction) > TOLERANCE:
            self.correction = correction
