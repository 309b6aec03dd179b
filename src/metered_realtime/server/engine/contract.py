"""The contract of engines: what the nodes of one server share, and in which order a node hears of it.

A node is one server process. It holds the sockets, checks rights and fans out to its own clients; the engine knows who
is connected to any node, who is in which channel, and the messages of the last minute. `MemoryEngine` does so for nodes
of one process, `RedisEngine` for nodes on many machines. `metered_realtime.testing.engine_conformance` checks any.

Requests return at once. Their outcome goes to `done`, exactly once: the result, or an `EngineError` within
`REQUEST_TIMEOUT` seconds; it may come before the request returns. An engine calls `done` and its `EngineListener` from
the event loop of the node, never two at a time.

Order, per channel: what a listener hears of a channel and the outcomes of `join` and `leave` are one sequence, the same
one on every node.
- The result of a `join` is the state right before what the listener hears next: nothing newer is in it, and nothing
  older follows. The one who joins hears of itself by the result only.
- Messages come in the order of their offsets, each once, without a gap. What an engine cannot deliver it reports by
  `messages_lost`, before anything newer.
- Presence is per peer id: `joined` with the first entry of a peer in a channel, `left` with the last. Entries that
  change their metadata are told as `joined` again.
Order, per receiving peer: directs come in the order of their offsets, each once, without a gap. Messages of one sender
to one channel, and directs of one sender to one receiver, have offsets in the order of the requests.

Positions: each channel and each peer's mailbox counts its messages from 1; `epoch` names the count, and changes if it
is lost (a restart without storage). The messages of the last `RETENTION` seconds are kept, as far as the bounds of
`EngineLimits` allow. Whoever returns with a position gets what came after it, or hears how much of that is gone.

Entries: what a node has connected and joined are its entries. An engine keeps them through failures of what is behind
it: after a loss it registers them again, and while it cannot reach the others presence is frozen: nobody hears `left`.
The entries of a node that is gone end within `NODE_TIMEOUT` seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from msgspec import Raw

REQUEST_TIMEOUT = 2.0
"""Maximum time in seconds until a request has its outcome: clients wait 15 s for theirs."""

RETENTION = 60.0
"""Seconds that messages are kept for those who return: a phone in a tunnel, a rolling restart."""

NODE_TIMEOUT = 15.0
"""Maximum time in seconds until the entries of a node that is gone have ended."""

MAX_EPOCH = 32
"""Maximum length of the name of a count, in characters of `A-Z a-z 0-9 - _`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of what is kept for those who return. When one is reached the oldest messages are dropped.

    Raises:
        ValueError: a number is not above 0.
    """

    messages_per_log: int = 1_000
    """Maximum number of messages kept for a channel, or for a peer."""

    bytes_per_log: int = 1_048_576
    """Maximum size of their payloads in bytes."""

    bytes_in_all: int = 67_108_864
    """Maximum size of the payloads that one process keeps, in bytes. Engines with a storage leave it to that."""

    retention: float = RETENTION

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")


class EngineError(Exception):
    """A request has failed, and may or may not have had its effect. Its text has no secret and no message."""


class EngineUnavailable(EngineError):
    """What the engine needs does not answer. The request had no effect that lasts."""


class OverConnectionLimit(EngineError):
    """The app has as many connections as its plan allows."""


class Position(NamedTuple):
    """How far somebody has read: the offset of the last message in the count `epoch`, 0 before the first."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way. `data` and `metadata` are JSON, as they go on the wire."""

    sender: str
    data: Raw
    metadata: Raw | None = None


class Stored(NamedTuple):
    """A message with its place in the count."""

    offset: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class MissedMessages:
    """What came after a position, oldest first. `lost` messages between the position and the first of them are gone,
    None if nobody knows how many (another epoch)."""

    messages: tuple[Stored, ...] = ()
    lost: int | None = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection as engines know it. `connection` is unique over all nodes and runs.

    `key` tells connections of the same credential apart: one that resumes replaces those with its own peer id and key.
    """

    peer_id: str
    connection: str
    metadata: Raw | None = None
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Member:
    """A peer in a channel, with the metadata of its latest entry. `expelled`, in `left`: it must not return."""

    peer_id: str
    metadata: Raw | None = None
    expelled: bool = False


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """The result of `connect`. `missed` is None if no position was given."""

    position: Position
    missed: MissedMessages | None = None


@dataclass(frozen=True, slots=True)
class JoinResult:
    """The result of `join`: all peers of the channel, the one who joins included, and how far its messages are.

    `is_first` if the channel had no peer before. `missed` is None if no position was given.
    """

    members: tuple[Member, ...]
    position: Position
    missed: MissedMessages | None = None
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of an app over all nodes in one period."""

    connections: int
    peak_connections: int
    messages: int


T = TypeVar("T")
Done: TypeAlias = Callable[[T | EngineError], None]
"""Gets the outcome of a request. It must not raise."""

Change: TypeAlias = Literal["joined", "left"]


class EngineListener(Protocol):
    """A node, as its engine sees it. The calls must not raise, and may make requests."""

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None:
        """Deliver a message of a channel that the node has an entry in, or a pattern for."""

    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None:
        """Report that messages before `position` cannot be delivered, None if nobody knows how many."""

    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        """Report who came and went in a channel that the node has an entry in."""

    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None:
        """Deliver a direct to all connections of a peer at this node."""

    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None:
        """Report that directs before `position` cannot be delivered."""

    def replaced(self, app: str, entry: Entry) -> None:
        """Report that a peer has resumed by another connection: those of its peer id and key at this node are over."""

    def kick(self, app: str, peer_id: str) -> None:
        """Close the connections of a peer: its backend wants it."""

    def revoke(self, app: str, key_id: str) -> None:
        """Close the connections of a key, and admit none by it."""

    def health(self, is_up: bool) -> None:
        """Report that the engine reaches the others, or no longer does."""


class Engine(Protocol):
    """See the module. A request for an entry that the engine does not know is answered, and changes nothing."""

    async def start(self, node_id: str, listener: EngineListener) -> None:
        """Attach a node. Returns when the engine can serve it.

        Raises:
            EngineUnavailable: what the engine needs does not answer.
        """

    async def stop(self) -> None:
        """Detach the node. Entries that it still has are kept for those who return, and end within `NODE_TIMEOUT`."""

    @property
    def is_up(self) -> bool:
        """Whether the engine reaches the other nodes."""

    # --- connections, and directs to their peers

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
        """Register a connection. Directs to its peer that came after `since` are in the result.

        With `resumes` it replaces those of its peer and key: their nodes hear `replaced`, and `max_connections` does
        not count them.

        Errors: `OverConnectionLimit`. An engine that is down registers the connection as soon as it can and answers
        with `EngineUnavailable`; the node decides whether to keep it.
        """

    def disconnect(self, app: str, entry: Entry, done: Done[None]) -> None:
        """End a connection. Its joins must have been left before."""

    def send(self, app: str, to: str, envelope: Envelope, done: Done[bool]) -> None:
        """Deliver a direct to all connections of a peer, at any node, and keep it. False if the peer has none."""

    def has_peer(self, app: str, peer_id: str, done: Done[bool]) -> None:
        """Return whether a peer has a connection at any node."""

    def kick(self, app: str, peer_id: str, done: Done[int]) -> None:
        """Have all nodes close the connections of a peer. Return their number."""

    def revoke(self, app: str, key_id: str, done: Done[None]) -> None:
        """Have all nodes close the connections of a key, and remember it for nodes that start later."""

    # --- channels

    def join(
        self, app: str, channel: str, entry: Entry, done: Done[JoinResult], *, since: Position | None = None
    ) -> None:
        """Add a connection to a channel, or change its metadata. Messages that came after `since` are in the result."""

    def leave(self, app: str, channel: str, entry: Entry, done: Done[bool], *, expelled: bool = False) -> None:
        """Remove a connection from a channel. Return whether the channel has no peer left."""

    def publish(self, app: str, channel: str, envelope: Envelope, done: Done[int]) -> None:
        """Deliver a message to the channel on all nodes, and keep it. Return the number of connections in the channel
        that are not the sender's."""

    def roster(self, app: str, channel: str, done: Done[tuple[Member, ...]]) -> None:
        """Return all peers of a channel."""

    def listen(self, app: str, pattern: str) -> None:
        """Deliver messages of channels that match a pattern to this node, until `unlisten`. None are kept for it."""

    def unlisten(self, app: str, pattern: str) -> None:
        """Stop what `listen` began."""

    # --- counts

    def lease_messages(self, app: str, period: int, wanted: int, limit: int | None, done: Done[int]) -> None:
        """Count messages of a period (its start in unix seconds) before they are used, in blocks. Return how many of
        `wanted` are left below `limit`, all of them without a limit."""

    def return_messages(self, app: str, period: int, unused: int) -> None:
        """Give back what is left of a block."""

    def usage(self, app: str, period: int, done: Done[Usage]) -> None:
        """Return the use over all nodes."""
