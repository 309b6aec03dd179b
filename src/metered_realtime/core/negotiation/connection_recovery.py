"""The life of the connection to one remote: it comes up, is lost, is repaired so many times, and ends.

Inputs, and what each does in the phases. `ladder` is the next rung of the ladder: WAITING, or EXHAUSTED at its end.

    input \\ phase   IDLE         CONNECTING    UP            WAITING       DUE           EXHAUSTED     CLOSED
    negotiating     CONNECTING   -             -             -             -             -             -
    negotiated      -            start timer   start timer   -             -             start timer   -
    connected       UP           UP            stop timer    UP            UP, or - (*)  UP            -
    failed          ladder       ladder        ladder        -             -             -             -
    timer           -            ladder        ladder        DUE           -             ladder        -
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


class Phase(Enum):
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


_NEGOTIATES = frozenset({Phase.CONNECTING, Phase.UP, Phase.EXHAUSTED})


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Report the failure; the next attempt comes in `retry_in` seconds, None if there is none left."""

    reason: str
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class Repair:
    """Call `begin` as soon as no operation is under way."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Report that so many attempts in so many seconds did not help."""

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
        self.phase = Phase.IDLE
        self.deadline: float | None = None
        self.must_rebuild = False
        self._ladder = Ladder()
        self._was_connected = False
        self._reason = ""

    @property
    def state(self) -> PeerConnectionState:
        """The state that programs see."""
        match self.phase:
            case Phase.IDLE:
                return "idle"
            case Phase.UP:
                return "connected"
            case Phase.CLOSED:
                return "closed"
        return "reconnecting" if self._was_connected else "connecting"

    @property
    def attempts(self) -> int:
        """The number of repairs since the connection last held for a while."""
        return self._ladder.attempts

    def negotiating(self) -> None:
        """Handle the first offer or answer being made."""
        if self.phase is Phase.IDLE:
            self.phase = Phase.CONNECTING

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
        if self.phase is Phase.CLOSED or (self.phase is Phase.DUE and self.must_rebuild):
            return False
        self._ladder.connected(now)
        self._was_connected = True
        self._enter(Phase.UP)
        return True

    def failed(self, now: float, reason: str, *, least_delay: float = 0.0) -> list[Effect]:
        """Handle a failure: wait for the next attempt, at least so many seconds, or give up."""
        if self.phase in (Phase.WAITING, Phase.DUE, Phase.EXHAUSTED, Phase.CLOSED):
            return []
        return self._climb(now, reason, least_delay)

    def timer(self, now: float) -> list[Effect]:
        """Handle the deadline. Returns nothing before it."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.phase is Phase.WAITING:
            return self._due(self._reason)
        return self._climb(now, f"not connected within {CONNECT_TIMEOUT:g} s", 0.0)

    def begin(self, *, can_restart_ice: bool) -> RestartIce | ReplaceConnection | None:
        """Begin the repair that is due and return it, None if it is not due any more."""
        if self.phase is not Phase.DUE:
            return None
        self._enter(Phase.CONNECTING)
        if can_restart_ice and not self.must_rebuild:
            return RestartIce(self._reason)
        return ReplaceConnection(self._reason)

    def replaced(self) -> None:
        """Handle the old connection being gone, and a new one in its place."""
        self.must_rebuild = False
        if self.phase not in (Phase.IDLE, Phase.CLOSED):
            self._enter(Phase.CONNECTING)

    def start_over(self, reason: str) -> list[Effect]:
        """Replace the connection at once, from the foot of the ladder. An idle one stays idle."""
        self._ladder.reset()
        if self.phase in (Phase.IDLE, Phase.CLOSED):
            return []
        self.must_rebuild = True
        return self._due(reason)

    def offered(self) -> None:
        """Handle an offer of the remote: after the last attempt it is a sign of life."""
        if self._ladder.exhausted:
            self._ladder.reset()
        if self.phase is Phase.EXHAUSTED:
            self.phase = Phase.CONNECTING

    def close(self) -> None:
        """End for good."""
        self._enter(Phase.CLOSED)

    def _climb(self, now: float, reason: str, least_delay: float) -> list[Effect]:
        self._reason = reason
        delay = self._ladder.next_delay(now)
        if delay is None:
            self._enter(Phase.EXHAUSTED)
            started_at = self._ladder.started_at if self._ladder.started_at is not None else now
            return [ConnectionLost(reason, None), Exhausted(self._ladder.attempts, now - started_at)]
        self._enter(Phase.WAITING)
        self.deadline = now + max(delay, least_delay)
        return [ConnectionLost(reason, delay)]

    def _due(self, reason: str) -> list[Effect]:
        self._enter(Phase.DUE)
        self._reason = reason
        return [Repair()]

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.deadline = None
