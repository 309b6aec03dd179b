"""`MemoryEngine`: the engine of nodes in one process. Each request has its outcome when it returns.

The nodes share a `MemoryStore`. A request that a listener makes while another one is being carried out is done after
it, so that all nodes hear of everything in the same order.
"""

from __future__ import annotations

import asyncio
from functools import partial

from .contract import (
    NODE_TIMEOUT,
    ConnectResult,
    Done,
    EngineListener,
    Entry,
    Envelope,
    JoinResult,
    Member,
    MissedMessages,
    OverConnectionLimit,
    Position,
    Stored,
    Usage,
)
from .logs import MessageLog
from .memory_store import Link, MemoryNode, MemoryStore, SharedApp

DETACHED_TIME = NODE_TIMEOUT - 3.0
"""Seconds that the entries of a node outlive it, for those who return to another one."""


class MemoryEngine(MemoryNode):
    """One node's part of a `MemoryStore`. See `contract.Engine` for its methods."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self._store = store
        self.node_id = ""

    async def start(self, node_id: str, listener: EngineListener) -> None:
        """Attach the node."""
        self.attach(node_id, listener)

    async def stop(self) -> None:
        """Detach the node. If there are others, its entries end some seconds later."""
        self.detach()
        if self._store.nodes:
            asyncio.get_running_loop().call_later(DETACHED_TIME, self._store.end_node, self)
        else:
            self._store.end_node(self)

    def attach(self, node_id: str, listener: EngineListener) -> None:
        """Attach the node, without an event loop."""
        self.node_id, self.listener = node_id, listener
        self._store.nodes.append(self)
        for app, key_id in self._store.revoked:
            listener.revoke(app, key_id)

    def detach(self) -> None:
        """Detach the node. It hears nothing any more; its entries remain until `MemoryStore.end_node`."""
        self.listener = MemoryNode().listener
        if self in self._store.nodes:
            self._store.nodes.remove(self)

    @property
    def is_up(self) -> bool:
        """Whether the engine reaches the other nodes: always."""
        return True

    @property
    def history_bytes(self) -> int:
        """The memory that kept messages take, in bytes."""
        return self._store.logs.bytes

    def connect(
        self,
        app: str,
        entry: Entry,
        done: Done[ConnectResult],
        *,
        since: Position | None = None,
        resumes: bool = False,
        max_connections: int | None = None,
    ) -> None:
        """Register a connection."""
        store = self._store
        again = partial(self.connect, app, entry, done, since=since, resumes=resumes, max_connections=max_connections)
        if store.is_busy:
            return store.defer(again)
        store.is_busy = True
        try:
            shared = store.app(app)
            known = shared.peers.get(entry.peer_id)
            replaced = (
                []
                if known is None or not resumes
                else [link for link in known.links.values() if link.entry.key == entry.key]
            )
            if max_connections is not None and len(shared.links) - len(replaced) >= max_connections:
                return done(OverConnectionLimit(f"the app has {max_connections} connections"))
            peer = shared.enter(Link(store.next_serial(), self, entry))
            for link in replaced:
                shared.leave(link.entry)
            log = peer.log
            done(ConnectResult(log.position, None if since is None else self._since(log, since)))
            for node in {link.node for link in replaced}:
                node.listener.replaced(app, entry)
        finally:
            store.settle()
        return None

    def disconnect(self, app: str, entry: Entry, done: Done[None]) -> None:
        """End a connection."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.disconnect, app, entry, done))
        store.is_busy = True
        try:
            store.app(app).leave(entry)
            done(None)
        finally:
            store.settle()
        return None

    def send(self, app: str, to: str, envelope: Envelope, done: Done[bool]) -> None:
        """Deliver a direct to a peer."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.send, app, to, envelope, done))
        store.is_busy = True
        try:
            peer = (store.apps.get(app) or store.app(app)).peers.get(to)
            if peer is None:
                return done(False)
            log = peer.log
            stored = store.logs.append(log, envelope, store.clock())
            for node in tuple(peer.nodes):
                node.listener.direct(app, to, log.epoch, stored)
            done(True)
        finally:
            store.settle()
        return None

    def has_peer(self, app: str, peer_id: str, done: Done[bool]) -> None:
        """Return whether a peer has a connection."""
        done(peer_id in self._store.app(app).peers)

    def kick(self, app: str, peer_id: str, done: Done[int]) -> None:
        """Have all nodes close the connections of a peer."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.kick, app, peer_id, done))
        store.is_busy = True
        try:
            peer = store.app(app).peers.get(peer_id)
            done(0 if peer is None else len(peer.links))
            for node in tuple(store.nodes):
                node.listener.kick(app, peer_id)
        finally:
            store.settle()
        return None

    def revoke(self, app: str, key_id: str, done: Done[None]) -> None:
        """Have all nodes close the connections of a key."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.revoke, app, key_id, done))
        store.is_busy = True
        try:
            store.revoked[app, key_id] = None
            done(None)
            for node in tuple(store.nodes):
                node.listener.revoke(app, key_id)
        finally:
            store.settle()
        return None

    def join(
        self, app: str, channel: str, entry: Entry, done: Done[JoinResult], *, since: Position | None = None
    ) -> None:
        """Add a connection to a channel, or change its metadata."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.join, app, channel, entry, done, since=since))
        store.is_busy = True
        try:
            shared = store.app(app)
            link = shared.links.get(entry.connection)
            found = shared.channel(channel)
            is_first = not found.links
            told = None
            if link is not None:
                link.entry = entry
                told = found.add(link)
            missed = None if since is None else self._since(found.log, since)
            done(JoinResult(tuple(found.members.values()), found.log.position, missed, is_first))
            if told is not None:
                for node in tuple(found.nodes):
                    node.listener.presence(app, channel, (told,), ())
            elif link is None:
                shared.close_if_empty(channel)
        finally:
            store.settle()

    def leave(self, app: str, channel: str, entry: Entry, done: Done[bool], *, expelled: bool = False) -> None:
        """Remove a connection from a channel."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.leave, app, channel, entry, done, expelled=expelled))
        store.is_busy = True
        try:
            store.app(app).remove(channel, entry, done, expelled)
        finally:
            store.settle()
        return None

    def publish(self, app: str, channel: str, envelope: Envelope, done: Done[int]) -> None:
        """Deliver a message to a channel. It is kept if somebody was there in the last minute."""
        store = self._store
        if store.is_busy:
            return store.defer(partial(self.publish, app, channel, envelope, done))
        store.is_busy = True
        try:
            shared = store.apps.get(app) or store.app(app)
            found = shared.channels.get(channel)
            if found is None:
                self._publish_where_nobody_is(shared, channel, envelope, done)
            else:
                nodes: dict[MemoryNode, int] = found.nodes
                if shared.listening:
                    nodes = shared.patterns.receivers(channel, nodes)
                log = found.log
                stored = store.logs.append(log, envelope, store.clock())
                for node in tuple(nodes):
                    node.listener.message(app, channel, log.epoch, stored)
                done(found.size - len(found.links.get(envelope.sender, ())))
        finally:
            store.settle()

    def roster(self, app: str, channel: str, done: Done[tuple[Member, ...]]) -> None:
        """Return all peers of a channel."""
        found = self._store.app(app).channels.get(channel)
        done(() if found is None else tuple(found.members.values()))

    def listen(self, app: str, pattern: str) -> None:
        """Deliver messages of channels that match a pattern to this node."""
        shared = self._store.app(app)
        shared.patterns.add(pattern, self, True)
        shared.listening.setdefault(self, {})[pattern] = None

    def unlisten(self, app: str, pattern: str) -> None:
        """Stop what `listen` began."""
        shared = self._store.app(app)
        patterns = shared.listening.get(self, {})
        if pattern in patterns:
            del patterns[pattern]
            shared.patterns.remove(pattern, self)
            if not patterns:
                del shared.listening[self]

    def lease_messages(self, app: str, period: int, wanted: int, limit: int | None, done: Done[int]) -> None:
        """Count messages of a period before they are used."""
        shared = self._store.app(app)
        if not shared.begin_period(period):
            return done(wanted)  # of a node whose clock is behind: its period is over for the others
        granted = wanted if limit is None else max(0, min(wanted, limit - shared.messages))
        shared.messages += granted
        return done(granted)

    def return_messages(self, app: str, period: int, unused: int) -> None:
        """Give back what is left of a block."""
        shared = self._store.app(app)
        if period == shared.period:
            shared.messages = max(0, shared.messages - unused)

    def usage(self, app: str, period: int, done: Done[Usage]) -> None:
        """Return the use over all nodes."""
        shared = self._store.app(app)
        is_current = shared.begin_period(period)
        done(Usage(len(shared.links), shared.peak, shared.messages if is_current else 0))

    def _publish_where_nobody_is(self, shared: SharedApp, channel: str, envelope: Envelope, done: Done[int]) -> None:
        log = shared.log_of_channel(channel)
        if log is not None:
            stored, epoch = self._store.logs.append(log, envelope, self._store.clock()), log.epoch
        else:
            stored, epoch = Stored(1, envelope), self._store.name
        if shared.listening:
            for node in shared.patterns.receivers(channel, {}):
                node.listener.message(shared.id, channel, epoch, stored)
        done(0)

    def _since(self, log: MessageLog, position: Position) -> MissedMessages:
        self._store.logs.expire(self._store.clock())
        return log.since(position)
