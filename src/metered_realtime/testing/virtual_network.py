"""The network between virtual processes: delays, order, partitions and killed processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from random import Random
from typing import Any

from .trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The conditions of a virtual network.

    Attributes:
        min_delay: The shortest delay of a message, in seconds.
        max_delay: The longest delay of a message, in seconds.
        loss: The share of direct messages that are lost after the server has acknowledged them, from 0 to 1.
        reorder: Whether direct messages of different senders, and presence, overtake each other. Those of one sender
            to one receiver never do.
        nat: Whether two peers reach each other only once one has a server-reflexive candidate of the other.
    """

    min_delay: float = 0.001
    max_delay: float = 0.05
    loss: float = 0.0
    reorder: bool = False
    nat: bool = False


class Process:
    """A program on a host, from its start until it ends or is killed. Messages of a killed one are never delivered."""

    def __init__(self, host: str, life: int) -> None:
        self.host = host
        self.life = life
        self.alive = True

    @property
    def name(self) -> str:
        """`host.life`, as the trace shows it."""
        return f"{self.host}.{self.life}"


class VirtualNetwork:
    """Carries calls from one end to the other. All randomness comes from `random`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, conditions: Conditions, trace: Trace) -> None:
        self.random = random
        self.conditions = conditions
        self.trace = trace
        self._loop = loop
        self._arrivals: dict[Hashable, float] = {}
        self._cuts: dict[frozenset[str], int] = {}
        self._watchers: list[Callable[[], None]] = []

    def delay(self) -> float:
        """Return a random delay from one end to the other, in seconds."""
        return self.random.uniform(self.conditions.min_delay, self.conditions.max_delay)

    def carry(self, stream: Hashable, deliver: Callable[..., object], *values: Any, not_before: float = 0.0) -> float:
        """Call `deliver` after a delay, in order with all calls of the same stream, and return the time of arrival."""
        arrival = max(self._loop.time() + self.delay(), self._arrivals.get(stream, 0.0), not_before)
        # Timers with the same time fire in no particular order.
        self._arrivals[stream] = arrival + 1e-6
        self._loop.call_at(arrival, deliver, *values)
        return arrival

    def last_arrival(self, stream: Hashable) -> float:
        """Return the arrival time of the last call of a stream, 0 if there was none."""
        return self._arrivals.get(stream, 0.0)

    # --- partitions

    def cut(self, one: str, other: str) -> None:
        """Interrupt the media path between two hosts. Each cut needs its own `mend`."""
        pair = frozenset((one, other))
        self._cuts[pair] = self._cuts.get(pair, 0) + 1
        self.changed()

    def mend(self, one: str, other: str) -> None:
        """Undo one `cut`."""
        pair = frozenset((one, other))
        self._cuts[pair] -= 1
        if not self._cuts[pair]:
            del self._cuts[pair]
        self.changed()

    def passes(self, one: Process, other: Process) -> bool:
        """Return whether two processes reach each other."""
        return one.alive and other.alive and frozenset((one.host, other.host)) not in self._cuts

    def kill(self, process: Process) -> None:
        """End a process: nothing that it still sends is delivered."""
        process.alive = False
        self.changed()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` after each change of the reachability of processes."""
        self._watchers.append(watcher)

    def changed(self) -> None:
        """Call the watchers."""
        for watcher in self._watchers:
            watcher()
