"""Where the frames of one sender's tracks belong on a time line, so that sound and picture stay together.

Each track has its place by arrival (`TrackClock`), which is wrong by what its frames take longer on their way than
those of another: pictures are encoded and paced, sound hardly. How far they are apart at the sender is known from its
reports (`SenderClock`). Sound leads, for a jump of it is heard. Pictures follow it, in a step where they are off, and
stay in their order.
"""

from __future__ import annotations

from math import inf

from .sender_clock import SenderClock
from .track_clock import SETTLE, TrackClock

TOLERANCE = 0.01
"""Seconds by which pictures may be off: less than anybody sees, more than reports of one sender differ."""

MAX_APART = 2.0
"""Seconds by which reports may move pictures. More than encoders and networks hold them up; what would have to move
further is on another clock, or one that was just put right, or reported by somebody who lies."""

LOOK = 0.2
"""Seconds between looks at how far pictures are off. Reports come once a second."""

STEP = 0.001
"""Seconds between pictures that have to stand where others are already: a tick of WebM."""


class SyncGroup:
    """The tracks that one sender sends at the same time."""

    def __init__(self) -> None:
        self._leads: list[SyncedTrack] = []

    def join(self, kind: str, clock: SenderClock) -> SyncedTrack:
        """Return the place of a track of which `clock` has the reports. It ends with `leave`."""
        track = SyncedTrack(self, kind, clock)
        if kind == "audio":
            self._leads.append(track)
        return track

    def leave(self, track: SyncedTrack) -> None:
        """Follow a track no more."""
        if track in self._leads:
            self._leads.remove(track)

    @property
    def zero(self) -> float | None:
        """The second of the time line at which the sender's clock was 0, as the sound says. None if it does not."""
        return next((zero for it in self._leads if (zero := it.zero) is not None), None)

    @property
    def is_settling(self) -> bool:
        """Whether there is sound that is about to have its place."""
        return any(it.is_settling for it in self._leads)


class SyncedTrack:
    """Places the frames of one track. Times are seconds: `own` in the track's time, `arrived` on the common one.

    `note` every frame as it comes. Once `is_settled`, `place` those that came so far, in their order, and each one that
    comes.
    """

    def __init__(self, group: SyncGroup, kind: str, clock: SenderClock) -> None:
        self._group = group
        self._by_arrival = TrackClock()
        self._reports = clock
        self._valid_from = 0  # the reports before that one are of a time that has ended
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
        """Whether it has frames that wait for their place."""
        return self._began is not None and not self._is_settled

    @property
    def zero(self) -> float | None:
        """The second at which the sender's clock was 0, by this track's place. None if that is not known."""
        ahead = self._ahead()
        return None if ahead is None or not self._is_settled else self._by_arrival.offset - ahead

    def note(self, own: float, arrived: float) -> None:
        """Take note of a frame that has just come."""
        self._by_arrival.note(own, arrived)
        if not self._is_settled:
            self._settle(arrived)
        if arrived >= self._look_at and self._is_settled:
            self._look_at = arrived + LOOK
            self._follow()

    def place(self, own: float) -> float:
        """Return the second of the common time line to which a frame belongs; below 0 if it was before that began.

        Pictures are placed behind each other, whatever their times are.
        """
        at = self._by_arrival.place(own) + self._correction
        if self._follows:
            at = self._last = max(at, self._last + STEP)
        return at

    def leave(self) -> None:
        """End: nothing follows this track any more."""
        self._group.leave(self)

    def _settle(self, arrived: float) -> None:
        """Have a place as soon as it is known; pictures wait a moment for that of sound that came with them."""
        self._began = arrived if self._began is None else self._began
        waits = self._follows and self._group.is_settling and arrived - self._began < 2 * SETTLE
        self._is_settled = self._by_arrival.is_settled and not waits

    def _follow(self) -> None:
        """Stand where the sound says. Without sound, or reports, stay where it said last."""
        zero, ahead = self._group.zero, self._ahead()
        if zero is None or ahead is None:
            return
        correction = zero + ahead - self._by_arrival.offset
        if abs(correction) <= MAX_APART and abs(correction - self._correction) > TOLERANCE:
            self._correction = correction

    def _ahead(self) -> float | None:
        """Return by how much the sender's clock is ahead of the track's time, by reports of that time."""
        if self._turns != self._by_arrival.turns:
            self._turns = self._by_arrival.turns
            self._valid_from = self._reports.count
        return self._reports.offset if self._reports.count > self._valid_from else None
