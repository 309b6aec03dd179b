"""The life of the connection to one remote: it comes up, is lost, is repaired a limited number of times, and ends.

Inputs, and what each does in the phases. `ladder` is the next rung of the ladder: WAITING, or EXHAUSTED at its end.

    input \\ phase   IDLE         CONNECTING    UP            WAITING       DUE           EXHAUSTED     CLOSED
    negotiating     CONNECTING   -             -             -             -             -             -
    negotiated      -            start timer   start timer   -             -             -             -
    connected       UP           UP            stop timer    UP            UP, or - (*)  UP            -
    failed          ladder       ladder        ladder        -             -             -             -
    timer           -            ladder        ladder        DUE           -             -             -
    begin           -            -             -             -             CONNECTING    -             -
    replaced        -            CONNECTING    CONNECTING    CONNECTING    CONNECTING    CONNECTING    -
    start_over      -            DUE           DUE           DUE           DUE           DUE           -
    offered         -            -             -             -             -             CONNECTING    -
    close           CLOSED       CLOSED        CLOSED        CLOSED        CLOSED        CLOSED        -

(*) A repair that is due is dropped when the path comes back, unless only a new connection will do (`must_rebuild`).

Invariants:
- There is one deadline at a time: that of coming up, set by `negotiated`, or in WAITING that of the next attempt.
- `state` follows from the phase: what was connected once reads `reconnecting` until it is connected again.
- Exhaustion is reported once, and again only after the connection came up or the remote gave a sign of life.
- A repair looks for another path under the same connection if it can (ICE restart), and replaces it otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ...options import PeerConnectionState
from .ladder import Ladder

CONNECT_TIMEOUT = 15.0
"""Seconds that a negotiated connection may take to come up before it counts as failed."""


class RecoveryPhase(Enum):
    """What the connection is doing."""

    IDLE = auto()
    CONNECTING = auto()
    UP = auto()
    WAITING = auto()
    """It failed; the next attempt comes when the timer fires."""
    DUE = auto()
    """An attempt begins as soon as the operation that is under way ends."""
    EXHAUSTED = auto()
    CLOSED = auto()


_NEGOTIATES = frozenset({RecoveryPhase.CONNECTING, RecoveryPhase.UP})


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Report the failure. The next attempt follows in `retry_in` seconds, None if no attempt is left."""

    reason: str
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class Repair:
    """Call `begin` as soon as no operation is under way."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Report that all `attempts` failed, made within `seconds` of the first failure."""

    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestartIce:
    """Look for another path under the same connection."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReplaceConnection:
    """Offer a new connection."""

    reason: str


Effect = ConnectionLost | Repair | Exhausted


class ConnectionRecovery:
    """Decides when a connection is repaired, and how. Times are seconds of one clock.

    Attributes:
        phase: What the connection is doing.
        deadline: When to call `timer`, None for never. It may have changed after each call.
        must_rebuild: Whether the next repair has to be a new connection.
    """

    def __init__(self) -> None:
        self.phase = RecoveryPhase.IDLE
        self.deadline: float | None = None
        self.must_rebuild = False
        self._ladder = Ladder()
        self._was_connected = False
        self._reason = ""

    @property
    def state(self) -> PeerConnectionState:
        """The state that programs see."""
        match self.phase:
            case RecoveryPhase.IDLE:
                return "idle"
            case RecoveryPhase.UP:
                return "connected"
            case RecoveryPhase.CLOSED:
                return "closed"
        return "reconnecting" if self._was_connected else "connecting"

    @property
    def attempts(self) -> int:
        """The number of repairs since the connection last held for a while."""
        return self._ladder.attempts

    def negotiating(self) -> None:
        """Handle the first offer or answer being made."""
        if self.phase is RecoveryPhase.IDLE:
            self.phase = RecoveryPhase.CONNECTING

    def negotiated(self, now: float) -> None:
        """Give a negotiated connection a limited time to come up. A timer that runs goes on."""
        if self.phase in _NEGOTIATES and self.deadline is None:
            self.deadline = now + CONNECT_TIMEOUT

    def not_negotiated(self) -> None:
        """Stop the timer: the answer cannot be delivered, and nothing can come up."""
        if self.phase in _NEGOTIATES:
            self.deadline = None

    def connected(self, now: float) -> bool:
        """Handle the connection coming up. Return whether it counts."""
        if self.phase is RecoveryPhase.CLOSED or (self.phase is RecoveryPhase.DUE and self.must_rebuild):
            return False
        self._ladder.connected(now)
        self._was_connected = True
        self._enter(RecoveryPhase.UP)
        return True

    def failed(self, now: float, reason: str, *, least_delay: float = 0.0) -> list[Effect]:
        """Handle a failure: wait for the next attempt, at least `least_delay` seconds, or give up."""
        if self.phase in (RecoveryPhase.WAITING, RecoveryPhase.DUE, RecoveryPhase.EXHAUSTED, RecoveryPhase.CLOSED):
            return []
        return self._climb(now, reason, least_delay)

    def timer(self, now: float) -> list[Effect]:
        """Handle the deadline. No effect before it."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.phase is RecoveryPhase.WAITING:
            return self._due(self._reason)
        return self._climb(now, f"not connected within {CONNECT_TIMEOUT:g} s", 0.0)

    def begin(self, *, can_restart_ice: bool) -> RestartIce | ReplaceConnection | None:
        """Begin the repair that is due, and return it. None if none is due any more."""
        if self.phase is not RecoveryPhase.DUE:
            return None
        self._enter(RecoveryPhase.CONNECTING)
        if can_restart_ice and not self.must_rebuild:
            return RestartIce(self._reason)
        return ReplaceConnection(self._reason)

    def replaced(self) -> None:
        """Handle the old connection being replaced by a new one."""
        self.must_rebuild = False
        if self.phase not in (RecoveryPhase.IDLE, RecoveryPhase.CLOSED):
            self._enter(RecoveryPhase.CONNECTING)

    def start_over(self, reason: str) -> list[Effect]:
        """Replace the connection at once, and start the ladder again from its foot. An idle connection stays idle."""
        self._ladder.reset()
        if self.phase in (RecoveryPhase.IDLE, RecoveryPhase.CLOSED):
            return []
        self.must_rebuild = True
        return self._due(reason)

    def offered(self) -> None:
        """Handle an offer from the remote: after the last attempt it is a sign of life."""
        if self._ladder.exhausted:
            self._ladder.reset()
        if self.phase is RecoveryPhase.EXHAUSTED:
            self.phase = RecoveryPhase.CONNECTING

    def close(self) -> None:
        """End for good."""
        self._enter(RecoveryPhase.CLOSED)

    def _climb(self, now: float, reason: str, least_delay: float) -> list[Effect]:
        self._reason = reason
        delay = self._ladder.next_delay(now)
        if delay is None:
            self._enter(RecoveryPhase.EXHAUSTED)
            started_at = self._ladder.started_at if self._ladder.started_at is not None else now
            return [ConnectionLost(reason, None), Exhausted(self._ladder.attempts, now - started_at)]
        self._enter(RecoveryPhase.WAITING)
        self.deadline = now + max(delay, least_delay)
        return [ConnectionLost(reason, delay)]

    def _due(self, reason: str) -> list[Effect]:
        self._enter(RecoveryPhase.DUE)
        self._reason = reason
        return [Repair()]

    def _enter(self, phase: RecoveryPhase) -> None:
        self.phase = phase
        self.deadline = None
