"""Placing the frames of one sender's tracks on a time line so that sound and picture stay in sync.

Arrival alone places each track (`TrackClock`), but its frames may take longer on their way than those of another track:
pictures are encoded and paced, sound hardly is. The sender's reports (`SenderClock`) tell how the tracks relate at the
sender. Sound leads, because a jump in it is audible. Pictures follow in one step when they are off, and keep their
order.
"""

from __future__ import annotations

from math import inf

from .sender_clock import SenderClock
from .track_clock import SETTLE, TrackClock

TOLERANCE = 0.01
"""Seconds by which pictures may be off: less than is visible, more than the reports of one sender vary."""

MAX_APART = 2.0
"""Seconds by which reports may move pictures at most: more than encoders and networks delay them. A larger distance
means another clock, a clock that has just been set, or a false report."""

LOOK = 0.2
"""Seconds between checks of how far pictures are off. Reports come once a second."""

STEP = 0.001
"""Seconds between pictures that would otherwise share a place or go back: one tick of WebM."""


class SyncGroup:
    """The tracks that one sender sends at the same time."""

    def __init__(self) -> None:
        self._leads: list[SyncedTrack] = []

    def join(self, kind: str, clock: SenderClock) -> SyncedTrack:
        """Add a track whose reports are in `clock`. It takes part until `leave`."""
        track = SyncedTrack(self, kind, clock)
        if kind == "audio":
            self._leads.append(track)
        return track

    def leave(self, track: SyncedTrack) -> None:
        """Remove a track."""
        if track in self._leads:
            self._leads.remove(track)

    @property
    def zero(self) -> float | None:
        """The second of the time line at which the sender's clock was 0, according to sound. None while unknown."""
        return next((zero for it in self._leads if (zero := it.zero) is not None), None)

    @property
    def is_settling(self) -> bool:
        """Whether any sound track has frames but no place yet."""
        return any(it.is_settling for it in self._leads)


class SyncedTrack:
    """Places the frames of one track. Times are seconds: `own` in the track's time, `arrived` on the common one.

    Call `note_frame` for every frame on arrival. Once `is_settled`, call `place_frame` for those that have arrived, in
    their order, and then for each new one.
    """

    def __init__(self, group: SyncGroup, kind: str, clock: SenderClock) -> None:
        self._group = group
        self._by_arrival = TrackClock()
        self._reports = clock
        self._valid_from = 0  # earlier reports belong to an earlier time of the track
        self._turns = 0
        self._correction = 0.0
        self._follows = kind == "video"
        self._look_at = 0.0 if self._follows else inf
        self._is_settled = False
        self._last = -inf
        self._began: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether frames can be placed."""
        return self._is_settled

    @property
    def is_settling(self) -> bool:
        """Whether the track has frames that wait for a place."""
        return self._began is not None and not self._is_settled

    @property
    def zero(self) -> float | None:
        """The second at which the sender's clock was 0, according to this track. None while unknown."""
        ahead = self._ahead()
        return None if ahead is None or not self._is_settled else self._by_arrival.offset - ahead

    def note_frame(self, own: float, arrived: float) -> None:
        """Record the arrival of a frame."""
        self._by_arrival.note_frame(own, arrived)
        if not self._is_settled:
            self._settle(arrived)
        if arrived >= self._look_at and self._is_settled:
            self._look_at = arrived + LOOK
            self._follow()

    def place_frame(self, own: float) -> float:
        """Return the second of the common time line at which a frame belongs, negative if that is before its start.

        Pictures are always placed after the previous one, whatever their times are.
        """
        at = self._by_arrival.place_frame(own) + self._correction
        if self._follows:
            at = self._last = max(at, self._last + STEP)
        return at

    def leave(self) -> None:
        """Leave the group: no track follows this one any more."""
        self._group.leave(self)

    def _settle(self, arrived: float) -> None:
        """Settle as soon as arrival places the track. Pictures wait a moment for sound that began with them."""
        self._began = arrived if self._began is None else self._began
        waits = self._follows and self._group.is_settling and arrived - self._began < 2 * SETTLE
        self._is_settled = self._by_arrival.is_settled and not waits

    def _follow(self) -> None:
        """Correct the place to that of the sound. Without sound or reports the last correction stays."""
        zero, ahead = self._group.zero, self._ahead()
        if zero is None or ahead is None:
            return
        correction = zero + ahead - self._by_arrival.offset
        if abs(correction) <= MAX_APART and abs(correction - self._correction) > TOLERANCE:
            self._correction = correction

    def _ahead(self) -> float | None:
        """Return how far the sender's clock is ahead of the track's current time, None while unknown."""
        if self._turns != self._by_arrival.turns:
            self._turns = self._by_arrival.turns
            self._valid_from = self._reports.count
        return self._reports.offset if self._reports.count > self._valid_from else None
