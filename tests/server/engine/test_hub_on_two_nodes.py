"""The guarantees of the hub hold on two nodes whose engine takes its time, in any order that it may choose."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.wire.frames import ClientFrame, Publish, Send, Subscribe, Unsubscribe, encode_payload
from metered_realtime.server.engine.contract import EngineError, Member, Position
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.server.hub import Hub, Identity, Recovery
from metered_realtime.server.hub.hub import MAX_IN_FLIGHT, REQUEST_COST
from metered_realtime.server.limits import Limits
from metered_realtime.server.routing import LIVE
from metered_realtime.testing.virtual_engine import Failure, Schedule, VirtualEngine

from ...support.probe import EVERYTHING, NOW

APP = "app"
CHANNELS = ("a", "b")
PEERS = ("ann", "bob", "eve")


class World:
    """Two nodes, and what comes later: timers fire when everything else is done."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.schedule = Schedule()
        self.store = MemoryStore(lambda: 0.0, name="run")
        self.timers: list[Callable[[], object]] = []
        self.engines = [VirtualEngine(self.store, self.schedule) for _ in range(2)]
        self.hubs = [self._hub(number, engine) for number, engine in enumerate(self.engines)]
        self.clients: list[Client] = []
        self.published: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.number = 0

    def _hub(self, number: int, engine: VirtualEngine) -> Hub:
        later: Callable[[float, Callable[[], object]], object] = lambda _, timer: self.timers.append(timer)  # noqa: E731
        hub = Hub(engine, APP, Limits(), origin=f"node{number}", later=later)
        engine.attach(f"node{number}", hub)
        return hub

    @property
    def live(self) -> list[Client]:
        return [client for client in self.clients if client.is_open]

    def progress(self, steps: int) -> None:
        for _ in range(min(steps, len(self.schedule))):
            if len(self.schedule):
                self.schedule.advance_any(self.chance)

    def finish(self) -> None:
        """Let everything happen that is under way, and no timer."""
        self.schedule.finish(self.chance)

    def let_time_pass(self) -> None:
        """Let everything happen, and timers, until nothing is left."""
        self.finish()
        while self.timers:
            timers, self.timers = self.timers, []
            for timer in timers:
                timer()
            self.finish()

    def fail(self, failure: Failure | None) -> None:
        for engine in self.engines:
            engine.failure = failure

    def members(self, channel: str) -> set[str]:
        found: list[Member] = []

        def done(outcome: tuple[Member, ...] | EngineError) -> None:
            assert not isinstance(outcome, EngineError)
            found.extend(outcome)

        self.engines[0]._inner.roster(APP, channel, done)
        return {member.peer_id for member in found}


class Client:
    """A client that recovers, checks all that it is sent, and answers a newcomer at once."""

    def __init__(self, world: World, node: int, peer_id: str, former: Client | None = None) -> None:
        self.world, self.node, self.peer_id = world, node, peer_id
        self.is_open, self.is_welcome = True, False
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.rosters: dict[str, set[str]] = {}
        self.snapshots: set[str] = set()  # channels that have had one since the client subscribed there
        self.returning: set[str] = set()
        self.awaited: dict[str, str] = {}  # subscribes without an answer, by request id
        self.wanted: set[str] = set() if former is None else set(former.wanted)
        self.positions: dict[str, Position] = {} if former is None else dict(former.positions)
        self.directs: Position | None = None if former is None else former.directs
        self.got: dict[str, list[tuple[str, int]]] = defaultdict(list) if former is None else former.got
        self.got_direct: list[Any] = [] if former is None else former.got_direct
        self.lost: list[str | None] = [] if former is None else former.lost
        identity = Identity(peer_id, EVERYTHING, key="key", resumes=former is not None)
        world.clients.append(self)
        self.subscriber = world.hubs[node].connect(
            identity, self.write, NOW, close=self.closed, recovery=Recovery(self.directs)
        )

    def closed(self, code: int, reason: str) -> None:
        self.is_open = False

    def ask(self, frame: ClientFrame) -> None:
        request_id = frame.request_id
        assert request_id is not None
        self.asked[request_id] += 1
        self.world.hubs[self.node].handle(self.subscriber, frame)

    def new_id(self) -> str:
        self.world.number += 1
        return str(self.world.number)

    def subscribe(self, channel: str, *, returns: bool = False) -> None:
        """Subscribe to a channel; with the position of the former connection if the client `returns` to it."""
        request_id, position = self.new_id(), self.positions.get(channel) if returns else None
        self.wanted.add(channel)
        self.awaited[request_id] = channel
        if position is not None:
            self.returning.add(channel)
        epoch, offset = (None, None) if position is None else position
        self.ask(Subscribe(channel, False, request_id, True, epoch, offset))

    def unsubscribe(self, channel: str) -> None:
        self.wanted.discard(channel)
        self.ask(Unsubscribe(channel, self.new_id()))

    def publish(self, channel: str) -> None:
        request_id = self.new_id()
        self.ask(Publish(channel, encode_payload(int(request_id)), request_id))

    def send(self, to: str, data: Any) -> None:
        self.ask(Send(to, encode_payload(data), self.new_id()))

    def write(self, raw: bytes) -> None:
        frame = json.loads(raw)
        kind = frame["type"]
        assert (kind == "welcome") is not self.is_welcome, "the welcome comes first, and once"
        self.is_welcome = True
        if kind == "welcome":
            if self.directs is None:
                self.directs = Position(frame["epoch"], frame["offset"])
        elif kind in ("ack", "error"):
            self._answered(frame)
        elif kind == "presence":
            self._presence(frame)
        elif kind == "message":
            self._message(frame)
        elif kind == "direct":
            self._direct(frame)
        elif kind == "lost":
            self.lost.append(frame.get("channel"))

    def _answered(self, frame: dict[str, Any]) -> None:
        self.answered[frame["requestId"]] += 1
        channel = self.awaited.pop(frame["requestId"], None)
        if channel is not None and frame["type"] == "ack":
            self.snapshots.discard(channel)
            self.rosters.pop(channel, None)
            if channel in self.returning:
                self.returning.remove(channel)
            else:
                self.positions[channel] = Position(frame["epoch"], frame["offset"])

    def _presence(self, frame: dict[str, Any]) -> None:
        channel = frame["channel"]
        joined, left = ({entry["peerId"] for entry in frame[which]} for which in ("joined", "left"))
        assert self.peer_id not in joined | left
        if channel not in self.rosters:
            assert not left, "the snapshot comes first"
            self.rosters[channel] = joined
            self.snapshots.add(channel)
            return
        assert not joined & self.rosters[channel], "nobody joins twice"
        assert left <= self.rosters[channel], "nobody leaves who is not there"
        self.rosters[channel] = (self.rosters[channel] | joined) - left
        for peer_id in sorted(joined):
            self.send(peer_id, {"seen": channel, "by": self.peer_id})

    def _message(self, frame: dict[str, Any]) -> None:
        channel, offset = frame["channel"], frame["offset"]
        assert channel in self.snapshots, "messages follow the snapshot"
        assert frame["from"] != self.peer_id
        assert offset > self.positions[channel].offset, "in order, each once"
        self.positions[channel] = Position(self.positions[channel].epoch, offset)
        self.got[channel].append((frame["from"], frame["data"]))

    def _direct(self, frame: dict[str, Any]) -> None:
        if "offset" in frame:
            assert self.directs is not None
            assert frame["offset"] == self.directs.offset + 1, "in order, each once, without a gap"
            self.directs = Position(self.directs.epoch, frame["offset"])
        self.got_direct.append(frame["data"])

    def lose(self) -> None:
        self.is_open = False
        self.world.hubs[self.node].lose(self.subscriber)

    def leave(self) -> None:
        self.is_open = False
        self.world.hubs[self.node].disconnect(self.subscriber)


actions = st.lists(
    st.tuples(
        st.sampled_from(("subscribe", "unsubscribe", "publish", "publish", "send", "lose", "leave", "return", "come")),
        st.integers(0, 5),
        st.sampled_from(CHANNELS),
        st.sampled_from(PEERS),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(actions, st.integers(0, 2**20))
@settings(max_examples=120)
def test_guarantees_hold_on_two_nodes_for_clients_that_come_and_go(steps: list[Any], seed: int) -> None:
    world = World(seed)
    for number, peer_id in enumerate(PEERS):
        Client(world, number % 2, peer_id)
    for action, which, channel, peer_id, progress in steps:
        act(world, action, which, channel, peer_id)
        world.progress(progress)
    world.finish()
    for client in world.live:
        assert client.answered == client.asked
    world.let_time_pass()
    check_presence(world)
    for client in list(world.live):
        client.leave()
    world.let_time_pass()
    assert not world.store.app(APP).links
    assert not world.store.app(APP).channels
    for hub in world.hubs:
        assert not any((hub._peers, hub._channels, hub._connections.lost, hub._connections.arriving))


def act(world: World, action: str, which: int, channel: str, peer_id: str) -> None:
    if action == "come":
        if sum(client.peer_id == peer_id for client in world.live) == 0 and not lost_ones(world, peer_id):
            Client(world, which % 2, peer_id)
        return
    if action == "return":
        gone = lost_ones(world, peer_id)
        if gone:
            heir = Client(world, which % 2, peer_id, gone[-1])
            for name in sorted(heir.wanted):
                heir.subscribe(name, returns=True)
        return
    if not world.live:
        return
    client = world.live[which % len(world.live)]
    match action:
        case "subscribe":
            client.subscribe(channel)
        case "unsubscribe":
            client.unsubscribe(channel)
        case "publish":
            client.publish(channel)
        case "send":
            client.send(peer_id, "hello")
        case "lose" if client.subscriber.state == LIVE:
            client.lose()
        case "leave":
            client.leave()


def lost_ones(world: World, peer_id: str) -> list[Client]:
    """Return the last client of a peer if it was lost, and nobody has come back for it."""
    of_peer = [client for client in world.clients if client.peer_id == peer_id]
    is_lost = bool(of_peer) and not of_peer[-1].is_open and of_peer[-1].is_welcome
    return of_peer[-1:] if is_lost else []


def check_presence(world: World) -> None:
    """What clients know is what is, and what is there is what clients want."""
    for channel in CHANNELS:
        members = world.members(channel)
        assert members == {client.peer_id for client in world.live if channel in client.subscriber.subscriptions}
        for client in world.live:
            if channel in client.subscriber.subscriptions:
                assert client.rosters[channel] == members - {client.peer_id}


@pytest.mark.parametrize("seed", range(40))
def test_a_reaction_to_a_newcomer_follows_its_snapshot(seed: int) -> None:
    world = World(seed)
    ann, bob = Client(world, 0, "ann"), Client(world, 1, "bob")
    ann.subscribe("a")
    world.finish()
    ann.send("bob", "before")
    bob.subscribe("a")
    bob.publish("a")
    kinds: list[str] = []
    write = bob.subscriber.write
    bob.subscriber.write = lambda raw: (
        kinds.append(json.loads(raw).get("data") or json.loads(raw)["type"]),
        write(raw),
    )
    world.finish()
    reaction = {"seen": "a", "by": "ann"}
    assert bob.got_direct == ["before", reaction]
    assert kinds.index("ack") < kinds.index("presence") < kinds.index(reaction)
    assert ann.got["a"] == [("bob", world.number - 1)]


@pytest.mark.parametrize("joins_first", [False, True])
def test_what_waits_for_an_engine_that_is_slow_is_bounded(joins_first: bool) -> None:
    world = World(0)
    ann = Client(world, 0, "ann")
    world.finish()
    if joins_first:
        ann.subscribe("a")
    refused = 0
    for _ in range(1_000):
        ann.publish("a")
        refused = ann.answered.total()
    assert 1_000 - MAX_IN_FLIGHT // REQUEST_COST - 2 <= refused < 1_000
    ann.unsubscribe("a")
    world.finish()
    assert ann.answered == ann.asked
    assert ann.subscriber.in_flight == 0


@pytest.mark.parametrize("seed", range(40))
def test_who_comes_back_at_any_node_misses_nothing_and_was_never_gone(seed: int) -> None:
    world = World(seed)
    ann, bob = Client(world, 0, "ann"), Client(world, 1, "bob")
    for client in (ann, bob):
        client.subscribe("a")
        world.finish()
    before = dict(bob.rosters)
    sent: list[tuple[str, int]] = []

    def say() -> None:
        bob.publish("a")
        sent.append(("bob", world.number))
        bob.send("ann", world.number)
        world.progress(world.chance.randrange(12))

    for _ in range(4):
        say()
    ann.lose()
    for _ in range(4):
        say()
    heir = Client(world, seed % 2, "ann", ann)
    for _ in range(2):
        say()
    heir.subscribe("a", returns=True)
    for _ in range(4):
        say()
    world.let_time_pass()
    assert heir.got["a"] == sent
    assert heir.got_direct == [number + 1 - 1 for _, number in sent]
    assert heir.lost == []
    assert bob.rosters == before
    assert bob.answered == bob.asked


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("failure", ["unavailable", "unknown"])
def test_a_failing_engine_is_told_to_whoever_asks_and_leaves_no_ghosts(seed: int, failure: Failure) -> None:
    world = World(seed)
    ann, bob = Client(world, 0, "ann"), Client(world, 1, "bob")
    ann.subscribe("a")
    bob.subscribe("a")
    world.finish()
    eve = Client(world, 0, "eve")
    world.finish()
    world.fail(failure)
    eve.leave()
    ann.publish("a")
    ann.send("bob", 1)
    ann.subscribe("b")
    ann.unsubscribe("a")
    bob.leave()
    world.finish()
    assert ann.answered == ann.asked
    world.fail(None)
    world.let_time_pass()
    assert world.members("a") == world.members("b") == set()
    assert set(world.store.app(APP).peers) == {"ann"}
    ann.subscribe("a")
    ann.subscribe("b")
    world.finish()
    assert world.members("a") == world.members("b") == {"ann"}
