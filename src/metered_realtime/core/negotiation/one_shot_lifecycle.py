"""The life of a connection that its program negotiates: it comes up, may lose its path and find another, and ends.

Inputs, and what each does in the phases. `window` is the time that a program has for a restart of ICE.

    input \\ phase   IDLE         CONNECTING    UP                      LOST          CLOSED
    negotiating     CONNECTING   -             -                       -             -
    negotiated      start timer  start timer   -                       -             -
    connected       UP           UP            -                       UP            -
    path_lost       -            not_connected LOST, or path_lost (*)  -             -
    gone            -            not_connected closed_by_remote        closed_by_.   -
    timer           -            not_connected -                       path_lost     -
    failed          negotiation_failed in every phase                                -
    close           CLOSED       CLOSED        CLOSED                  CLOSED        -

(*) LOST if ICE can be restarted and there is a window. A name of a loss in the table means CLOSED for this reason.

Invariants:
- There is one deadline at a time: that of coming up, or in LOST that of the restart.
- `loss` is None until the connection is closed, and stays None if the program closed it.
"""

from __future__ import annotations

from enum import Enum, auto

from ...errors import ConnectionLossReason
from ...options import PeerConnectionState
from .connection_recovery import CONNECT_TIMEOUT


class OneShotPhase(Enum):
    """What the connection is doing."""

    IDLE = auto()
    CONNECTING = auto()
    UP = auto()
    LOST = auto()
    """Its path is lost; a restart of ICE may find another."""
    CLOSED = auto()


_STATES: dict[OneShotPhase, PeerConnectionState] = {
    OneShotPhase.IDLE: "idle",
    OneShotPhase.CONNECTING: "connecting",
    OneShotPhase.UP: "connected",
    OneShotPhase.LOST: "reconnecting",
    OneShotPhase.CLOSED: "closed",
}


class OneShotLifecycle:
    """Decides when a connection counts as lost. Times are seconds of one clock.

    Attributes:
        phase: What the connection is doing.
        deadline: When to call `timer`, None for never. It may have changed after each call.
        loss: Why the connection ended by itself.
    """

    def __init__(self, restart_window: float = 0.0) -> None:
        self.phase = OneShotPhase.IDLE
        self.deadline: float | None = None
        self.loss: ConnectionLossReason | None = None
        self._window = restart_window

    @property
    def state(self) -> PeerConnectionState:
        """The state that programs see."""
        return _STATES[self.phase]

    def negotiating(self) -> None:
        """Handle the first description of either end."""
        if self.phase is OneShotPhase.IDLE:
            self.phase = OneShotPhase.CONNECTING

    def negotiated(self, now: float) -> None:
        """Handle both descriptions being applied: the connection has a limited time to come up."""
        self.negotiating()
        if self.phase is OneShotPhase.CONNECTING:
            self.deadline = now + CONNECT_TIMEOUT

    def connected(self) -> None:
        """Handle the connection coming up."""
        if self.phase is not OneShotPhase.CLOSED:
            self.phase, self.deadline = OneShotPhase.UP, None

    def path_lost(self, now: float, *, can_restart: bool) -> None:
        """Handle the loss of the path, or none being found."""
        match self.phase:
            case OneShotPhase.UP if can_restart and self._window > 0:
                self.phase, self.deadline = OneShotPhase.LOST, now + self._window
            case OneShotPhase.UP:
                self._end("path_lost")
            case OneShotPhase.CONNECTING:
                self._end("not_connected")

    def gone(self) -> None:
        """Handle the other end having closed the connection."""
        match self.phase:
            case OneShotPhase.CONNECTING:
                self._end("not_connected")
            case OneShotPhase.UP | OneShotPhase.LOST:
                self._end("closed_by_remote")

    def timer(self, now: float) -> None:
        """Handle the deadline."""
        if self.deadline is None or now < self.deadline:
            return
        self._end("path_lost" if self.phase is OneShotPhase.LOST else "not_connected")

    def failed(self) -> None:
        """Handle a failure half-way through a description, after which the connection cannot be used."""
        self._end("negotiation_failed")

    def close(self) -> None:
        """Handle the program closing the connection."""
        self._end(None)

    def _end(self, loss: ConnectionLossReason | None) -> None:
        if self.phase is not OneShotPhase.CLOSED:
            self.phase, self.deadline, self.loss = OneShotPhase.CLOSED, None, loss
