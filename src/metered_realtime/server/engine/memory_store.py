"""What the nodes of one process share, for `MemoryEngine`: connections, channels, their logs, and counts."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..routing import PatternTable
from .contract import Done, EngineLimits, EngineListener, Entry, Member, Position, Stored
from .logs import MessageLog, MessageLogs


class _Nobody:
    """The listener of a node that is not attached."""

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None: ...
    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None: ...
    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None: ...
    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None: ...
    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None: ...
    def replaced(self, app: str, entry: Entry) -> None: ...
    def kick(self, app: str, peer_id: str) -> None: ...
    def revoke(self, app: str, key_id: str) -> None: ...
    def health(self, is_up: bool) -> None: ...


_NOBODY = _Nobody()


class MemoryNode:
    """A node as the others see it: where it hears of things. `listener` is nobody while it is not attached."""

    __slots__ = ("listener",)

    def __init__(self) -> None:
        self.listener: EngineListener = _NOBODY


class MemoryStore:
    """What the nodes of one process share.

    `clock` returns seconds, of which only differences matter. `name` is part of the names of all counts, and has to be
    another one in each run.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, limits: EngineLimits | None = None, name: str | None = None
    ) -> None:
        self.clock = clock
        self.name = secrets.token_hex(6) if name is None else name
        self.logs = MessageLogs(limits if limits is not None else EngineLimits(), self._name_epoch)
        self._serial = 0
        self.apps: dict[str, SharedApp] = {}
        self.nodes: list[MemoryNode] = []
        self.revoked: dict[tuple[str, str], None] = {}
        self.is_busy = False
        self._pending: deque[Callable[[], None]] = deque()

    def app(self, app_id: str) -> SharedApp:
        """Return the state of an app."""
        found = self.apps.get(app_id)
        if found is None:
            found = self.apps[app_id] = SharedApp(app_id, self.logs)
        return found

    def next_serial(self) -> int:
        """Return a number that is above all before."""
        self._serial += 1
        return self._serial

    def defer(self, request: Callable[[], None]) -> None:
        """Do a request after the one that is being carried out."""
        self._pending.append(request)

    def settle(self) -> None:
        """End a request, and carry out those that were made meanwhile."""
        self.is_busy = False
        if not self._pending:
            return
        while self._pending and not self.is_busy:
            self._pending.popleft()()

    def end_node(self, node: MemoryNode) -> None:
        """End the entries of a node that is gone."""
        if self.is_busy:
            return self.defer(partial(self.end_node, node))
        self.is_busy = True
        try:
            for app in self.apps.values():
                app.end_node(node)
        finally:
            self.settle()
        return None

    def _name_epoch(self) -> str:
        return f"{self.name}-{self.next_serial():x}"


class Link:
    """A connection: its node, its entry, and its place in the order of connections."""

    __slots__ = ("entry", "node", "serial")

    def __init__(self, serial: int, node: MemoryNode, entry: Entry) -> None:
        self.serial = serial
        self.node = node
        self.entry = entry


class SharedChannel:
    """The entries of one channel, by peer and connection, the number of them at each node, and its log."""

    __slots__ = ("links", "log", "members", "nodes", "size")

    def __init__(self, log: MessageLog) -> None:
        self.log = log
        self.links: dict[str, dict[str, Link]] = {}
        self.members: dict[str, Member] = {}
        self.nodes: dict[MemoryNode, int] = {}
        self.size = 0

    def add(self, link: Link) -> Member | None:
        """Add a connection, or what its entry has become. Return the peer if others have to be told."""
        peer_id, known = link.entry.peer_id, self.links.setdefault(link.entry.peer_id, {})
        if link.entry.connection not in known:
            self.nodes[link.node] = self.nodes.get(link.node, 0) + 1
            self.size += 1
        known[link.entry.connection] = link
        before = self.members.get(peer_id)
        member = self.members[peer_id] = Member(peer_id, max(known.values(), key=_serial).entry.metadata)
        return None if before is not None and _same(before.metadata, member.metadata) else member

    def remove(self, entry: Entry) -> Link | None:
        """Remove a connection. Return None if it is not there."""
        known = self.links.get(entry.peer_id, {})
        link = known.pop(entry.connection, None)
        if link is None:
            return None
        self.size -= 1
        self.nodes[link.node] -= 1
        if not self.nodes[link.node]:
            del self.nodes[link.node]
        if known:
            self.members[entry.peer_id] = Member(entry.peer_id, max(known.values(), key=_serial).entry.metadata)
        else:
            del self.links[entry.peer_id], self.members[entry.peer_id]
        return link


class PeerLinks:
    """The connections of one peer, the number of them at each node, and the log of its directs."""

    __slots__ = ("links", "log", "nodes")

    def __init__(self, log: MessageLog) -> None:
        self.log = log
        self.links: dict[str, Link] = {}
        self.nodes: dict[MemoryNode, int] = {}


class SharedApp:
    """The connections, channels and counts of one app."""

    def __init__(self, app_id: str, logs: MessageLogs) -> None:
        self.id = app_id
        self._logs = logs
        self.channels: dict[str, SharedChannel] = {}
        self.peers: dict[str, PeerLinks] = {}
        self.patterns: PatternTable[MemoryNode] = PatternTable()
        self.listening: dict[MemoryNode, dict[str, None]] = {}
        self.links: dict[str, Link] = {}
        self.peak = 0
        self.period = self.messages = 0

    def log_of_channel(self, channel: str) -> MessageLog | None:
        """Return the log of a channel that is or was in use."""
        return self._logs.find((self.id, "channel", channel))

    def enter(self, link: Link) -> PeerLinks:
        """Add a connection."""
        peer_id = link.entry.peer_id
        peer = self.peers.get(peer_id)
        if peer is None:
            peer = self.peers[peer_id] = PeerLinks(self._logs.open((self.id, "peer", peer_id)))
        self.links[link.entry.connection] = peer.links[link.entry.connection] = link
        peer.nodes[link.node] = peer.nodes.get(link.node, 0) + 1
        self.peak = max(self.peak, len(self.links))
        return peer

    def leave(self, entry: Entry) -> None:
        """Remove a connection."""
        link = self.links.pop(entry.connection, None)
        if link is None:
            return
        peer = self.peers[link.entry.peer_id]
        del peer.links[entry.connection]
        peer.nodes[link.node] -= 1
        if not peer.nodes[link.node]:
            del peer.nodes[link.node]
        if not peer.links:
            del self.peers[link.entry.peer_id]
            self._logs.leave((self.id, "peer", link.entry.peer_id))

    def channel(self, name: str) -> SharedChannel:
        """Return a channel for use."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = SharedChannel(self._logs.open((self.id, "channel", name)))
        return found

    def close_if_empty(self, name: str) -> bool:
        """Remove a channel that has no peer. Return whether that is so."""
        found = self.channels.get(name)
        if found is not None and not found.links:
            del self.channels[name]
            self._logs.leave((self.id, "channel", name))
        return name not in self.channels

    def remove(self, name: str, entry: Entry, done: Done[bool], expelled: bool = False) -> None:
        """Remove a connection from a channel, and tell the others."""
        channel = self.channels.get(name)
        if channel is None:
            return done(True)
        before = channel.members.get(entry.peer_id)
        is_gone = channel.remove(entry) is not None and entry.peer_id not in channel.members
        done(self.close_if_empty(name))
        if is_gone and before is not None:
            left = (Member(before.peer_id, before.metadata, expelled),)
            for node in tuple(channel.nodes):
                node.listener.presence(self.id, name, (), left)
        return None

    def begin_period(self, period: int) -> bool:
        """Begin a period, if it is a new one. Return whether it is the current one."""
        if period > self.period:
            self.period, self.messages, self.peak = period, 0, len(self.links)
        return period == self.period

    def end_node(self, node: MemoryNode) -> None:
        """End all entries of a node."""
        for pattern in self.listening.pop(node, {}):
            self.patterns.remove(pattern, node)
        for name, channel in tuple(self.channels.items()):
            for entry in [link.entry for of in channel.links.values() for link in of.values() if link.node is node]:
                self.remove(name, entry, _ignore)
        for link in [link for link in self.links.values() if link.node is node]:
            self.leave(link.entry)


def _serial(link: Link) -> int:
    return link.serial


def _same(one: object, other: object) -> bool:
    return one is other or (one is not None and other is not None and bytes(one) == bytes(other))  # type: ignore[call-overload]


def _ignore(_: object) -> None:
    pass
