"""Which receivers get which rendition of a track, and at which bitrate: estimates in, groups and targets out.

The rule: the capacity of a receiver is its estimate (REMB), up to the codec's ceiling. The best one is the measure.

- Receivers with at least `SLOW_SHARE` of the measure are fast. The target of the full rendition is their smallest
  estimate.
- A receiver below that is slow once its estimate has been below the actual bitrate of the full rendition for
  `SLOW_AFTER` seconds. A low estimate alone proves nothing: however good the path, it cannot exceed 1.5 times what
  arrives. So it has no effect while it is above what is sent.
- The low rendition exists while any receiver is slow. Its target is the smallest estimate of a slow receiver, and at
  most `LOW_SHARE` of the measure.
- A slow receiver becomes fast again when its estimate has been at least `BACK_SHARE` of the measure for `BACK_AFTER`
  seconds, or at once if no receiver would be fast otherwise. Its estimate may be low only because it is sent little,
  so it is also tried after `FIRST_RETRY` seconds if it has room to spare, and after twice as long each time that fails.
- A target falls as soon as it is too high by `BitrateLimits.step`, and rises by that or more, no sooner than
  `BitrateLimits.hold` seconds after the last change: some encoders restart when the bitrate changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

SLOW_SHARE = 0.6
LOW_SHARE = 0.5
BACK_SHARE = 0.7
SLOW_AFTER = 1.5
BACK_AFTER = 5.0
FIRST_RETRY = 15.0
LAST_RETRY = 240.0
RETRY_ROOM = 1.3
"""Multiple of the low rendition's bitrate that an estimate must reach for a trial: less means that the path is full."""
RETRY_FAILED = 10.0
"""Seconds after a move up within which becoming slow again makes the move a failed trial."""

Receiver = TypeVar("Receiver")


@dataclass(frozen=True, slots=True)
class BitrateLimits:
    """Bounds of a rendition's bitrate, in bits per second, and the bitrate before the first estimate."""

    floor: int
    start: int
    ceiling: int
    low_floor: int
    step: float
    """Smallest relative change of a target."""
    hold: float
    """Seconds after a change before a target may rise."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[Receiver]):
    """The targets in bits per second, and the receivers of the low rendition. `low` is None while there is none."""

    full: int
    low: int | None
    slow: frozenset[Receiver]


@dataclass(slots=True)
class _ReceiverState:
    estimate: int | None = None
    slow: bool = False
    since: float | None = None  # when the estimate began to justify a move
    moved_at: float = 0.0
    retry_after: float = FIRST_RETRY
    moves: int = 0


@dataclass(slots=True)
class _Target:
    """A bitrate that changes in steps and rises slowly."""

    limits: BitrateLimits
    value: int
    changed_at: float | None = None

    def approach(self, wanted: int, now: float) -> int:
        step, rested = self.limits.step, self.changed_at is None or now - self.changed_at >= self.limits.hold
        first = self.changed_at is None and wanted != self.value
        if first or wanted < self.value * (1 - step) or (rested and wanted > self.value * (1 + step)):
            self.value, self.changed_at = wanted, now
        return self.value


class Renditions(Generic[Receiver]):
    """The receivers of one track in one codec. Time is an argument, in seconds of any clock."""

    def __init__(self, limits: BitrateLimits) -> None:
        self._limits = limits
        self._states: dict[Receiver, _ReceiverState] = {}
        self._full = _Target(limits, limits.start)
        self._low: _Target | None = None

    def add_receiver(self, receiver: Receiver) -> None:
        """Add a receiver, which gets the full rendition at first."""
        self._states.setdefault(receiver, _ReceiverState())

    def remove_receiver(self, receiver: Receiver) -> None:
        """Remove a receiver."""
        self._states.pop(receiver, None)

    def set_estimate(self, receiver: Receiver, bitrate: int) -> None:
        """Set the estimate of a receiver, in bits per second. Unknown receivers are ignored."""
        if receiver in self._states:
            self._states[receiver].estimate = bitrate

    def decide(self, now: float, full_carries: float, low_carries: float) -> Decision[Receiver]:
        """Return the targets and groups, given the actual bits per second of both renditions."""
        best = max((min(it, self._limits.ceiling) for it in self._estimates()), default=None)
        if best is not None:
            self._move(now, best, full_carries, low_carries)
        slow = frozenset(receiver for receiver, state in self._states.items() if state.slow)
        full = self._full.approach(self._full_wanted(best), now) if best is not None else self._full.value
        if not slow:
            self._low = None
            return Decision(full, None, slow)
        return Decision(full, self._low_target(best, now), slow)

    def _estimates(self) -> list[int]:
        return [state.estimate for state in self._states.values() if state.estimate is not None]

    def _move(self, now: float, best: int, full_carries: float, low_carries: float) -> None:
        everybody_slow = all(state.slow for state in self._states.values())
        for state in self._states.values():
            if state.estimate is None:
                continue
            if state.slow:
                fits = state.estimate >= BACK_SHARE * best
                spare = state.estimate >= RETRY_ROOM * low_carries and now - state.moved_at >= state.retry_after
                back = (fits and (everybody_slow or _lasts(state, now, BACK_AFTER))) or spare
                if not fits:
                    state.since = None
                if back:
                    self._switch(state, now)
            elif state.estimate < SLOW_SHARE * best and state.estimate < full_carries:
                if _lasts(state, now, SLOW_AFTER):
                    failed = state.moves > 0 and now - state.moved_at <= RETRY_FAILED
                    state.retry_after = min(2 * state.retry_after, LAST_RETRY) if failed else FIRST_RETRY
                    self._switch(state, now)
            else:
                state.since = None

    def _switch(self, state: _ReceiverState, now: float) -> None:
        state.slow = not state.slow
        state.since, state.moved_at = None, now
        state.moves += 1

    def _full_wanted(self, best: int | None) -> int:
        if best is None:
            return self._limits.start
        counted = [
            state.estimate
            for state in self._states.values()
            if not state.slow and state.estimate is not None and state.estimate >= SLOW_SHARE * best
        ]
        return max(self._limits.floor, min(min(counted, default=best), self._limits.ceiling))

    def _low_target(self, best: int | None, now: float) -> int:
        estimates = [state.estimate for state in self._states.values() if state.slow and state.estimate is not None]
        most = round(LOW_SHARE * (best if best is not None else self._limits.start))
        wanted = max(self._limits.low_floor, min(min(estimates, default=most), most))
        if self._low is None:
            self._low = _Target(self._limits, wanted, now)
        return self._low.approach(wanted, now)


def _lasts(state: _ReceiverState, now: float, seconds: float) -> bool:
    """Return whether a move has been justified for this long. The first call starts the time."""
    if state.since is None:
        state.since = now
    return now - state.since >= seconds
