"""A signalling server on the virtual network: the real hub and intake, with sockets that can break."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from ..core.negotiation.sdp import Description, sections
from ..core.negotiation.signals import DescriptionSignal, parse_signal
from ..core.session.close_codes import TERMINAL_CODES
from ..core.session.session import ABNORMAL
from ..core.wire.frames import GoingAwayFrame, encode
from ..events import WsCloseCode
from ..server.client_socket import PLACES_KEPT
from ..server.engine.memory import MemoryEngine
from ..server.engine.memory_store import MemoryStore
from ..server.frame_intake import Close, FrameIntake
from ..server.hub import Hub, Identity, Recovery
from ..server.hub.identity import parse_recovery
from ..server.limits import Limits
from ..server.plan import Meter
from ..server.rights import ACTIONS, Grant
from ..server.routing import Subscriber
from .virtual_network import Process, VirtualNetwork

GHOST_TIME = (10.0, 40.0)
"""Seconds until the server notices a silent client: the rest of a ping interval, and the timeout of the pong."""

KEY = "key"
"""The name of the key that all clients have."""

_DIRECT = b'{"type":"direct","from":"'
_LEFT = b'"left":[{'
_SIGNALS = (b'"rtc-description"', b'"rtc-ice"', b'"__meteredTrackMeta"')


class _Shown:
    """A signal, formatted for the trace when it is read."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame

    def __str__(self) -> str:
        frame = json.loads(self._frame)
        signal = parse_signal(frame["data"])
        match signal:
            case DescriptionSignal(kind, sdp):
                found = Description.parse(kind, sdp)
                parts = [f"{it.mid}:{it.track_id if it.sends else '-'}" for it in sections(sdp)]
                return f"{kind} {found.tag} of {found.ufrag} to {frame['to']}: {' '.join(parts)}"
        return f"{signal} to {frame['to']}"


class ServerEnd:
    """The server's end of one socket."""

    def __init__(
        self,
        server: VirtualServer,
        process: Process,
        peer_id: str,
        number: int,
        *,
        resumes: bool,
        recovery: Recovery | None,
    ) -> None:
        self.peer_id = peer_id
        self.is_silent = False
        self._server = server
        self._process = process
        self._number = number
        self._network = server.network
        self._client: ClientEnd | None = None
        self._open = True
        hub = server.hub
        grant = server.grant_of(process.host)
        identity = Identity(peer_id, grant, metadata=server.welcome_metadata, key=KEY, resumes=resumes)
        self._subscriber: Subscriber = hub.connect(identity, self.write, 0.0, close=self.close, recovery=recovery)
        self._hub = hub
        self._intake = FrameIntake(hub, self._subscriber, server.limits, server.now())

    @property
    def number(self) -> int:
        """The unique number of the socket."""
        return self._number

    @property
    def host(self) -> str:
        """The host of the client."""
        return self._process.host

    def attach(self, client: ClientEnd) -> None:
        """Deliver frames to this client from now on."""
        self._client = client

    def break_at(self, *, client: bool, server: bool) -> None:
        """Break the socket. Each end notices at once if its argument is True, otherwise by its own timeout."""
        if server:
            self._leave(is_lost=True)
        else:
            self.silence()
        if client and self._client is not None:
            self._client.ended(ABNORMAL, "")
        self._client = None

    def write(self, frame: bytes) -> None:
        """Send a frame to the client. Direct messages may be lost or reordered; other frames stay in order."""
        if not self._open or self.is_silent:
            return
        control = ("down", self._number)
        if not frame.startswith(_DIRECT):
            self._network.carry(control, self._deliver, frame, not_before=self._arrival_of_earlier_messages(frame))
            return
        conditions = self._network.conditions
        sender = frame[len(_DIRECT) : frame.index(b'"', len(_DIRECT))]
        if conditions.loss and self._network.random.random() < conditions.loss:
            self._server.message_lost(sender.decode(), self.peer_id, frame)
            return
        if conditions.reorder:
            # The welcome is the first frame on any socket.
            self._network.carry(
                (*control, sender), self._deliver, frame, not_before=self._server.welcomed[self._number]
            )
        else:
            self._network.carry(control, self._deliver, frame)

    def _arrival_of_earlier_messages(self, frame: bytes) -> float:
        """Return when the last messages of peers that left arrive: their leaving is not reported before."""
        if _LEFT not in frame or not self._network.conditions.reorder:
            return 0.0
        left = json.loads(frame)["left"]
        return max(self._network.last_arrival(("down", self._number, entry["peerId"].encode())) for entry in left)

    def receive(self, frame: bytes) -> None:
        """Handle a frame of the client."""
        if not self._open or self.is_silent:
            return
        if any(signal in frame for signal in _SIGNALS):
            self._server.signals += 1
            self._network.trace(self._process.name, "sends %s", _Shown(frame))
        outcome = self._intake.handle_frame(frame, self._server.now())
        if isinstance(outcome, Close):
            self.close(outcome.code, outcome.reason)

    def close(self, code: int, reason: str) -> None:
        """End the connection and close the socket of the client."""
        if self._open:
            self._leave(expelled=code in TERMINAL_CODES, is_lost=code in PLACES_KEPT)
            if not self.is_silent:
                self._network.carry(("down", self._number), self._deliver_close, code, reason)

    def client_closed(self) -> None:
        """Handle the client closing its socket."""
        self._leave()

    def silence(self) -> None:
        """Drop all frames in both directions. The server notices after its ghost time."""
        if self._open and not self.is_silent:
            self.is_silent = True
            self._server.call_later(self._network.random.uniform(*GHOST_TIME), partial(self._leave, is_lost=True))

    def regrant(self) -> None:
        """Apply the current rights of the host."""
        self._hub.regrant(self._subscriber, self._server.grant_of(self.host))

    def _leave(self, *, expelled: bool = False, is_lost: bool = False) -> None:
        if self._open:
            self._open = False
            self._server.ends.pop(self._number, None)
            if is_lost:
                self._hub.lose(self._subscriber)
            else:
                self._hub.disconnect(self._subscriber, expelled=expelled)
            self._server.trace(f"{self.peer_id} is disconnected")

    def _deliver(self, frame: bytes) -> None:
        if self._client is not None and not self.is_silent:
            self._client.received(frame)

    def _deliver_close(self, code: int, reason: str) -> None:
        if self._client is not None and not self.is_silent:
            self._client.ended(code, reason)


class ClientEnd:
    """The client's end of a socket, as the server's end uses it."""

    def received(self, frame: bytes) -> None:
        """Handle a frame of the server."""
        raise NotImplementedError

    def ended(self, code: int, reason: str) -> None:
        """Handle the server closing the socket, or its breaking."""
        raise NotImplementedError


class VirtualServer:
    """Accepts clients while it is up. A restart loses all state: the hub is a new one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: VirtualNetwork) -> None:
        self.network = network
        self.limits = Limits()
        self.grant = Grant(ACTIONS, ("*",))
        self.welcome_metadata: dict[str, Any] | None = None
        if network.conditions.nat:
            self.welcome_metadata = {"iceServers": [{"urls": "stun:virtual.invalid:3478"}]}
        self.ends: dict[int, ServerEnd] = {}
        self.welcomed: dict[int, float] = {}
        self.signals = 0
        self.lost_metadata: set[tuple[str, str]] = set()
        self.is_up = True
        self.offline: set[str] = set()
        self.refused: set[str] = set()
        self.now = loop.time
        self.call_later = loop.call_later
        self._serial = self._runs = 0
        self.hub = self._new_hub()

    def ends_of(self, host: str) -> list[ServerEnd]:
        """Return the open connections of a host, ghosts included, oldest first."""
        return [end for end in self.ends.values() if end.host == host]

    def grant_of(self, host: str) -> Grant:
        """Return the rights of a host: all, or all but sending."""
        return Grant(ACTIONS - {"send"}, ("*",)) if host in self.refused else self.grant

    def _new_hub(self) -> Hub:
        self._runs += 1
        engine = MemoryEngine(MemoryStore(self.now, name=f"run{self._runs}"))
        meter, origin = Meter(clock=self.now), f"server{self._runs}"
        hub = Hub(engine, "app", self.limits, meter=meter, origin=origin, later=self.call_later)
        engine.attach("server", hub)
        return hub

    def trace(self, what: str, *values: object) -> None:
        """Add a note of the server to the trace."""
        self.network.trace("server", what, *values)

    def accept(self, process: Process, peer_id: str, *, resumes: bool, recover: str) -> ServerEnd | None:
        """Accept a client. Return None while the server is down.

        A client that resumes replaces its old connections. `recover` is the parameter of its URL; a network that loses
        or reorders directs, which have an order then, stands for a server that does not know it.
        """
        if not self.is_up:
            return None
        self._serial += 1
        conditions = self.network.conditions
        recovery = None if conditions.loss or conditions.reorder else parse_recovery([recover])
        end = ServerEnd(self, process, peer_id, self._serial, resumes=resumes, recovery=recovery)
        self.ends[self._serial] = end
        self.welcomed[self._serial] = self.network.last_arrival(("down", self._serial))
        self.trace("welcomes %s (%s)", peer_id, process.name)
        return end

    def restart(self, down_for: float, *, politely: bool) -> None:
        """End all connections, lose all state, and stay down for some seconds."""
        self.trace("goes down for %.1f s", down_for)
        self.is_up = False
        for end in list(self.ends.values()):
            if politely:
                end.write(encode(GoingAwayFrame(int(down_for * 1000))))
            end.close(int(WsCloseCode.GOING_AWAY) if politely else ABNORMAL, "")
        self.hub = self._new_hub()
        self.call_later(down_for, self._come_up)

    def message_lost(self, sender: str, receiver: str, frame: bytes) -> None:
        """Record a direct message that was acknowledged and never arrives."""
        if _SIGNALS[2] in frame:
            self.lost_metadata.add((sender, receiver))
        self.trace("loses a message from %s to %s", sender, receiver)

    def _come_up(self) -> None:
        self.is_up = True
        self.trace("is up again")
