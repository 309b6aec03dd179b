"""Nodes for tests of engines: an engine each, with a listener that records what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from msgspec import Raw

from ..server.engine.contract import (
    ConnectResult,
    Engine,
    EngineError,
    EngineListener,
    Entry,
    Envelope,
    JoinResult,
    Member,
    Position,
    Stored,
    Usage,
)

PATIENCE = 60.0
"""Seconds after which something that has to happen counts as missing. They decide nothing else."""

APP = "app"

T = TypeVar("T")


class EngineWorld(Protocol):
    """The world that the engines of a test share."""

    async def add_node(self, node_id: str, listener: EngineListener) -> Engine:
        """Start another node."""

    async def remove_node(self, engine: Engine) -> None:
        """Stop a node. Its entries need not end within the test."""

    async def kill(self, engine: Engine) -> None:
        """Let a node be gone without a word. Its entries have to end before long."""


def message(sender: str, data: str, *, metadata: str | None = None) -> Envelope:
    """Return a message."""
    return Envelope(sender, Raw(data.encode()), None if metadata is None else Raw(metadata.encode()))


class ListeningNode:
    """A node of a test. `heard` is what it has heard, and the outcomes of joins and leaves, in one order.

    Methods named `begin_...` make a request and return its future; the others also wait for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.engine: Engine
        self.heard: list[tuple[Any, ...]] = []
        self.health_told: list[bool] = []
        self._entries: dict[str, Entry] = {}
        self._members: dict[str, set[str]] = {}
        self._changed = asyncio.Event()

    # --- the listener

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None:
        envelope = stored.envelope
        data, metadata = bytes(envelope.data), _bytes(envelope.metadata)
        self._note("message", channel, epoch, stored.offset, envelope.sender, data, metadata)

    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None:
        self._note("lost", channel, position.offset, count)

    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        known = self._members.setdefault(channel, set())
        for member in joined:
            known.add(member.peer_id)
            self._note("joined", channel, member.peer_id, _bytes(member.metadata))
        for member in left:
            known.discard(member.peer_id)
            self._note("left", channel, member.peer_id, member.expelled)

    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None:
        envelope = stored.envelope
        data, metadata = bytes(envelope.data), _bytes(envelope.metadata)
        self._note("direct", peer_id, epoch, stored.offset, envelope.sender, data, metadata)

    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None:
        self._note("directs lost", peer_id, position.offset, count)

    def replaced(self, app: str, entry: Entry) -> None:
        self._note("replaced", entry.peer_id, entry.connection, entry.key)

    def kick(self, app: str, peer_id: str) -> None:
        self._note("kick", peer_id)

    def revoke(self, app: str, key_id: str) -> None:
        self._note("revoke", app, key_id)

    def health(self, is_up: bool) -> None:
        self.health_told.append(is_up)
        self._changed.set()

    def _note(self, *event: Any) -> None:
        self.heard.append(event)
        self._changed.set()

    # --- waiting

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait until a condition holds, which is looked at whenever the node hears something."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} waits in vain {what}; it has heard {self.heard[-20:]}") from None

    async def hears(self, events: Sequence[tuple[Any, ...]]) -> None:
        """Wait until these events have been heard, and no others. Own joins, leaves and their results do not count."""
        await self.until(lambda: len(self._of_others()) >= len(events), f"for {events}")
        assert self._of_others() == list(events)

    async def hears_of(self, kind: str, count: int) -> None:
        """Wait for a number of events of a kind."""
        await self.until(lambda: sum(event[0] == kind for event in self.heard) >= count, f"for {count} of {kind}")
        self.heard[:] = self._of_others()

    async def hears_data(self, data: bytes) -> None:
        """Wait for a message."""
        await self.until(lambda: any(event[0] == "message" and event[5] == data for event in self.heard), str(data))

    async def hears_offset(self, offset: int, known: int) -> None:
        """Wait for a message with an offset, unless it is known."""
        await self.until(
            lambda: offset <= known or any(event[0] == "message" and event[3] >= offset for event in self.heard)
        )

    async def knows(self, channel: str, count: int) -> None:
        """Wait until a number of peers is known to be in a channel."""
        await self.until(lambda: len(self._members.get(channel, ())) >= count, f"for {count} members")

    async def pause(self) -> None:
        """Wait a moment before another look at something that nobody tells."""
        await asyncio.sleep(0.02)

    def data_of(self, kind: str) -> list[bytes]:
        """Return the data of all messages or directs that have been heard."""
        return [event[5] for event in self.heard if event[0] == kind]

    def _of_others(self) -> list[tuple[Any, ...]]:
        own = {entry.peer_id for entry in self._entries.values()}
        return [
            event
            for event in self.heard
            if not event[0].endswith("result") and not (event[0] == "joined" and event[2] in own)
        ]

    # --- requests

    def _ask(self, request: Callable[[Callable[[Any], None]], None], note: str = "", peer: str = "") -> Awaitable[Any]:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            assert not outcome.done(), "a request has one outcome"
            if isinstance(result, EngineError):
                outcome.set_exception(result)
                return
            outcome.set_result(result)
            if note:
                self._note(note, peer, result)

        request(done)
        return outcome

    async def connect(
        self,
        peer: str,
        connection: str,
        *,
        app: str = APP,
        key: str = "",
        metadata: str | None = None,
        since: Position | None = None,
        resumes: bool = False,
        limit: int | None = None,
    ) -> ConnectResult:
        entry = self._entry(peer, connection, metadata, key)
        result: ConnectResult = await self._ask(
            lambda done: self.engine.connect(app, entry, done, since=since, resumes=resumes, max_connections=limit)
        )
        return result

    async def disconnect(self, peer: str, connection: str, *, app: str = APP) -> None:
        entry = self._entries.get(connection) or Entry(peer, connection)
        await self._ask(lambda done: self.engine.disconnect(app, entry, done))

    async def has_peer(self, peer: str, *, app: str = APP) -> bool:
        return bool(await self._ask(lambda done: self.engine.has_peer(app, peer, done)))

    async def epoch_of(self, peer: str) -> str:
        """Return the name of the count of a peer's directs."""
        result = await self.connect(peer, f"{self.name}-looks")
        await self.disconnect(peer, f"{self.name}-looks")
        return result.position.epoch

    def begin_send(self, to: str, envelope: Envelope, *, app: str = APP) -> Awaitable[bool]:
        return self._ask(lambda done: self.engine.send(app, to, envelope, done))

    async def send(self, to: str, envelope: Envelope, *, app: str = APP) -> bool:
        return await self.begin_send(to, envelope, app=app)

    async def kick_peer(self, peer: str) -> int:
        return int(await self._ask(lambda done: self.engine.kick(APP, peer, done)))

    async def revoke_key(self, key_id: str) -> None:
        await self._ask(lambda done: self.engine.revoke(APP, key_id, done))

    def begin_join(
        self,
        channel: str,
        peer: str,
        connection: str,
        *,
        app: str = APP,
        metadata: str | None = None,
        since: Position | None = None,
    ) -> Awaitable[JoinResult]:
        key = self._entries[connection].key if connection in self._entries else ""
        entry = Entry(peer, connection, None if metadata is None else Raw(metadata.encode()), key)
        known = self._members.setdefault(channel, set())

        def request(done: Callable[[Any], None]) -> None:
            def noted(result: Any) -> None:
                if isinstance(result, JoinResult):
                    known.update(member.peer_id for member in result.members)
                done(result)

            self.engine.join(app, channel, entry, noted, since=since)

        return self._ask(request, "join result", peer)

    async def join(
        self,
        channel: str,
        peer: str,
        connection: str,
        *,
        app: str = APP,
        metadata: str | None = None,
        since: Position | None = None,
    ) -> JoinResult:
        return await self.begin_join(channel, peer, connection, app=app, metadata=metadata, since=since)

    async def enter(self, channel: str, peer: str, connection: str, *, metadata: str | None = None) -> JoinResult:
        """Connect, if that is not done, and join."""
        if connection not in self._entries:
            await self.connect(peer, connection, metadata=metadata)
        return await self.join(channel, peer, connection, metadata=metadata)

    def begin_leave(
        self, channel: str, peer: str, connection: str, *, app: str = APP, expelled: bool = False
    ) -> Awaitable[bool]:
        entry = self._entries.get(connection) or Entry(peer, connection)
        return self._ask(
            lambda done: self.engine.leave(app, channel, entry, done, expelled=expelled), "leave result", peer
        )

    async def leave(self, channel: str, peer: str, connection: str, *, app: str = APP, expelled: bool = False) -> bool:
        return await self.begin_leave(channel, peer, connection, app=app, expelled=expelled)

    def begin_publish(self, channel: str, envelope: Envelope, *, app: str = APP) -> Awaitable[int]:
        return self._ask(lambda done: self.engine.publish(app, channel, envelope, done))

    async def publish(self, channel: str, envelope: Envelope, *, app: str = APP) -> int:
        return await self.begin_publish(channel, envelope, app=app)

    async def roster(self, channel: str) -> dict[str, bytes | None]:
        members = await self._ask(lambda done: self.engine.roster(APP, channel, done))
        return {member.peer_id: _bytes(member.metadata) for member in members}

    async def lease(self, period: int, wanted: int, limit: int | None) -> int:
        return int(await self._ask(lambda done: self.engine.lease_messages(APP, period, wanted, limit, done)))

    async def usage(self, period: int) -> Usage:
        result: Usage = await self._ask(lambda done: self.engine.usage(APP, period, done))
        return result

    def _entry(self, peer: str, connection: str, metadata: str | None, key: str) -> Entry:
        entry = Entry(peer, connection, None if metadata is None else Raw(metadata.encode()), key)
        self._entries[connection] = entry
        return entry


@asynccontextmanager
async def listening(
    world: EngineWorld, count: int, *, prefix: str = "node"
) -> AsyncIterator[tuple[ListeningNode, ...]]:
    """Run nodes, and stop them in the end."""
    nodes: list[ListeningNode] = []
    try:
        for number in range(count):
            node = ListeningNode(f"{prefix}{number}")
            node.engine = await world.add_node(node.name, node)
            nodes.append(node)
        yield tuple(nodes)
    finally:
        for node in nodes:
            await world.remove_node(node.engine)


def _bytes(value: Raw | None) -> bytes | None:
    return None if value is None else bytes(value)
