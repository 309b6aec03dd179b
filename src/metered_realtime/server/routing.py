"""The tables of subscriptions that the hub routes by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, KeysView
from typing import Generic, TypeVar

from msgspec import Raw

from ..core.wire.patterns import Name, literal_prefix
from .engine.contract import Entry, Position
from .rights import Grant
from .turns import Turns

MATCH_CACHE = 1_024
"""Maximum number of channel names whose matching patterns are cached."""


METADATA, OFFSETS = 1, 2
"""What a subscriber may wish of messages, as bits: the sender's metadata, and offsets."""

ARRIVING, LIVE, LOST, OVER, GONE = range(5)
"""The states of a connection: the engine does not know it yet; it is served; it has ended without a goodbye and its
peer may come back; it has ended; and the engine has been told so."""


class Subscriber:
    """The hub's view of one connection: its peer, its rights, where to write its frames, and how to close it."""

    __slots__ = (
        "charges",
        "close",
        "early",
        "entry",
        "grant",
        "greeted",
        "held",
        "held_bytes",
        "in_flight",
        "joined",
        "joins",
        "kept",
        "peer_id",
        "recoverable",
        "recovers",
        "serial",
        "state",
        "subscriptions",
        "turns",
        "work",
        "write",
    )

    def __init__(
        self,
        serial: int,
        entry: Entry,
        grant: Grant,
        write: Callable[[bytes], None],
        close: Callable[[int, str], None],
    ) -> None:
        self.serial = serial
        self.peer_id = entry.peer_id
        self.entry = entry
        self.grant = grant
        self.write = write
        self.close = close
        self.state = ARRIVING
        self.subscriptions: set[str] = set()
        self.joined: set[str] = set()  # channels where the engine has, or may have, its entry
        self.kept: dict[str, list[Subscriber]] = {}  # channels where entries keep its peer visible: theirs
        self.greeted: set[str] = set()  # channels whose first, free subscription is used
        self.turns = Turns()
        self.joins: dict[int, None] = {}  # subscribes whose outcome is not there, by number, in order
        self.held: deque[tuple[int, bytes]] | None = None  # directs that follow the outcome of a subscribe
        self.held_bytes = 0
        self.early: list[Callable[[Position], None]] | None = []  # what has to wait for the welcome, None after it
        self.in_flight = 0  # cost of requests whose outcome is not there
        self.recovers = False  # whether its directs have offsets
        self.recoverable = 0  # bytes of missed messages that it may still get
        self.charges = 0  # unpaid charges in bytes, see `server.charges`
        self.work = 0  # charges since the last `collect_work`, free ones included

    @property
    def peer_metadata(self) -> Raw | None:
        """The metadata that other peers see."""
        return self.entry.metadata

    @property
    def places(self) -> KeysView[str]:
        """The channels where its peer is kept visible until it subscribes."""
        return self.kept.keys()

    def describe(self, peer_metadata: Raw | None) -> bool:
        """Replace the metadata that other peers see. Return whether it is different."""
        before = self.entry.metadata
        self.entry = Entry(self.peer_id, self.entry.connection, peer_metadata, self.entry.key)
        return (before is None) != (peer_metadata is None) or (
            before is not None and peer_metadata is not None and bytes(before) != bytes(peer_metadata)
        )

    def charge(self, amount: int) -> None:
        """Add to the charges."""
        self.charges += amount
        self.work += amount

    def collect_charges(self) -> int:
        """Return the unpaid charges and reset them."""
        charges, self.charges = self.charges, 0
        return charges

    def collect_work(self) -> int:
        """Return the charges since the last call, free ones included."""
        work, self.work = self.work, 0
        return work


class Channel:
    """The connections of this node in one channel, by connection for messages and by peer for presence.

    The values of `subscribers` are what they wish, as bits. `peers` includes connections that have a place but have not
    subscribed. `roster` has all peers, over all nodes, that subscribers know of; `told` has those of this node whose
    coming was reported.
    """

    __slots__ = ("peers", "roster", "subscribers", "told")

    def __init__(self, roster: set[str]) -> None:
        self.subscribers: dict[Subscriber, int] = {}
        self.peers: dict[str, list[Subscriber]] = {}
        self.roster = roster
        self.told: set[str] = set()

    def add(self, subscriber: Subscriber, wishes: int) -> None:
        """Add a subscriber, or change what it wishes."""
        self.subscribers[subscriber] = wishes
        self.keep_place(subscriber)

    def keep_place(self, subscriber: Subscriber) -> None:
        """Note that a connection stands for its peer."""
        of_peer = self.peers.setdefault(subscriber.peer_id, [])
        if subscriber not in of_peer:
            of_peer.append(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber or its place. Idempotent."""
        self.subscribers.pop(subscriber, None)
        of_peer = self.peers.get(subscriber.peer_id)
        if of_peer is not None and subscriber in of_peer:
            of_peer.remove(subscriber)
            if not of_peer:
                del self.peers[subscriber.peer_id]
                self.told.discard(subscriber.peer_id)


R = TypeVar("R", bound=Hashable)


class PatternTable(Generic[R]):
    """The pattern subscriptions of an app. They receive messages, once per receiver, but no presence.

    A name is only compared with the patterns whose literal prefix it has.
    """

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[R, int]] = {}
        self._by_prefix: dict[str, dict[str, None]] = {}
        self._matching: dict[str, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._subscribers

    def add(self, pattern: str, subscriber: R, wishes: int) -> None:
        """Add a subscriber to all channels that match, or change what it wishes."""
        if pattern not in self._subscribers:
            self._matching.clear()
            self._by_prefix.setdefault(literal_prefix(pattern), {})[pattern] = None
        self._subscribers.setdefault(pattern, {})[subscriber] = wishes

    def remove(self, pattern: str, subscriber: R) -> None:
        """Remove a subscriber from a pattern."""
        del self._subscribers[pattern][subscriber]
        if not self._subscribers[pattern]:
            del self._subscribers[pattern]
            self._matching.clear()
            prefix = literal_prefix(pattern)
            del self._by_prefix[prefix][pattern]
            if not self._by_prefix[prefix]:
                del self._by_prefix[prefix]

    def receivers(self, channel: str, exact: dict[R, int]) -> dict[R, int]:
        """Return the receivers of a message, including the `exact` ones, and what they wish."""
        merged = dict(exact)
        for pattern in self._patterns_of(channel):
            for subscriber, wishes in self._subscribers[pattern].items():
                merged[subscriber] = merged.get(subscriber, 0) | wishes
        return merged

    def receivers_beyond(self, channel: str, exact: dict[R, int]) -> set[R]:
        """Return the receivers that a message has besides the `exact` ones."""
        return {one for pattern in self._patterns_of(channel) for one in self._subscribers[pattern]} - exact.keys()

    def comparisons(self, channel: str) -> int:
        """Return how many patterns a name has to be compared with: none if it is cached."""
        return 0 if channel in self._matching else len(self._candidates(channel))

    def _patterns_of(self, channel: str) -> tuple[str, ...]:
        matching = self._matching.get(channel)
        if matching is None:
            name = Name(channel)
            matching = tuple(pattern for pattern in self._candidates(channel) if name.matches(pattern))
            if len(self._matching) >= MATCH_CACHE:
                self._matching.clear()
            self._matching[channel] = matching
        return matching

    def _candidates(self, channel: str) -> list[str]:
        if len(self._by_prefix) > len(channel):
            prefixes = [channel[:size] for size in range(len(channel) + 1)]
        else:
            prefixes = [prefix for prefix in self._by_prefix if channel.startswith(prefix)]
        return [pattern for prefix in prefixes for pattern in self._by_prefix.get(prefix, ())]
