"""Connections that owe the server a request: bounded in number, by network and in time. Time is an argument."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

MAX_WAITING = 1_024
"""Maximum number of connections that have no request in hand, those kept alive between two requests included. They
take 10 to 20 KB each."""

MAX_WAITING_OF_NETWORK = 64
"""The same for one network. A browser keeps six; an office behind one address rarely sends more at once."""

C = TypeVar("C", bound=Hashable)


class WaitingConnections(Generic[C]):
    """The connections without a request, the longest waiting first.

    Room is made by giving up the one that has waited longest: an honest client sends its request at once.
    """

    def __init__(self, most: int = MAX_WAITING, most_of_network: int = MAX_WAITING_OF_NETWORK) -> None:
        self._most = most
        self._most_of_network = most_of_network
        self._deadlines: dict[C, float] = {}
        self._networks: dict[C, str] = {}
        self._by_network: dict[str, dict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, connection: object) -> bool:
        return connection in self._deadlines

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self._deadlines))

    def is_placed(self, connection: C) -> bool:
        """Return whether the network of a waiting connection is known."""
        return connection in self._networks

    def begin(self, connection: C, deadline: float) -> C | None:
        """Expect a request by a deadline. Return the connection that has to be closed for it, if any."""
        surplus = next(iter(self._deadlines)) if len(self._deadlines) >= self._most else None
        if surplus is not None:
            self.end(surplus)
        self._deadlines[connection] = deadline
        return surplus

    def place(self, connection: C, network: str) -> C | None:
        """Count a waiting connection for its network. Return the one that has to be closed for it, if any."""
        neighbours = self._by_network.setdefault(network, {})
        surplus = next(iter(neighbours)) if len(neighbours) >= self._most_of_network else None
        neighbours[connection] = None
        self._networks[connection] = network
        if surplus is not None:
            self.end(surplus)
        return surplus

    def end(self, connection: C) -> None:
        """Stop waiting: the request is here, or the connection has closed. Idempotent."""
        self._deadlines.pop(connection, None)
        network = self._networks.pop(connection, None)
        if network is not None:
            neighbours = self._by_network[network]
            del neighbours[connection]
            if not neighbours:
                del self._by_network[network]

    def end_overdue(self, now: float) -> list[C]:
        """Stop waiting for the connections that are past their deadline, and return them."""
        overdue = [connection for connection, deadline in self._deadlines.items() if deadline <= now]
        for connection in overdue:
            self.end(connection)
        return overdue
