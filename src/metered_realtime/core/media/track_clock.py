"""Where the frames of a track belong on a time line that several tracks share, by the track's own clock.

It places what a remote sends in a recording, and what a local track gives on the clock of this program.

A frame's own time says exactly how far it is from the track's other frames, and nothing about other tracks. Its arrival
says where it is on the time line that all tracks share, plus what the network and the jitter buffer took. The least
that they took lately is the best guess at what is common to all tracks. It places the track once; afterwards only the
drift of the sender's clock is followed. What one track of a sender takes more than another is not seen by arrival:
`lip_sync` corrects it. What must not be followed is a jitter buffer that has become longer: after a
lost packet aiortc's holds up to 16 packets of sound for good, and a recording that goes by arrival is out of step from
then on (aiortc#1203).
"""

from __future__ import annotations

from math import inf

SETTLE = 0.5
"""Seconds from a track's first frame until it has its place: enough for 15 pictures, or 25 packets of sound, one of
which was not held up."""

WINDOW = 5.0
"""Seconds of which the quickest frame counts, when the drift is followed."""

MAX_DRIFT = 500e-6
"""Seconds per second that a sender's clock may be wrong. Quartz is within 100e-6; a delay that changes faster than this
is one of the network or of a buffer."""

SLEW = 1e-3
"""Seconds per second by which frames are moved at most to follow the drift: inaudible."""

MAX_LATENESS = 1.0
"""Seconds by which even the quickest frame of a window is late when the track's times have started over. More than a
jitter buffer holds, and the network's queues."""

MAX_LEAD = 0.25
"""Seconds that a frame may be ahead of its arrival before the track's times have started over. Nothing arrives before
it was sent: this is what the first guess can have been wrong by, and more."""

MAX_HOLD = 5.0
"""Seconds of lateness after which a single frame is enough to know it: nothing on the way holds frames so long."""

LATENESS_WINDOW = 1.0
"""Seconds in which every frame has to be late by `MAX_LATENESS`, or `LOST`."""

LOST = 0.1
"""Seconds by which every frame of a window is late when a local track has lost time: it was held up, and its own time
did not go on meanwhile. What computes its frames varies by less."""

STEADY = 0.05
"""Seconds by which the lateness may shrink in a window. A track that is making up for lost time has lost none."""


class TrackClock:
    """Places the frames of one track. Times are seconds: `own` in the track's time, `arrived` on the common one.

    `note` every frame as it comes. Once `is_settled`, `place` those that came so far, and each one that comes. A single
    frame that is later than `max_hold` is where it arrived, and so are the next ones.
    """

    def __init__(self, max_hold: float = MAX_HOLD) -> None:
        self._max_hold = max_hold
        self.turns = 0
        """How often the track's own time has begun anew."""
        self._offset = 0.0  # as it is applied
        self._target = 0.0  # where the offset is on its way to
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
        """What `place` adds to the track's own time."""
        return self._offset

    def take_lost(self) -> float:
        """Return by how much all frames of the last window were late, steadily, if it is more than `LOST`; once.

        It is for tracks that nothing holds up on the way: then it is time that the track has lost.
        """
        lost, self._lost = self._lost, 0.0
        return lost

    def note(self, own: float, arrived: float) -> None:
        """Take note of a frame that has just come."""
        delay = arrived - own
        if self._began is None:
            self._anchor(delay, arrived)
        passed, self._now = max(0.0, arrived - self._now), arrived
        if not self.is_settled:
            self._offset = self._target = min(self._target, delay)
        else:
            self._follow(delay, arrived, passed)

    def place(self, own: float) -> float:
        """Return the second of the common time line to which a frame belongs; below 0 if it was before that began."""
        return own + self._offset

    def soonest(self, own: float) -> float:
        """Return where a frame belongs by the quickest one so far, at once: `place` goes there so slowly that nobody
        hears it."""
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
        """Begin anew where the track's own time has begun anew, with the place that this frame gives it."""
        self._anchor(delay, arrived)
        self.turns += 1
        self._began = arrived - SETTLE  # what waits for no settling cannot wait for one now

    def _correct(self, quickest: float) -> None:
        """Follow the drift that the quickest frame of a window shows."""
        change = quickest - self._lateness
        if quickest < 0:
            change = quickest  # it was never that quick before: the place was late by so much
        elif abs(change) > MAX_DRIFT * WINDOW:
            change = 0.0
        self._target += change
        self._lateness = quickest - change


class _Window:
    """The least of the values in a stretch of time."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.least = inf
        self.first: float | None = None

    def quickest(self, value: float, now: float, length: float) -> float:
        """Take a value. Return the least one when the stretch is over, minus infinity before."""
        self.first = value if self.first is None else self.first
        self.least = min(self.least, value)
        if now - self._began < length:
            return -inf
        least, self.least, self.first, self._began = self.least, inf, None, now
        return least
