"""One node of a server: its engine, and the hubs of its apps, which hear what the engine tells."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

from .engine.contract import Done, Engine, EngineError, Entry, Member, Position, Stored
from .hub import Hub

T = TypeVar("T")


class Node:
    """Passes what the engine tells to the hub of the app. It is the `EngineListener` of the engine.

    Attributes:
        origin: A name that no other node has, and no other run: connections are named after it.
    """

    def __init__(self, engine: Engine, node_id: str) -> None:
        self.engine = engine
        self.node_id = node_id
        self.origin = f"{node_id}.{secrets.token_hex(4)}"
        self._hubs: dict[str, Hub] = {}

    def enter(self, app: str, hub: Hub) -> None:
        """Add the hub of an app."""
        self._hubs[app] = hub

    def leave(self, app: str) -> None:
        """Remove the hub of an app."""
        self._hubs.pop(app, None)

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None:
        """Pass on a message."""
        hub = self._hubs.get(app)
        if hub is not None:
            hub.message(app, channel, epoch, stored)

    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None:
        """Pass on that messages are lost."""
        if (hub := self._hubs.get(app)) is not None:
            hub.messages_lost(app, channel, position, count)

    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        """Pass on who came and went."""
        if (hub := self._hubs.get(app)) is not None:
            hub.presence(app, channel, joined, left)

    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None:
        """Pass on a direct."""
        if (hub := self._hubs.get(app)) is not None:
            hub.direct(app, peer_id, epoch, stored)

    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None:
        """Pass on that directs are lost."""
        if (hub := self._hubs.get(app)) is not None:
            hub.directs_lost(app, peer_id, position, count)

    def replaced(self, app: str, entry: Entry) -> None:
        """Pass on that a peer has resumed."""
        if (hub := self._hubs.get(app)) is not None:
            hub.replaced(app, entry)

    def kick(self, app: str, peer_id: str) -> None:
        """Pass on that a peer has to go."""
        if (hub := self._hubs.get(app)) is not None:
            hub.kick(app, peer_id)

    def revoke(self, app: str, key_id: str) -> None:
        """Pass on that a key is revoked."""
        if (hub := self._hubs.get(app)) is not None:
            hub.revoke(app, key_id)

    def health(self, is_up: bool) -> None:
        """Pass on whether the engine reaches the others."""
        for hub in self._hubs.values():
            hub.health(is_up)


async def outcome_of(request: Callable[[Done[T]], None]) -> T:
    """Wait for the outcome of a request to an engine.

    Raises:
        EngineError: the request has failed.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(outcome: T | EngineError) -> None:
        if future.done():
            return
        if isinstance(outcome, EngineError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    request(done)
    return await future
