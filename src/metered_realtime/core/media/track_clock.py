"""Placing the frames of a track on a time line that several tracks share, by the track's own clock.

This places what a remote sends in a recording, and the frames of a local track on the clock of this program.

A frame's own time gives its exact distance from the track's other frames, but no relation to other tracks. Its arrival
gives its place on the common time line, plus the delay of the network and the jitter buffer. The smallest recent delay
is the best estimate of the part that all tracks have in common. It places the track once; afterwards only the drift of
the sender's clock is followed. Arrival does not show that one track of a sender takes longer than another: `lip_sync`
corrects that. A jitter buffer that has grown must not be followed: after a lost packet that of aiortc holds up to 16
packets of sound for good, and a recording by arrival is out of sync from then on (aiortc#1203).
"""

from __future__ import annotations

from math import inf

SETTLE = 0.5
"""Seconds from a track's first frame until it is placed: 15 pictures or 25 packets of sound, at least one of which was
not delayed."""

WINDOW = 5.0
"""Seconds whose quickest frame counts when drift is followed."""

MAX_DRIFT = 500e-6
"""Drift of a sender's clock at most, in seconds per second. Quartz is within 100e-6; a delay that changes faster comes
from the network or a buffer."""

SLEW = 1e-3
"""Seconds per second by which frames are moved to follow drift at most: inaudible."""

MAX_LATENESS = 1.0
"""Seconds by which even the quickest frame of a window is late once the track's times have restarted: more than a
jitter buffer and the queues of the network hold."""

MAX_LEAD = 0.25
"""Seconds by which a frame may be early before the track's times count as restarted. Nothing arrives before it is sent:
this is more than the error of the first estimate."""

MAX_HOLD = 5.0
"""Seconds of lateness at which a single frame proves a restart: nothing on the way delays frames that long."""

LATENESS_WINDOW = 1.0
"""Seconds during which every frame has to be late by `MAX_LATENESS` or `LOST`."""

LOST = 0.1
"""Seconds by which every frame of a window is late when a local track has lost time: it was blocked, and its own time
stood still. The time to produce a frame varies by less."""

STEADY = 0.05
"""Seconds by which lateness may shrink within a window. A track that catches up has lost no time."""


class TrackClock:
    """Places the frames of one track. Times are seconds: `own` in the track's time, `arrived` on the common one.

    Call `note_frame` for every frame on arrival. Once `is_settled`, call `place_frame` for those that have arrived, and
    then for each new one. A frame that is later than `max_hold` restarts the clock: it is placed where it arrived.
    """

    def __init__(self, max_hold: float = MAX_HOLD) -> None:
        self._max_hold = max_hold
        self.turns = 0
        """How often the track's own time has restarted."""
        self._offset = 0.0  # as it is applied
        self._target = 0.0  # where the offset moves to
        self._began: float | None = None
        self._now = 0.0
        self._window = _Window(0.0)
        self._late = _Window(0.0)
        self._lost = 0.0
        self._lateness = 0.0  # of the last window's quickest frame

    @property
    def is_settled(self) -> bool:
        """Whether frames can be placed."""
        return self._began is not None and self._now - self._began >= SETTLE

    @property
    def offset(self) -> float:
        """Seconds that `place_frame` adds to the track's own time."""
        return self._offset

    def take_lost_time(self) -> float:
        """Return by how much all frames of the last window were steadily late, once. 0 if it is `LOST` or less.

        For tracks that nothing delays on the way, this is time that the track has lost.
        """
        lost, self._lost = self._lost, 0.0
        return lost

    def note_frame(self, own: float, arrived: float) -> None:
        """Record the arrival of a frame."""
        delay = arrived - own
        if self._began is None:
            self._anchor(delay, arrived)
        passed, self._now = max(0.0, arrived - self._now), arrived
        if not self.is_settled:
            self._offset = self._target = min(self._target, delay)
        else:
            self._follow(delay, arrived, passed)

    def place_frame(self, own: float) -> float:
        """Return the second of the common time line at which a frame belongs, negative if that is before its start."""
        return own + self._offset

    def earliest_place(self, own: float) -> float:
        """Return where a frame belongs by the quickest one so far. `place_frame` moves there inaudibly slowly."""
        return own + self._target + min(0.0, self._window.least)

    def _anchor(self, delay: float, arrived: float) -> None:
        self._offset = self._target = delay
        self._began = self._now = arrived
        self._window, self._late, self._lateness = _Window(arrived), _Window(arrived), 0.0

    def _follow(self, delay: float, arrived: float, passed: float) -> None:
        lateness = delay - self._target
        is_elsewhere, first = not -MAX_LEAD <= lateness <= self._max_hold, self._late.first
        late = -inf if is_elsewhere else self._late.quickest(lateness, arrived, LATENESS_WINDOW)
        if late > LOST and first is not None and late > first - STEADY:
            self._lost = late
        if is_elsewhere or late > MAX_LATENESS:
            self._move(delay, arrived)
            return
        quickest = self._window.quickest(lateness, arrived, WINDOW)
        if quickest != -inf:
            self._correct(quickest)
        step = SLEW * passed
        self._offset += max(-step, min(step, self._target - self._offset))

    def _move(self, delay: float, arrived: float) -> None:
        """Restart with the place of this frame, because the track's own time has restarted."""
        self._anchor(delay, arrived)
        self.turns += 1
        self._began = arrived - SETTLE  # frames are being placed already and cannot wait for another settling

    def _correct(self, quickest: float) -> None:
        """Follow the drift that the quickest frame of a window reveals."""
        change = quickest - self._lateness
        if quickest < 0:
            change = quickest  # quicker than ever before: the place was too late by this much
        elif abs(change) > MAX_DRIFT * WINDOW:
            change = 0.0
        self._target += change
        self._lateness = quickest - change


class _Window:
    """The smallest value in a stretch of time."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.least = inf
        self.first: float | None = None

    def quickest(self, value: float, now: float, length: float) -> float:
        """Add a value. Return the smallest one when the stretch is over, minus infinity before."""
        self.first = value if self.first is None else self.first
        self.least = min(self.least, value)
        if now - self._began < length:
            return -inf
        least, self.least, self.first, self._began = self.least, inf, None, now
        return least
