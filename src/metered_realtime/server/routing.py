"""Who is subscribed to what: the tables that the hub routes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.wire.frames import PresenceEntry
from ..core.wire.patterns import Name, literal_prefix
from .rights import Grant

MATCH_CACHE = 1_024
"""Channel names whose matching patterns are remembered. Each is compared with patterns when it is new."""


class Subscriber:
    """One connection as the hub sees it: whose it is, what it may do, where its frames go."""

    __slots__ = (
        "charges",
        "entry",
        "grant",
        "greeted",
        "peer_id",
        "peer_metadata",
        "places",
        "serial",
        "subscriptions",
        "work",
        "write",
    )

    def __init__(
        self, serial: int, peer_id: str, grant: Grant, peer_metadata: Any, write: Callable[[bytes], None]
    ) -> None:
        self.serial = serial
        self.peer_id = peer_id
        self.grant = grant
        self.peer_metadata = peer_metadata
        self.write = write
        self.entry = PresenceEntry(peer_id, peer_metadata)
        self.subscriptions: set[str] = set()
        self.places: set[str] = set()  # channels in which its peer is seen, though it has not subscribed yet
        self.greeted: set[str] = set()  # channels whose first subscription was free of charges
        self.charges = 0  # what it is yet to pay for, in bytes: `server.charges`
        self.work = 0  # the same, with what was free, since it was last asked for

    def charge(self, amount: int) -> None:
        """Add to what is to be paid."""
        self.charges += amount
        self.work += amount

    def collect_charges(self) -> int:
        """Return what is to be paid, and owe nothing from now on."""
        charges, self.charges = self.charges, 0
        return charges

    def collect_work(self) -> int:
        """Return what was done since the last call."""
        work, self.work = self.work, 0
        return work

    def describe(self, peer_metadata: Any) -> None:
        """Change what others are told of the peer."""
        self.peer_metadata = peer_metadata
        self.entry = PresenceEntry(self.peer_id, peer_metadata)


class Channel:
    """The subscribers of one channel, by connection for messages and by peer for presence.

    `subscribers` tells for each connection whether it wants the sender's metadata. `peers` also has connections that
    are kept a place and have not subscribed yet.
    """

    __slots__ = ("peers", "subscribers")

    def __init__(self) -> None:
        self.subscribers: dict[Subscriber, bool] = {}
        self.peers: dict[str, list[Subscriber]] = {}

    def add(self, subscriber: Subscriber, wants_metadata: bool) -> bool:
        """Subscribe a connection, or change what it wants. True if its peer is new here."""
        self.subscribers[subscriber] = wants_metadata
        return self.keep_place(subscriber)

    def keep_place(self, subscriber: Subscriber) -> bool:
        """Have the peer of a connection seen here. True if it is new here."""
        of_peer = self.peers.setdefault(subscriber.peer_id, [])
        if subscriber in of_peer:
            return False
        of_peer.append(subscriber)
        return len(of_peer) == 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Unsubscribe a connection, or give up its place. True if its peer is gone with it."""
        self.subscribers.pop(subscriber, None)
        of_peer = self.peers[subscriber.peer_id]
        of_peer.remove(subscriber)
        if of_peer:
            return False
        del self.peers[subscriber.peer_id]
        return True

    def others(self, peer_id: str | None) -> list[PresenceEntry]:
        """Return every peer but one, with the metadata of its most recent connection."""
        return [max(of_peer, key=_serial).entry for other, of_peer in self.peers.items() if other != peer_id]


class PatternTable:
    """Pattern subscriptions: they get messages, once per connection, and no presence.

    A name is compared with the patterns whose literal beginning it has, and with no others.
    """

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[Subscriber, bool]] = {}
        self._by_prefix: dict[str, dict[str, None]] = {}
        self._matching: dict[str, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._subscribers

    def add(self, pattern: str, subscriber: Subscriber, wants_metadata: bool) -> None:
        """Subscribe a connection to every channel that matches, or change what it wants."""
        if pattern not in self._subscribers:
            self._matching.clear()
            self._by_prefix.setdefault(literal_prefix(pattern), {})[pattern] = None
        self._subscribers.setdefault(pattern, {})[subscriber] = wants_metadata

    def remove(self, pattern: str, subscriber: Subscriber) -> None:
        """Unsubscribe a connection from a pattern."""
        del self._subscribers[pattern][subscriber]
        if not self._subscribers[pattern]:
            del self._subscribers[pattern]
            self._matching.clear()
            prefix = literal_prefix(pattern)
            del self._by_prefix[prefix][pattern]
            if not self._by_prefix[prefix]:
                del self._by_prefix[prefix]

    def receivers(self, channel: str, exact: dict[Subscriber, bool]) -> dict[Subscriber, bool]:
        """Return who gets a message, the `exact` subscribers included, and whether they want metadata."""
        merged = dict(exact)
        for pattern in self._patterns_of(channel):
            for subscriber, wants_metadata in self._subscribers[pattern].items():
                merged[subscriber] = merged.get(subscriber, False) or wants_metadata
        return merged

    def comparisons(self, channel: str) -> int:
        """Return with how many patterns the name would have to be compared now: none when it is remembered."""
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


def _serial(subscriber: Subscriber) -> int:
    return subscriber.serial
