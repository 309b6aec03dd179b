"""Which receivers get which rendition of a picture, and at what bitrate: estimates in, groups and targets out.

The rule. What a receiver can take is its estimate (REMB), up to the codec's ceiling. The best estimate is the measure.

- Receivers with at least `SLOW_SHARE` of it are fast. The full rendition has the smallest estimate of a fast one.
- One with less is slow once its estimate has been below what the full rendition really carries for `SLOW_AFTER`
  seconds. A low estimate alone proves nothing: it cannot be higher than 1.5 times what arrives, however good the path,
  so it counts neither for nor against anybody while it is above what is sent.
- The low rendition exists while somebody is slow. It has the smallest estimate of a slow one, and at most `LOW_SHARE`
  of the measure.
- A slow receiver is fast again when its estimate has been at least `BACK_SHARE` of the measure for `BACK_AFTER`
  seconds; at once if otherwise nobody would be fast. Since its estimate may be held down by how little it is sent, it
  is also tried after `FIRST_RETRY` seconds if it has room to spare, and after twice as long each time that fails.
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
"""Times what the low rendition carries that an estimate has to be for a trial: less shows that the path is full."""
RETRY_FAILED = 10.0
"""Seconds within which a receiver that was moved up and is slow again shows that it was a mistake."""

Receiver = TypeVar("Receiver")


@dataclass(frozen=True, slots=True)
class BitrateLimits:
    """Bits per second between which a rendition is encoded, and those it starts with while nobody has said anything."""

    floor: int
    start: int
    ceiling: int
    low_floor: int
    step: float
    """The part of a target by which it changes at least."""
    hold: float
    """Seconds for which a target stays before it rises."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[Receiver]):
    """The targets in bits per second, and who is to get the low rendition. There is none when `low` is None."""

    full: int
    low: int | None
    slow: frozenset[Receiver]


@dataclass(slots=True)
class _ReceiverState:
    estimate: int | None = None
    slow: bool = False
    since: float | None = None  # since when the estimate speaks for a move
    moved_at: float = 0.0
    retry_after: float = FIRST_RETRY
    moves: int = 0


@dataclass(slots=True)
class _Target:
    """A bitrate with inertia."""

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

    def add(self, receiver: Receiver) -> None:
        """Enter a receiver, which gets the full rendition."""
        self._states.setdefault(receiver, _ReceiverState())

    def remove(self, receiver: Receiver) -> None:
        """Forget a receiver."""
        self._states.pop(receiver, None)

    def estimate(self, receiver: Receiver, bitrate: int) -> None:
        """Note the bits per second that a receiver says it can take."""
        if receiver in self._states:
            self._states[receiver].estimate = bitrate

    def decide(self, now: float, full_carries: float, low_carries: float) -> Decision[Receiver]:
        """Return what is to be done, given the bits per second that the renditions really carry."""
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
    """Tell whether what speaks for a move has done so for so long."""
    if state.since is None:
        state.since = now
    return now - state.since >= seconds
