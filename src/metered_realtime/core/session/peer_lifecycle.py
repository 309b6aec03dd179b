"""The life of a peer: it joins one channel at a time, loses the server and finds it again, leaves, and ends.

Inputs, and what each does in the phases:

    input \\ phase    IDLE        JOINING        JOINED        RECONNECTING   LEAVING     ENDING       CLOSED
    join             JOINING     -              -             -              -           -            -
    join_failed      -           IDLE           -             -              -           -            -
    joined           -           JOINED         -             -              -           -            -
    connected        note id     note id        note id       expect snap-   note id     note id      note id
                                                              shot, or JOINED
    snapshot         -           -              -             JOINED         -           -            -
    connection_lost  -           -              RECONNECTING  RECONNECTING   -           -            -
    disconnected     -           report what    ENDING        ENDING         -           -            -
                                 is fatal
    client_closed    -           -              ENDING        ENDING         -           -            -
    leave            -           -              LEAVING       LEAVING        -           -            -
    left             -           -              -             -              IDLE        stays        -
    close            ENDING      ENDING         ENDING        ENDING         ENDING      -            -
    ended            -           -              -             -              -           CLOSED       -

`join` and `leave` where `allows` says no are refused by the caller. All other inputs come from outside and are ignored
where they are marked `-`.

Invariants:
- `state`, which programs see, follows the phase. While ENDING it is `leaving` if `close` asked for it, and what it was
  if the server ended the connection.
- Each `joined` is followed by one `Leave` or `End`, and by one `AnnounceLeft`.
- `channel` is set from `join` on until the channel is left, and `peer_id` is the id that the server gave last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from ...options import MeteredPeerState
from .close_codes import FATAL_CLOSES, code_of_close


class LifePhase(Enum):
    """What the peer is doing."""

    IDLE = auto()
    JOINING = auto()
    JOINED = auto()
    RECONNECTING = auto()
    LEAVING = auto()
    ENDING = auto()
    CLOSED = auto()


_STATES: dict[LifePhase, MeteredPeerState] = {
    LifePhase.IDLE: "idle",
    LifePhase.JOINING: "joining",
    LifePhase.JOINED: "joined",
    LifePhase.RECONNECTING: "reconnecting",
    LifePhase.LEAVING: "leaving",
    LifePhase.CLOSED: "closed",
}

_IN_CHANNEL = frozenset({LifePhase.JOINED, LifePhase.RECONNECTING})
_OPEN = frozenset({LifePhase.IDLE, LifePhase.JOINING, *_IN_CHANNEL})

Method = Literal["join", "leave", "change", "replace"]
"""What programs do with a peer; `change` is whatever works until it leaves or ends."""

_ALLOWED: dict[Method, frozenset[LifePhase]] = {
    "join": frozenset({LifePhase.IDLE}),
    "leave": _IN_CHANNEL,
    "change": _OPEN,
    "replace": frozenset({LifePhase.IDLE, LifePhase.JOINING, LifePhase.JOINED}),
}


@dataclass(frozen=True, slots=True)
class ShowState:
    """Report another state."""

    previous: MeteredPeerState
    state: MeteredPeerState


@dataclass(frozen=True, slots=True)
class ExpectSnapshot:
    """Take the next presence as the list of everybody, seen from this id."""

    peer_id: str


@dataclass(frozen=True, slots=True)
class AnnounceJoined:
    """Report that the channel is joined, then what came early."""

    peer_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class StartOver:
    """Replace every connection: the own id is another one, and the remotes have dropped the old ones."""


@dataclass(frozen=True, slots=True)
class ServerLost:
    """Show every remote as reconnecting."""


@dataclass(frozen=True, slots=True)
class AskForSnapshot:
    """Ask for the list of everybody until it is here."""


@dataclass(frozen=True, slots=True)
class ServerBack:
    """Stop asking, and show every remote as what it is."""


@dataclass(frozen=True, slots=True)
class ReportFatal:
    """Report that the server ended the connection for good: its close code and reason, the code of that, and the error
    if there is a precise one."""

    close_code: int
    reason: str
    code: str
    err: Exception | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Let everybody go, tell the server, and call `left`."""


@dataclass(frozen=True, slots=True)
class End:
    """Let everybody go, release everything, and call `ended`."""


@dataclass(frozen=True, slots=True)
class AnnounceLeft:
    """Report that the channel is left."""

    peer_id: str | None
    channel: str | None
    reason: str | None


Effect = (
    ShowState
    | ExpectSnapshot
    | AnnounceJoined
    | StartOver
    | ServerLost
    | AskForSnapshot
    | ServerBack
    | ReportFatal
    | Leave
    | End
    | AnnounceLeft
)


class PeerLifecycle:
    """Decides what a peer does about its channel. See the table of the module.

    Attributes:
        phase: What the peer is doing.
        state: What programs see of it.
        channel: The channel that it joins or is in, None without one.
        peer_id: The id that the server gave it last, None before that.
    """

    def __init__(self) -> None:
        self.phase = LifePhase.IDLE
        self.state: MeteredPeerState = "idle"
        self.channel: str | None = None
        self.peer_id: str | None = None
        self._reason: str | None = None
        self._announces_left = False

    @property
    def is_in_channel(self) -> bool:
        """Whether the channel is joined, with or without the server."""
        return self.phase in _IN_CHANNEL

    @property
    def joining(self) -> str | None:
        """The channel that is being joined, None if none is."""
        return self.channel if self.phase is LifePhase.JOINING else None

    def allows(self, method: Method) -> bool:
        """Return whether a program may do something now."""
        return self.phase in _ALLOWED[method]

    # --- joining

    def join(self, channel: str) -> list[Effect]:
        """Begin to join a channel. Legal where `allows("join")`."""
        self.channel = channel
        return self._enter(LifePhase.JOINING)

    def joined(self, peer_id: str | None) -> list[Effect] | None:
        """Handle the server's consent. Return None if the peer ends or has ended meanwhile."""
        if self.phase is not LifePhase.JOINING or self.channel is None or peer_id is None:
            return None
        self.peer_id = peer_id
        return [ExpectSnapshot(peer_id), *self._enter(LifePhase.JOINED), AnnounceJoined(peer_id, self.channel)]

    def forget_channel(self) -> bool:
        """Handle a join that fails. Return whether it was still under way; `join_failed` completes that."""
        if self.phase is not LifePhase.JOINING:
            return False
        self.channel = None
        return True

    def join_failed(self) -> list[Effect]:
        """Be idle again after a join that failed, unless the peer ends meanwhile."""
        return self._enter(LifePhase.IDLE) if self.phase is LifePhase.JOINING else []

    # --- what the client reports

    def connected(self, peer_id: str, *, is_alone: bool) -> list[Effect]:
        """Handle a connection to the server. `is_alone`: no remote has to be compared with the next snapshot."""
        previous, self.peer_id = self.peer_id, peer_id
        if self.phase is not LifePhase.RECONNECTING:
            return []
        effects: list[Effect] = [ExpectSnapshot(peer_id)]
        if previous != peer_id:
            effects.append(StartOver())
        return [*effects, *(self._back() if is_alone else [AskForSnapshot()])]

    def snapshot(self) -> list[Effect]:
        """Handle the list of everybody after a reconnect."""
        return self._back() if self.phase is LifePhase.RECONNECTING else []

    def connection_lost(self) -> list[Effect]:
        """Handle the loss of the server while the client tries to find it again."""
        return [ServerLost(), *self._enter(LifePhase.RECONNECTING)] if self.is_in_channel else []

    def disconnected(
        self, close_code: int, reason: str, *, lacks_token: bool, is_dialling: bool, err: Exception | None = None
    ) -> list[Effect]:
        """Handle the end of the connection for good.

        `lacks_token`: the token provider failed. `is_dialling`: it never came up, and the join raises why.
        `err`: the precise error, if there is one.
        """
        code = "token_provider_failed" if lacks_token else code_of_close(close_code)
        fatal = ReportFatal(close_code, reason, code, err)
        if self.phase is LifePhase.JOINING:
            # Whatever is not fatal is raised by the join, which has all there is to know.
            return [] if is_dialling or code not in FATAL_CLOSES else [fatal]
        if self.is_in_channel:
            return [fatal, *self._end(reason or f"disconnected (code {close_code})")]
        return []

    def client_closed(self) -> list[Effect]:
        """Handle the program closing the client that it shares."""
        return self._end("the signalling client was closed") if self.is_in_channel else []

    # --- leaving

    def leave(self, reason: str | None) -> list[Effect]:
        """Begin to leave the channel. Legal where `allows("leave")`."""
        self._reason = reason
        return [*self._enter(LifePhase.LEAVING), Leave()]

    def left(self) -> list[Effect]:
        """Handle the channel being left. A peer that was closed meanwhile goes on ending."""
        if self.phase is LifePhase.LEAVING:
            shown = self._enter(LifePhase.IDLE)
        elif self.phase is LifePhase.ENDING and self.channel is not None and not self._announces_left:
            shown = self._show("idle")
        else:
            return []
        return [*shown, self._announce_left()]

    def close(self, reason: str | None) -> list[Effect]:
        """Begin to end, unless that has begun."""
        if self.phase in (LifePhase.ENDING, LifePhase.CLOSED):
            return []
        was_idle, was_leaving = self.phase is LifePhase.IDLE, self.phase is LifePhase.LEAVING
        effects = self._end(self._reason if was_leaving else reason, announces_left=not (was_idle or was_leaving))
        return effects if was_idle else [*effects, *self._show("leaving")]

    def ended(self) -> list[Effect]:
        """Handle everything being released."""
        if self.phase is not LifePhase.ENDING:
            return []
        left = self._announce_left() if self._announces_left else None
        self.channel = None
        return [*self._enter(LifePhase.CLOSED), *([left] if left is not None else [])]

    def _back(self) -> list[Effect]:
        return [ServerBack(), *self._enter(LifePhase.JOINED)]

    def _end(self, reason: str | None, *, announces_left: bool = True) -> list[Effect]:
        self.phase = LifePhase.ENDING
        self._reason = reason
        self._announces_left = announces_left
        return [End()]

    def _announce_left(self) -> AnnounceLeft:
        channel, self.channel = self.channel, None
        return AnnounceLeft(self.peer_id, channel, self._reason)

    def _enter(self, phase: LifePhase) -> list[Effect]:
        self.phase = phase
        return self._show(_STATES[phase])

    def _show(self, state: MeteredPeerState) -> list[Effect]:
        if state == self.state:
            return []
        previous, self.state = self.state, state
        return [ShowState(previous, state)]
