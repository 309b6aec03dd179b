"""Plays a scenario in a virtual world, and checks the invariants when the world has settled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from random import Random

from ..events import Track
from .actor import Actor
from .invariants import disagreements
from .ledger import RemoteRecord, Tolerance
from .scenario import Outcome, Scenario
from .virtual_socket import CredentialKind
from .world import VirtualWorld

GHOST_REST = 75.0
"""Seconds after the last action before invariants are checked: a client notices a silent socket after 60 s."""

TIME_TO_SETTLE = 400.0
"""Seconds in which the world has to settle: longer than a whole ladder of attempts with their timeouts."""

SILENCE = 300.0
"""Seconds during which no peer of a settled world may send a signal."""

RETURN = 20.0
"""Seconds after a peer came back under its old id in which a connection may be replaced: it may answer an offer that
was meant for its former program, and the connection of that offer never comes up."""

SELF_HEALING = frozenset({"reconcile_timeout", "action_not_permitted"})
"""Fatal errors from which the peer recovers by itself: a silent socket, which is noticed after 60 s, is reported after
30 s, and a peer that may not send is permitted to again."""

CHECK_INTERVAL = 2.0

CREDENTIALS: tuple[CredentialKind, ...] = ("token", "key", "resume")

AFTERLIFE = 60.0
"""Seconds after all peers have closed until nothing may be left: ghosts and checks of dead paths time out."""


def play(scenario: Scenario) -> Outcome:
    """Play a run and check its invariants. Takes some hundredths of a second for most seeds."""
    world = VirtualWorld(scenario.seed, scenario.conditions)
    world.media.shares_sections = scenario.shares_sections
    try:
        stage = _Stage(scenario, world)
        world.run(stage.play())
        faults = stage.faults + stage.leftovers()
    finally:
        world.close()
    return Outcome(scenario, tuple(faults), stage.settled_in, world.trace)


class _Stage:
    """The state of one run."""

    def __init__(self, scenario: Scenario, world: VirtualWorld) -> None:
        self.scenario = scenario
        self.world = world
        self.random = Random(f"play {scenario.seed}")
        self.faults: list[str] = []
        self.settled_in = 0.0
        self.actors: list[Actor] = []

    async def play(self) -> None:
        names = self.random.sample("abcdefgh", self.scenario.peers)
        tolerance = Tolerance(
            fatal_errors=frozenset() if self.scenario.is_calm else SELF_HEALING,
            streams_may_flicker=self.scenario.conditions.loss > 0,
            streams_may_be_late=not self.scenario.is_calm,
        )
        for name in names:
            kind = self.random.choices(CREDENTIALS, (6, 2, 2))[0]
            chance = Random(f"actor {self.scenario.seed} {name}")
            self.actors.append(
                Actor(
                    self.world,
                    name,
                    chance,
                    kind,
                    on_track=self._on_track,
                    on_reset=self._on_reset,
                    tolerance=tolerance,
                )
            )
        for at, action in sorted(self._script(), key=lambda entry: entry[0]):
            await asyncio.sleep(at - self.world.loop.time())
            await self._do(action)
        await self._settle()
        if not self.faults:
            await self._stay_silent()
        await self._close()

    # --- the script

    def _script(self) -> list[tuple[float, Callable[[], object]]]:
        random, seconds = self.random, self.scenario.seconds
        script: list[tuple[float, Callable[[], object]]] = []
        for actor in self.actors:
            script.append((random.choice((0.0, 0.0, random.uniform(0, seconds / 2))), self._starting(actor)))
            for _ in range(random.randint(0, 5)):
                at = random.uniform(0, seconds)
                script.append((round(at, random.choice((0, 3))), actor.act))
            if random.random() < 0.3:
                script += self._coming_and_going(actor)
        for kind in self.scenario.faults:
            for _ in range(random.randint(1, 2)):
                script.append((random.uniform(0, seconds), self._fault(kind)))
        return script

    def _starting(self, actor: Actor) -> Callable[[], object]:
        return lambda: actor.start(self._sent_since) if actor.peer is None else None

    def _coming_and_going(self, actor: Actor) -> list[tuple[float, Callable[[], object]]]:
        going = self.random.uniform(0, self.scenario.seconds)
        back = going + self.random.choice((0.3, 3.0, 10.0))
        if self.random.random() < 0.5:
            return [(going, actor.leave), (back, actor.join)]
        return [(going, actor.quit), (back, self._starting(actor))][: self.random.randint(1, 2)]

    async def _do(self, action: Callable[[], object]) -> None:
        result = action()
        if asyncio.iscoroutine(result):
            await result

    def _fault(self, kind: str) -> Callable[[], object]:
        random, world = self.random, self.world
        actor, other = random.sample(self.actors, 2)
        short_or_long = random.choice((random.uniform(0.5, 5.0), random.uniform(5.0, 40.0)))
        match kind:
            case "lost_client":
                return lambda: world.drop_signalling(actor.host, client=True, server=False)
            case "lost_server":
                return lambda: world.drop_signalling(actor.host, client=False, server=True)
            case "lost_both":
                return lambda: world.drop_signalling(actor.host, client=True, server=True)
            case "silent":
                return lambda: world.drop_signalling(actor.host, client=False, server=False)
            case "restart":
                politely = random.random() < 0.5
                return lambda: world.server.restart(short_or_long, politely=politely)
            case "cut":
                return lambda: world.cut(actor.host, other.host, short_or_long)
            case "isolate":
                return lambda: world.isolate(actor.host, short_or_long)
            case "refuse":
                return lambda: world.refuse(actor.host, short_or_long)
            case "offline":
                return lambda: world.go_offline(actor.host, short_or_long)
        comes_back = random.choice((None, 0.1, 2.0, 10.0))
        return lambda: self._kill(actor, ghost=kind == "vanish", comes_back=comes_back)

    def _kill(self, actor: Actor, *, ghost: bool, comes_back: float | None) -> None:
        actor.kill(ghost=ghost)
        if comes_back is not None:
            self.world.loop.call_later(comes_back, self._starting(actor))

    # --- callbacks of actors

    def _actor_of(self, peer_id: str) -> Actor | None:
        for actor in self.actors:
            if actor.peer is not None and actor.peer.peer_id == peer_id:
                return actor
        return None

    def _sent_since(self, peer_id: str, stream_id: str) -> float | None:
        sender = self._actor_of(peer_id)
        return sender.sent_since(stream_id) if sender is not None and sender.is_here else None

    def _on_track(self, receiver: Actor, sender_id: str, event: Track) -> None:
        sender = self._actor_of(sender_id)
        if sender is None or not self.scenario.is_calm or self._is_back(sender, receiver):
            return
        known = sender.metadata_sent.get(event.track.id, [])
        is_sent = any(attachment.track_id == event.track.id for attachment in sender.attachments())
        # A track without metadata may be given that of another track of its stream, because that is how the metadata
        # of a replaced track is found, whose section keeps the old id. A track that was removed and added again may
        # arrive between its former metadata and its present one.
        if is_sent and len(known) == 1 and known[0] is not None and event.metadata != known[0]:
            self._fail(f"{receiver.host} gets {event.track.id} with {event.metadata}, not {known[0]}")

    def _on_reset(self, receiver: Actor, sender_id: str, record: RemoteRecord) -> None:
        sender = self._actor_of(sender_id)
        # A peer that has just left may be taken for lost until the server reports it.
        is_pair = sender is not None and sender.is_here and receiver.is_here
        if self.scenario.is_calm and sender is not None and is_pair and not self._is_back(sender, receiver):
            self._fail(f"{receiver.host} replaced its connection to {sender.host} in a calm world")

    def _is_back(self, *actors: Actor) -> bool:
        """Return whether an actor has just come back: messages to its former program may still reach it."""
        return any(self.world.loop.time() - actor.joined_at < RETURN for actor in actors)

    def _fail(self, what: str) -> None:
        self.world.trace.fault("stage", what)
        self.faults.append(f"{self.world.loop.time():.4f} {what}")

    # --- the end

    async def _settle(self) -> None:
        loop, began = self.world.loop, self.world.loop.time()
        await asyncio.sleep(2.0 if self.scenario.is_calm else GHOST_REST)
        left = list(disagreements(self.world, self.actors))
        while left and loop.time() - began < TIME_TO_SETTLE:
            await asyncio.sleep(CHECK_INTERVAL)
            left = list(disagreements(self.world, self.actors))
        self.settled_in = loop.time() - began
        self.world.trace("stage", "has settled" if not left else "does not settle")
        for what in left:
            self._fail(what)

    async def _stay_silent(self) -> None:
        before = self.world.server.signals
        await asyncio.sleep(SILENCE)
        if self.world.server.signals != before:
            self._fail(f"{self.world.server.signals - before} signals were sent in a settled world")
        for what in disagreements(self.world, self.actors):
            self._fail(f"after the silence: {what}")

    async def _close(self) -> None:
        await self.world.wait_for_killed()
        await asyncio.gather(*(actor.quit() for actor in self.actors))
        await asyncio.sleep(AFTERLIFE)
        for actor in self.actors:
            for ledger in actor.ledgers:
                self.faults += ledger.faults
        self.faults += self.world.errors

    def leftovers(self) -> list[str]:
        """Return the tasks, timers and exceptions that are left when all peers have closed."""
        found = [f"a task is left behind: {task.get_coro()}" for task in asyncio.all_tasks(self.world.loop)]
        found += [f"a timer is left behind: {handle}" for handle in self.world.loop.timers()]
        self.actors.clear()
        gc.collect()  # exceptions that were never retrieved show when their tasks are collected
        return found + self.world.loop.failures
