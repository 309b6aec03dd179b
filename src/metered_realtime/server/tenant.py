"""One app while the server runs: its hub, its meter and its open sockets."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from .auth import Admission
from .client_socket import ClientSocket, seal
from .engine.contract import Done, Engine
from .hub import Hub
from .keys import App
from .lease import MessageLease
from .limits import Limits
from .node import Node, outcome_of
from .plan import Meter
from .webhooks.sender import WebhookSender


class Tenant:
    """The state of one app."""

    def __init__(self, app: App, node: Node, limits: Limits, webhooks: WebhookSender | None = None) -> None:
        self.id = app.id
        self.engine = node.engine
        self.meter = Meter(app.plan, lease=MessageLease(_Counter(node.engine, app.id)))
        on_change = None
        if webhooks is not None:
            on_change = lambda kind, name, peer: webhooks.note(kind, app.id, name, peer)  # noqa: E731
        later = asyncio.get_running_loop().call_later
        self.hub = Hub(node.engine, app.id, limits, seal, self.meter, on_change, origin=node.origin, later=later)
        node.enter(app.id, self.hub)
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

    async def close_peer(self, peer_id: str) -> int:
        """Close all connections of a peer, at any node, for its backend. Return their number.

        Raises:
            EngineError: the engine cannot reach the nodes.
        """
        return await outcome_of(partial(self.engine.kick, self.id, peer_id))

    async def usage(self) -> dict[str, Any]:
        """Return the use of the app over all nodes in the current period.

        Raises:
            EngineError: the engine cannot reach the nodes.
        """
        shared = await outcome_of(partial(self.engine.usage, self.id, self.meter.period))
        return self.meter.usage(shared)


class _Counter:
    """Counts the messages of one app by an engine."""

    def __init__(self, engine: Engine, app: str) -> None:
        self._engine = engine
        self._app = app

    def lease(self, period: int, wanted: int, limit: int | None, done: Done[int]) -> None:
        """Count messages before they are used."""
        self._engine.lease_messages(self._app, period, wanted, limit, done)

    def give_back(self, period: int, unused: int) -> None:
        """Give back what is left of a block."""
        self._engine.return_messages(self._app, period, unused)
