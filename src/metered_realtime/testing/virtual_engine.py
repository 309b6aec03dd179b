"""A `MemoryEngine` whose requests and answers take their time: in any order that the contract of engines permits.

Everything waits in a lane of a `Schedule`, in order: each request by itself, except the messages of one sender to one
channel and the directs of one sender to one receiver; and at each node what it hears of a channel with the outcomes of
its joins and leaves, and what it hears of a peer. Which lane comes next is chosen by chance, by a test, or by the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar

from ..server.engine.contract import (
    ConnectResult,
    Done,
    EngineError,
    EngineListener,
    EngineUnavailable,
    Entry,
    Envelope,
    JoinResult,
    Member,
    Position,
    Stored,
    Usage,
)
from ..server.engine.memory import MemoryEngine
from ..server.engine.memory_store import MemoryStore

T = TypeVar("T")

Failure: TypeAlias = Literal["unavailable", "unknown"]
"""How requests fail: without an effect, or with one that nobody is told of."""


class Schedule:
    """What is to happen, in lanes. A lane keeps its order; `put` is called with the name of a lane that was empty."""

    def __init__(self, on_begun: Callable[[Hashable], None] | None = None) -> None:
        self._lanes: dict[Hashable, deque[Callable[[], None]]] = {}
        self._on_begun = on_begun

    def __len__(self) -> int:
        return len(self._lanes)

    def put(self, lane: Hashable, step: Callable[[], None]) -> None:
        """Add a step to a lane."""
        if lane in self._lanes:
            self._lanes[lane].append(step)
        else:
            self._lanes[lane] = deque((step,))
            if self._on_begun is not None:
                self._on_begun(lane)

    def advance(self, lane: Hashable) -> None:
        """Do the first step of a lane."""
        steps = self._lanes[lane]
        step = steps.popleft()
        if not steps:
            del self._lanes[lane]
        elif self._on_begun is not None:
            self._on_begun(lane)
        step()

    def advance_any(self, chance: Random) -> None:
        """Do a step of a lane that chance chooses."""
        self.advance(chance.choice(list(self._lanes)))

    def finish(self, chance: Random) -> None:
        """Do everything, and what follows from it."""
        while self._lanes:
            self.advance_any(chance)


class VirtualEngine:
    """One node's part of a `MemoryStore`, as `MemoryEngine`, with the delays of a `Schedule`.

    Attributes:
        failure: How requests fail, None if they do not.
    """

    def __init__(self, store: MemoryStore, schedule: Schedule) -> None:
        self._inner = MemoryEngine(store)
        self._schedule = schedule
        self._requests = 0
        self.failure: Failure | None = None

    async def start(self, node_id: str, listener: EngineListener) -> None:
        """Attach the node."""
        self.attach(node_id, listener)

    async def stop(self) -> None:
        """Detach the node."""
        await self._inner.stop()

    def attach(self, node_id: str, listener: EngineListener) -> None:
        """Attach the node, without an event loop."""
        self._inner.attach(node_id, _LateListener(self, listener, self._schedule))

    def detach(self) -> None:
        """Detach the node, which is gone."""
        self._inner.detach()

    def end_entries(self, store: MemoryStore) -> None:
        """End the entries of the node, as is done some time after it is gone."""
        store.end_node(self._inner)

    @property
    def is_up(self) -> bool:
        """Whether requests succeed."""
        return self.failure is None

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
        request = partial(
            self._inner.connect, app, entry, since=since, resumes=resumes, max_connections=max_connections
        )
        self._ask(None, None, lambda answer: request(done=answer), done)

    def disconnect(self, app: str, entry: Entry, done: Done[None]) -> None:
        """End a connection."""
        self._ask(None, None, partial(self._inner.disconnect, app, entry), done)

    def send(self, app: str, to: str, envelope: Envelope, done: Done[bool]) -> None:
        """Deliver a direct."""
        self._ask(("send", app, envelope.sender, to), None, partial(self._inner.send, app, to, envelope), done)

    def has_peer(self, app: str, peer_id: str, done: Done[bool]) -> None:
        """Return whether a peer has a connection."""
        self._ask(None, None, partial(self._inner.has_peer, app, peer_id), done)

    def kick(self, app: str, peer_id: str, done: Done[int]) -> None:
        """Have all nodes close the connections of a peer."""
        self._ask(None, None, partial(self._inner.kick, app, peer_id), done)

    def revoke(self, app: str, key_id: str, done: Done[None]) -> None:
        """Have all nodes close the connections of a key."""
        self._ask(None, None, partial(self._inner.revoke, app, key_id), done)

    def join(
        self, app: str, channel: str, entry: Entry, done: Done[JoinResult], *, since: Position | None = None
    ) -> None:
        """Add a connection to a channel."""
        request = partial(self._inner.join, app, channel, entry, since=since)
        self._ask(None, ("channel", app, channel), lambda answer: request(done=answer), done)

    def leave(self, app: str, channel: str, entry: Entry, done: Done[bool], *, expelled: bool = False) -> None:
        """Remove a connection from a channel."""
        request = partial(self._inner.leave, app, channel, entry, expelled=expelled)
        self._ask(None, ("channel", app, channel), lambda answer: request(done=answer), done)

    def publish(self, app: str, channel: str, envelope: Envelope, done: Done[int]) -> None:
        """Deliver a message."""
        lane = ("publish", app, envelope.sender, channel)
        self._ask(lane, None, partial(self._inner.publish, app, channel, envelope), done)

    def roster(self, app: str, channel: str, done: Done[tuple[Member, ...]]) -> None:
        """Return all peers of a channel."""
        self._ask(None, None, partial(self._inner.roster, app, channel), done)

    def listen(self, app: str, pattern: str) -> None:
        """Deliver messages that match a pattern."""
        self._inner.listen(app, pattern)

    def unlisten(self, app: str, pattern: str) -> None:
        """Stop that."""
        self._inner.unlisten(app, pattern)

    def lease_messages(self, app: str, period: int, wanted: int, limit: int | None, done: Done[int]) -> None:
        """Count messages."""
        self._ask(None, None, partial(self._inner.lease_messages, app, period, wanted, limit), done)

    def return_messages(self, app: str, period: int, unused: int) -> None:
        """Give back what is left of a block."""
        self._inner.return_messages(app, period, unused)

    def usage(self, app: str, period: int, done: Done[Usage]) -> None:
        """Return the use over all nodes."""
        self._ask(None, None, partial(self._inner.usage, app, period), done)

    def _ask(
        self, lane: Hashable | None, place: Hashable | None, request: Callable[[Done[T]], None], done: Done[T]
    ) -> None:
        """Make a request when its lane comes to it. `place` is the lane of its outcome, any moment without one."""
        self._requests += 1
        own = (id(self), "request", self._requests)
        self._schedule.put(own if lane is None else (id(self), lane), partial(self._perform, own, place, request, done))

    def _perform(
        self, own: Hashable, place: Hashable | None, request: Callable[[Done[T]], None], done: Done[T]
    ) -> None:
        lane = (id(self), place) if place is not None else (own, "outcome")
        failure = self.failure
        if failure == "unavailable":
            self._schedule.put(lane, partial(done, EngineUnavailable("it is away")))
            return

        def answer(outcome: T | EngineError) -> None:
            told = EngineError("nobody knows") if failure == "unknown" else outcome
            self._schedule.put(lane, partial(done, told))

        request(answer)


class _LateListener:
    """Passes on what a node hears when its lane comes to it."""

    def __init__(self, engine: VirtualEngine, listener: EngineListener, schedule: Schedule) -> None:
        self._of = id(engine)
        self._listener = listener
        self._schedule = schedule

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None:
        self._pass(("channel", app, channel), self._listener.message, app, channel, epoch, stored)

    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None:
        self._pass(("channel", app, channel), self._listener.messages_lost, app, channel, position, count)

    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        self._pass(("channel", app, channel), self._listener.presence, app, channel, joined, left)

    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None:
        self._pass(("peer", app, peer_id), self._listener.direct, app, peer_id, epoch, stored)

    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None:
        self._pass(("peer", app, peer_id), self._listener.directs_lost, app, peer_id, position, count)

    def replaced(self, app: str, entry: Entry) -> None:
        self._pass("control", self._listener.replaced, app, entry)

    def kick(self, app: str, peer_id: str) -> None:
        self._pass("control", self._listener.kick, app, peer_id)

    def revoke(self, app: str, key_id: str) -> None:
        self._pass("control", self._listener.revoke, app, key_id)

    def health(self, is_up: bool) -> None:
        self._pass("control", self._listener.health, is_up)

    def _pass(self, lane: Hashable, tell: Callable[..., None], *arguments: Any) -> None:
        self._schedule.put((self._of, lane), partial(tell, *arguments))
