"""One app while the server runs: its hub, its meter and its open sockets."""

from __future__ import annotations

from ..events import WsCloseCode
from .auth import Admission
from .client_socket import ClientSocket, seal
from .hub import Hub
from .keys import App
from .limits import Limits
from .plan import Meter
from .webhooks.sender import WebhookSender


class Tenant:
    """The state of one app."""

    def __init__(self, app: App, limits: Limits, webhooks: WebhookSender | None = None) -> None:
        self.id = app.id
        self.meter = Meter(app.plan)
        if webhooks is None:
            self.hub = Hub(limits, seal, self.meter)
        else:
            self.hub = Hub(limits, seal, self.meter, lambda kind, name, peer: webhooks.note(kind, app.id, name, peer))
        self.sockets: set[ClientSocket] = set()
        self._sockets_of: dict[str, set[ClientSocket]] = {}

    def reconfigure(self, app: App, limits: Limits) -> None:
        """Replace the plan and the limits."""
        self.meter.replace_plan(app.plan)
        self.hub.reconfigure(limits)

    def enter(self, socket: ClientSocket) -> None:
        """Add an open socket."""
        self.sockets.add(socket)
        self._sockets_of.setdefault(socket.peer_id, set()).add(socket)

    def leave(self, socket: ClientSocket) -> None:
        """Remove a socket."""
        self.sockets.discard(socket)
        sockets = self._sockets_of.get(socket.peer_id, set())
        sockets.discard(socket)
        if not sockets:
            self._sockets_of.pop(socket.peer_id, None)

    def replaced_by(self, admission: Admission) -> list[ClientSocket]:
        """Return the sockets that a resuming connection replaces: those of its peer, with the same key."""
        if not admission.resumes:
            return []
        sockets = self._sockets_of.get(admission.identity.peer_id, ())
        return [socket for socket in sockets if socket.admission.is_by_same_key(admission) and not socket.has_left]

    def admits(self, admission: Admission) -> bool:
        """Return whether the plan allows a connection. One that replaces another needs no further allowance."""
        return self.meter.admits() or bool(self.replaced_by(admission))

    def close_peer(self, peer_id: str) -> int:
        """Close all connections of a peer for its backend. Return their number."""
        sockets = [socket for socket in self._sockets_of.get(peer_id, ()) if not socket.is_ending]
        for socket in sockets:
            socket.close(WsCloseCode.ADMIN_DISCONNECT, "disconnected by the backend")
        return len(sockets)
