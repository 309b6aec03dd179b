"""A cluster under random faults, with clients that check every message and all presence.

Nodes are killed, stopped and restarted, Redis is restarted, emptied and stopped, sockets are cut, while clients publish
and send numbered messages. At the end every confirmed message must have arrived once and in order or have been told as
lost, joined and left must have alternated, nobody must have left who was only away for a moment, all must agree on who
is there, and memory must not have grown.

    make soak-cluster MINUTES=60
    python -m tests.cluster.soak --minutes 5 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from metered_realtime import MessagesLost, ReconnectOptions
from metered_realtime.errors import SignallingError
from metered_realtime.events import Connected, Direct, Disconnected, Message, Presence, Resubscribed, SubscriptionLost
from metered_realtime.server import mint_token
from metered_realtime.signalling import SignallingClient

from .audit import MessageAudit, PresenceAudit
from .processes import Cluster, Program

RETURN_TIME = 10.0
"""Seconds that a lost client may be away before others are told, the server's default."""

MARGIN = 3.0
"""Seconds that a busy machine may take from it."""

SETTLING = 90
"""Seconds after the last fault within which everything has to be right again."""

GROWTH = 1.3
"""Maximum memory of a node at the end, relative to its memory after a third of the time."""

LONGEST_STOP = 7.0
"""Seconds that a node may be stopped before its clients may count as gone, less the margin."""

CHANNELS_OF_A_CLIENT = 2


def directs_to(name: str) -> str:
    """Return the scope of the directs to a client."""
    return f"@{name}"


class Client:
    """One client: it publishes, sends, and has everything audited that it hears."""

    def __init__(self, name: str, channels: list[str], soak: Soak) -> None:
        self.name = name
        self.channels = channels
        self._soak = soak
        self._awaits_snapshot: set[str] = set()
        self._restored: set[str] = set()
        self.signalling = SignallingClient(
            url=soak.cluster.url,
            token_provider=self._token,
            reconnect=ReconnectOptions(initial_delay=0.1, max_delay=2.0, max_attempts=100_000),
        )
        signalling = self.signalling
        signalling.on(Message, self._message)
        signalling.on(Direct, self._direct)
        signalling.on(MessagesLost, self._lost)
        signalling.on(Presence, self._presence)
        signalling.on(Disconnected, self._disconnected)
        signalling.on(Connected, self._connected)
        signalling.on(Resubscribed, self._resubscribed)
        signalling.on(SubscriptionLost, self._subscription_lost)

    async def start(self) -> None:
        """Connect and subscribe."""
        await self.signalling.connect()
        for channel in self.channels:
            self._awaits_snapshot.add(channel)
            await self.signalling.subscribe(channel)

    async def talk(self) -> None:
        """Publish and send until cancelled."""
        soak, chance = self._soak, self._soak.random
        while True:
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            if chance.random() < 0.5:
                channel = chance.choice(self.channels)
                await self._send(channel, self.signalling.publish, channel)
            else:
                other = chance.choice([client.name for client in soak.clients if client is not self])
                await self._send(directs_to(other), self.signalling.send, other)

    async def _send(self, scope: str, send: Callable[[str, Any], Awaitable[None]], target: str) -> None:
        soak = self._soak
        number, sent_at = soak.messages.number(self.name, scope), time.monotonic()
        try:
            await send(target, number)
        except SignallingError as error:
            soak.failures[getattr(error, "code", type(error).__name__)] += 1
        else:
            soak.messages.confirm(self.name, scope, number, sent_at)

    def _token(self) -> str:
        cluster = self._soak.cluster
        return mint_token(secret_id=cluster.secret_id, secret=cluster.secret, peer_id=self.name, expires_in=7_200)

    def _message(self, event: Message) -> None:
        self._soak.messages.arrive(self.name, event.channel, event.sender_peer_id, event.data)

    def _direct(self, event: Direct) -> None:
        self._soak.messages.arrive(self.name, directs_to(self.name), event.sender_peer_id, event.data)

    def _lost(self, event: MessagesLost) -> None:
        scope = directs_to(self.name) if event.channel is None else event.channel
        self._soak.messages.lost(self.name, scope, event.count, time.monotonic())

    def _presence(self, event: Presence) -> None:
        presence, now = self._soak.presence, time.monotonic()
        joined, left = {it.peer_id for it in event.joined}, {it.peer_id for it in event.left}
        if event.channel in self._awaits_snapshot:
            self._awaits_snapshot.discard(event.channel)
            presence.snapshot(self.name, event.channel, joined, now)
        else:
            presence.change(self.name, event.channel, joined, left, now)

    def _disconnected(self, event: Disconnected) -> None:
        self._soak.presence.away(self.name, time.monotonic())
        self._soak.disconnects += 1
        self._restored.clear()

    def _connected(self, event: Connected) -> None:
        self._awaits_snapshot.update(self.channels)

    def _resubscribed(self, event: Resubscribed) -> None:
        self._restored.add(event.channel)
        if self._restored.issuperset(self.channels):
            self._soak.presence.back(self.name)

    def _subscription_lost(self, event: SubscriptionLost) -> None:
        self._soak.violations.append(f"{self.name} lost its subscription of {event.channel}")


class Soak:
    """The cluster, its clients, and what was found."""

    def __init__(self, cluster: Cluster, clients: int, channels: int, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.messages = MessageAudit()
        self.presence = PresenceAudit(RETURN_TIME, MARGIN)
        self.violations: list[str] = []
        self.failures: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.disconnects = 0
        self.memory: dict[str, list[int]] = {}
        names = [f"channel-{number}" for number in range(channels)]
        self.clients = [
            Client(f"client-{number}", self.random.sample(names, CHANNELS_OF_A_CLIENT), self)
            for number in range(clients)
        ]

    async def start(self) -> None:
        """Bring all clients in."""
        for client in self.clients:
            self.presence.keep(client.name)
            await client.start()
            for scope in (*client.channels, directs_to(client.name)):
                self.messages.expect(client.name, scope)

    async def run(self, seconds: float, report: Callable[[float], None]) -> None:
        """Let the clients talk and break things for so long, then wait until all is right or nothing changes."""
        talking = [asyncio.ensure_future(client.talk()) for client in self.clients]
        breaking = asyncio.ensure_future(self._break())
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            await asyncio.sleep(1)
            self._sample()
            report(passed)
            if breaking.done():
                await breaking  # it never ends by itself: show why
        breaking.cancel()
        await asyncio.wait([breaking])
        await self._mend()
        for task in talking:
            task.cancel()
        await asyncio.wait(talking)
        for _ in range(SETTLING):
            if not self.unsettled():
                break
            await asyncio.sleep(1)

    async def stop(self) -> None:
        """Close all clients."""
        await asyncio.gather(*(client.signalling.close() for client in self.clients))

    def unsettled(self) -> list[str]:
        """Return what is not right yet."""
        found = [f"{client.name} is {client.signalling.state}" for client in self.clients if not _is_in(client)]
        found += [f"{who} misses {some[:5]} of {scope}" for (who, scope), some in self.messages.missing().items()]
        for channel in {name for client in self.clients for name in client.channels}:
            members = {client.name for client in self.clients if channel in client.channels}
            found += [f"{channel}: {it}" for it in self.presence.differing(channel, members)]
        return found

    def grown(self) -> list[str]:
        """Return the processes whose memory went up."""
        found = []
        for name, sizes in self.memory.items():
            third = len(sizes) // 3
            if third < 10:
                continue
            before, after = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[-third:])
            if after > GROWTH * before:
                found.append(f"{name} went from {before / 1e6:.0f} to {after / 1e6:.0f} MB")
        return found

    def _sample(self) -> None:
        # Node 0 is never killed, so that its memory shows what an hour leaves behind.
        for name, program in (("n0", self.cluster.nodes[0]),):
            if program.is_running:
                self.memory.setdefault(name, []).append(program.resident_bytes)

    async def _break(self) -> None:
        faults: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("node killed", self._kill_node),
            ("node restarted", self._restart_node),
            ("node stopped", self._stop_node),
            ("sockets cut", self._cut_sockets),
            ("subscribers killed", self._kill_subscribers),
            ("Redis restarted", self._restart_redis),
            ("Redis stopped", self._stop_redis),
            ("Redis emptied", self._empty_redis),
        ]
        weights = [4, 3, 2, 6, 3, 1, 1, 1]
        while True:
            await asyncio.sleep(self.random.uniform(3, 8))
            [(name, fault)] = self.random.choices(faults, weights)
            self.faults[name] += 1
            await fault()

    async def _mend(self) -> None:
        for program in (*self.cluster.nodes, self.cluster.redis):
            program.send(signal.SIGCONT)
            if not program.is_running:
                await program.start()

    def _some_node(self) -> Program:
        return self.random.choice(self.cluster.nodes[1:])

    async def _kill_node(self) -> None:
        node = self._some_node()
        await node.end()
        await asyncio.sleep(self.random.uniform(0, 3))
        await node.start()

    async def _restart_node(self) -> None:
        node = self._some_node()
        await node.end(signal.SIGTERM)
        await node.start()

    async def _stop_node(self) -> None:
        node = self.random.choice(self.cluster.nodes)
        await self._stop_for(node, self.random.uniform(1, LONGEST_STOP))

    async def _stop_redis(self) -> None:
        await self._stop_for(self.cluster.redis, self.random.uniform(1, 20))

    async def _stop_for(self, program: Program, seconds: float) -> None:
        program.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            program.send(signal.SIGCONT)

    async def _cut_sockets(self) -> None:
        self.cluster.balancer.cut(self.random.randint(1, len(self.clients) // 4))

    async def _kill_subscribers(self) -> None:
        await self.cluster.redis_command("client", "kill", "type", "pubsub")

    async def _restart_redis(self) -> None:
        await self.cluster.redis.end()
        await asyncio.sleep(self.random.uniform(0, 5))
        await self.cluster.redis.start()

    async def _empty_redis(self) -> None:
        await self.cluster.redis_command("flushall")


def _is_in(client: Client) -> bool:
    return client.signalling.state == "connected"


async def soak(minutes: float, clients: int, nodes: int, seed: int, console: Console) -> bool:
    """Run it and print what was found. Return whether that is nothing."""
    async with Cluster(nodes) as cluster:
        run = Soak(cluster, clients, max(2, clients // 10), seed)
        await run.start()
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        try:
            with bar:
                task = bar.add_task("", total=60 * minutes)

                def report(passed: float) -> None:
                    text = f"{run.messages.seen} seen, {sum(run.faults.values())} faults, {_wrong(run)} wrong"
                    bar.update(task, completed=passed, description=text)

                await run.run(60 * minutes, report)
            return _print(run, console)
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.stop(), 30)


def _wrong(run: Soak) -> int:
    return len(run.violations) + len(run.messages.violations) + len(run.presence.violations)


def _print(run: Soak, console: Console) -> bool:
    table = Table(title="Cluster under faults", show_header=False)
    table.add_row("faults", ", ".join(f"{count} x {name}" for name, count in run.faults.most_common()))
    table.add_row("connections lost", str(run.disconnects))
    table.add_row("messages confirmed", str(run.messages.confirmed))
    table.add_row("refused or unanswered", ", ".join(f"{it} {count}" for it, count in run.failures.most_common()))
    table.add_row("deliveries", str(run.messages.seen))
    table.add_row("losses told", str(run.messages.told))
    table.add_row("presence changes", str(run.presence.changes))
    for name, sizes in run.memory.items():
        table.add_row(f"memory of {name}", f"{sizes[0] / 1e6:.0f} MB at first, {sizes[-1] / 1e6:.0f} MB at the end")
    console.print(table)
    wrong = run.violations + run.messages.violations + run.presence.violations + run.unsettled() + run.grown()
    for line in wrong[:50]:
        console.print(f"[red]wrong:[/red] {line}", highlight=False)
    if len(wrong) > 50:
        console.print(f"... and {len(wrong) - 50} more")
    return not wrong


def main() -> None:
    """Run it from the command line. Exits with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="that of the faults, for another run with the same")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(10_000)
    console = Console()
    console.print(f"{given.clients} clients, {given.nodes} nodes, {given.minutes:g} minutes, seed {seed}")
    sys.exit(0 if asyncio.run(soak(given.minutes, given.clients, given.nodes, seed, console)) else 1)


if __name__ == "__main__":
    main()
