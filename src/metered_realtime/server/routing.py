"""The tables of subscriptions that the hub routes by."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from ..core.wire.frames import PresenceEntry
from ..core.wire.patterns import Name, literal_prefix
from .rights import Grant

MATCH_CACHE = 1_024
"""Maximum number of channel names whose matching patterns are cached."""


class Subscriber:
    """The hub's view of one connection: its peer, its rights, and where to write its frames."""

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
        self.places: set[str] = set()  # channels where its peer is kept visible until it subscribes
        self.greeted: set[str] = set()  # channels whose first, free subscription is used
        self.charges = 0  # unpaid charges in bytes, see `server.charges`
        self.work = 0  # charges since the last `collect_work`, free ones included

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

    def describe(self, peer_metadata: Any) -> None:
        """Replace the metadata that other peers see."""
        self.peer_metadata = peer_metadata
        self.entry = PresenceEntry(self.peer_id, peer_metadata)


class Channel:
    """The subscribers of one channel, by connection for messages and by peer for presence.

    The values of `subscribers` are whether the sender's metadata is wanted. `peers` includes connections that have a
    place but have not subscribed yet.
    """

    __slots__ = ("peers", "subscribers")

    def __init__(self) -> None:
        self.subscribers: dict[Subscriber, int] = {}
        self.peers: dict[str, list[Subscriber]] = {}

    def add(self, subscriber: Subscriber, wants_metadata: bool) -> bool:
        """Add a subscriber, or change whether it wants metadata. Return True if its peer is new here."""
        self.subscribers[subscriber] = wants_metadata
        return self.keep_place(subscriber)

    def keep_place(self, subscriber: Subscriber) -> bool:
        """Make the peer of a connection visible. Return True if it is new here."""
        of_peer = self.peers.setdefault(subscriber.peer_id, [])
        if subscriber in of_peer:
            return False
        of_peer.append(subscriber)
        return len(of_peer) == 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber or its place. Return True if that was the last one of its peer."""
        self.subscribers.pop(subscriber, None)
        of_peer = self.peers[subscriber.peer_id]
        of_peer.remove(subscriber)
        if of_peer:
            return False
        del self.peers[subscriber.peer_id]
        return True

    def others(self, peer_id: str | None) -> list[PresenceEntry]:
        """Return all peers except one, each with the metadata of its latest connection."""
        return [max(of_peer, key=_serial).entry for other, of_peer in self.peers.items() if other != peer_id]


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


def _serial(subscriber: Subscriber) -> int:
    return subscriber.serial
