"""The network between virtual processes: delays, order, partitions, and who is still alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from random import Random
from typing import Any

from .trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the network does to what it carries. Times are seconds, `loss` is a share from 0 to 1.

    `loss` takes direct messages that the server has acknowledged. With `reorder` direct messages of different senders,
    and presence, overtake each other; those of one sender to one receiver never do. Behind `nat` two peers reach
    each other only once one of them has a server-reflexive candidate of the other.
    """

    min_delay: float = 0.001
    max_delay: float = 0.05
    loss: float = 0.0
    reorder: bool = False
    nat: bool = False


class Process:
    """A program on a host, from its start until it ends or is killed. What a dead one still does reaches nobody."""

    def __init__(self, host: str, life: int) -> None:
        self.host = host
        self.life = life
        self.alive = True

    @property
    def name(self) -> str:
        """`host.life`, as the trace shows it."""
        return f"{self.host}.{self.life}"


class VirtualNetwork:
    """Carries calls from one end to the other. Everything that looks like chance comes from `random`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, conditions: Conditions, trace: Trace) -> None:
        self.random = random
        self.conditions = conditions
        self.trace = trace
        self._loop = loop
        self._arrivals: dict[Hashable, float] = {}
        self._cuts: dict[frozenset[str], int] = {}
        self._watchers: list[Callable[[], None]] = []

    def delay(self) -> float:
        """Return how long something takes from one end to the other."""
        return self.random.uniform(self.conditions.min_delay, self.conditions.max_delay)

    def carry(self, stream: Hashable, deliver: Callable[..., object], *values: Any, not_before: float = 0.0) -> float:
        """Call `deliver` at the other end after a delay, in order with everything in the same stream.

        Return the time of arrival.
        """
        arrival = max(self._loop.time() + self.delay(), self._arrivals.get(stream, 0.0), not_before)
        # Timers of the same moment fire in no particular order.
        self._arrivals[stream] = arrival + 1e-6
        self._loop.call_at(arrival, deliver, *values)
        return arrival

    def last_arrival(self, stream: Hashable) -> float:
        """Return when the latest of a stream is there, 0 if there was none."""
        return self._arrivals.get(stream, 0.0)

    # --- partitions

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two hosts, signalling aside. Cuts add up."""
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
        """Tell whether two processes reach each other."""
        return one.alive and other.alive and frozenset((one.host, other.host)) not in self._cuts

    def kill(self, process: Process) -> None:
        """End a process without a word."""
        process.alive = False
        self.changed()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` whenever who reaches whom has changed."""
        self._watchers.append(watcher)

    def changed(self) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher()
