"""The signalling server beside a bare `websockets` server that does the same work, in the same run.

Fan-out of 256-byte messages, direct round trips, memory per idle connection, and latency at half load. Each server has
a process of its own; the load comes from this one, over loopback, with clients that count bytes instead of parsing
them, so that the servers are what is measured. The servers take turns, and each figure is the median of the rounds.

    python -m benchmarks.signalling          # about a minute
    python -m benchmarks.signalling --quick  # about ten seconds
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from .signalling_servers import KEY

SERVERS = ("ours", "bare")
PAYLOAD = "x" * 254
"""256 bytes as JSON, with its quotes."""

WINDOW = 8
"""Messages that are under way at once: enough to keep a server busy, far from filling any buffer."""

DIALS = 50
"""Connections that are opened at once."""

PATIENCE = 60.0
"""Seconds for one measurement: a server that loses a message must not hang the benchmark."""

SETTLE = 0.15
"""Seconds without traffic after which all that was sent has arrived."""

UPGRADE = (
    f"GET /v1?key={KEY} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    subscribers: int = 400
    pairs: int = 32
    idle: int = 2_000


FULL = Plan(rounds=5, seconds=2.0)
QUICK = Plan(rounds=1, seconds=1.0, idle=500)


class Client(asyncio.Protocol):
    """A WebSocket connection that counts what comes. `heard`, if set, is called after each piece."""

    def __init__(self) -> None:
        self.received = 0
        self.heard: Callable[[Client], None] | None = None
        self.first = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        if not self._opened.done():
            self.first += data
            if b'"maxMessageSize":65536' in self.first:
                self._opened.set_result(None)
            return
        self.received += len(data)
        if self.heard is not None:
            self.heard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("the server closed"))

    async def opened(self) -> Client:
        """Return after the welcome."""
        await self._opened
        return self

    @property
    def peer_id(self) -> str:
        text = self.first[self.first.index(b'{"type":"welcome"') :].decode()
        return str(json.JSONDecoder().raw_decode(text)[0]["peerId"])


def frame(**fields: Any) -> bytes:
    """Make a client's text frame. Its mask is zero: legal, and nothing needs to be computed."""
    payload = json.dumps({**fields, "requestId": "r"}, separators=(",", ":")).encode()
    size = len(payload)
    head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + payload


async def settled(clients: list[Client]) -> None:
    """Return when everybody was answered and nothing comes any more."""
    before = -1
    while (total := sum(client.received for client in clients)) != before or not total:
        before = total
        await asyncio.sleep(SETTLE)


class Target:
    """A server in its process."""

    def __init__(self, name: str, loop: str = "asyncio") -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.signalling_servers", name, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._line())

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the process so far. It does nothing for this."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # as clock_getcpuclockid has it

    async def usage(self) -> tuple[int, float]:
        """Return resident bytes and CPU seconds, once all is quiet."""
        await asyncio.sleep(SETTLE)
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> tuple[int, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        resident, cpu = self._line().split()
        return int(resident), float(cpu)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    @asynccontextmanager
    async def clients(self, count: int) -> AsyncIterator[list[Client]]:
        """Connect so many clients."""
        loop = asyncio.get_running_loop()
        made: list[Client] = []
        try:
            while len(made) < count:
                batch = range(min(DIALS, count - len(made)))
                dialled = await asyncio.gather(*(loop.create_connection(Client, "127.0.0.1", self.port) for _ in batch))
                made += await asyncio.gather(*(client.opened() for _, client in dialled))
            yield made
        finally:
            for client in made:
                client.transport.abort()
            await asyncio.sleep(SETTLE)


@asynccontextmanager
async def audience(target: Target, count: int) -> AsyncIterator[tuple[Client, list[Client], int]]:
    """Yield a publisher, its subscribers, and the bytes that one message is to each of them."""
    async with target.clients(count + 1) as (publisher, *subscribers):
        for subscriber in subscribers:
            subscriber.transport.write(frame(type="subscribe", channel="stage"))
        await settled(subscribers)
        for subscriber in subscribers:
            subscriber.received = 0
        publisher.transport.write(frame(type="publish", channel="stage", data=PAYLOAD))
        await settled(subscribers)
        size = subscribers[0].received
        assert size > len(PAYLOAD), size
        assert all(subscriber.received == size for subscriber in subscribers)
        for subscriber in subscribers:
            subscriber.received = 0
        yield publisher, subscribers, size


async def fan_out(target: Target, plan: Plan) -> tuple[float, float]:
    """Return deliveries per second, by the clock and by the server's CPU time."""
    message = frame(type="publish", channel="stage", data=PAYLOAD)
    async with audience(target, plan.subscribers) as (publisher, subscribers, size):
        total = sent = 0
        over = asyncio.Event()
        deadline = 0.0

        def heard(client: Client) -> None:
            nonlocal total, sent
            total += client.received
            client.received = 0
            while sent - total // (size * plan.subscribers) < WINDOW and time.perf_counter() < deadline:
                publisher.transport.write(message)
                sent += 1
            if total == sent * size * plan.subscribers:
                over.set()

        for subscriber in subscribers:
            subscriber.heard = heard
        cpu_before = target.cpu_seconds()
        started = time.perf_counter()
        deadline = started + plan.seconds
        publisher.transport.write(message * WINDOW)
        sent += WINDOW
        await over.wait()
        elapsed = time.perf_counter() - started
        cpu_after = target.cpu_seconds()
        return total / size / elapsed, total / size / (cpu_after - cpu_before)


async def round_trips(target: Target, plan: Plan) -> tuple[float, float]:
    """Return direct messages there and back per second, acknowledged both, over all pairs: by clock and by CPU time."""
    async with target.clients(2 * plan.pairs) as clients:
        pairs = list(zip(clients[::2], clients[1::2], strict=True))
        there = [frame(type="send", to=two.peer_id, data=PAYLOAD) for _, two in pairs]
        back = [frame(type="send", to=one.peer_id, data=PAYLOAD) for one, _ in pairs]
        pairs[0][0].transport.write(there[0])
        await settled(clients)
        ack, direct = pairs[0][0].received, pairs[0][1].received
        assert 0 < ack < direct
        for client in clients:
            client.received = 0
        done = running = 0
        over = asyncio.Event()
        deadline = 0.0

        def play(number: int, one: Client, two: Client) -> None:
            turns = 0

            def reply(client: Client) -> None:
                if client.received >= direct + turns * (ack + direct):
                    client.heard = None
                    client.transport.write(back[number])

            def again(client: Client) -> None:
                nonlocal done, running, turns
                if client.received < (turns + 1) * (ack + direct):
                    return
                turns += 1
                done += 1
                if time.perf_counter() < deadline:
                    begin()
                else:
                    running -= 1
                    if not running:
                        over.set()

            def begin() -> None:
                two.heard = reply
                one.transport.write(there[number])

            one.heard = again
            begin()

        cpu_before = target.cpu_seconds()
        started = time.perf_counter()
        deadline = started + plan.seconds
        running = len(pairs)
        for number, (one, two) in enumerate(pairs):
            play(number, one, two)
        await over.wait()
        elapsed = time.perf_counter() - started
        cpu_after = target.cpu_seconds()
        return done / elapsed, done / (cpu_after - cpu_before)


async def idle_memory(target: Target, plan: Plan) -> float:
    """Return the resident bytes that an idle connection with one subscription costs."""
    async with target.clients(50) as warm:
        for number, client in enumerate(warm):
            client.transport.write(frame(type="subscribe", channel=f"warm/{number}"))
        await settled(warm)
    before, _ = await target.usage()
    async with target.clients(plan.idle) as clients:
        for number, client in enumerate(clients):
            client.transport.write(frame(type="subscribe", channel=f"home/{number}"))
        await settled(clients)
        after, _ = await target.usage()
    return (after - before) / plan.idle


async def latencies(target: Target, plan: Plan, deliveries_per_second: float) -> list[float]:
    """Return the seconds from each publication to each delivery, at this load, whatever the server keeps up with."""
    message = frame(type="publish", channel="stage", data=PAYLOAD)
    async with audience(target, plan.subscribers) as (publisher, subscribers, size):
        sent_at: list[float] = []
        took: list[float] = []
        seen = dict.fromkeys(subscribers, 0)

        def heard(client: Client) -> None:
            now, first, last = time.perf_counter(), seen[client], client.received // size
            for number in range(first, last):
                took.append(now - sent_at[number])
            seen[client] = last

        for subscriber in subscribers:
            subscriber.heard = heard
        pause = plan.subscribers / deliveries_per_second
        started = time.perf_counter()
        count = int(plan.seconds / pause)
        for number in range(count):
            due = started + number * pause
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent_at.append(due)  # a loader that comes late is the server's loss too
            publisher.transport.write(message)
        while len(took) < count * plan.subscribers:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        return took


@dataclass
class Figures:
    """What was measured of one server, a value per round."""

    fan_out: list[float] = field(default_factory=list)
    fan_out_cpu: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)
    round_trips_cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


async def measure(plan: Plan) -> dict[str, Figures]:
    """Measure both servers, in turns."""
    figures = {name: Figures() for name in SERVERS}
    targets = {name: Target(name) for name in SERVERS}
    try:
        for name, target in targets.items():
            figures[name].memory.append(await idle_memory(target, plan))
        for number in range(plan.rounds):
            for name in _turn(number):
                await _round(targets[name], figures[name], plan)
        load = min(statistics.median(it.fan_out) for it in figures.values()) / 2
        for number in range(plan.rounds):
            for name in _turn(number):
                async with asyncio.timeout(PATIENCE):
                    took = await latencies(targets[name], plan, load)
                cuts = statistics.quantiles(took, n=100)
                figures[name].p50.append(cuts[49])
                figures[name].p99.append(cuts[98])
    finally:
        for target in targets.values():
            target.stop()
    return figures


def _turn(number: int) -> tuple[str, ...]:
    """Return who goes first in a round, alternating: machines get slower and faster."""
    return SERVERS if number % 2 == 0 else SERVERS[::-1]


async def _round(target: Target, figures: Figures, plan: Plan) -> None:
    gc.collect()
    for run, rates, by_cpu in (
        (fan_out, figures.fan_out, figures.fan_out_cpu),
        (round_trips, figures.round_trips, figures.round_trips_cpu),
    ):
        async with asyncio.timeout(PATIENCE):
            rate, cpu_rate = await run(target, plan)
        rates.append(rate)
        by_cpu.append(cpu_rate)


ROWS = [
    # (what, attribute, factor, format)
    ("fan-out, deliveries/s", "fan_out", 1, ",.0f"),
    ("fan-out, deliveries per CPU s", "fan_out_cpu", 1, ",.0f"),
    ("direct round trips/s", "round_trips", 1, ",.0f"),
    ("direct round trips per CPU s", "round_trips_cpu", 1, ",.0f"),
    ("memory per idle connection, kB", "memory", 1 / 1_000, ".1f"),
    ("latency at half load, p50 ms", "p50", 1_000, ".2f"),
    ("latency at half load, p99 ms", "p99", 1_000, ".2f"),
]


def report(figures: dict[str, Figures], plan: Plan) -> None:
    """Print the medians, and ours against the bare server's."""
    title = f"{plan.subscribers} subscribers, {plan.pairs} pairs, {plan.idle} idle connections, {plan.rounds} rounds"
    table = Table("what", "this server", "bare websockets", "ours / bare", "ours / bare, by round", title=title)
    for label, name, factor, form in ROWS:
        ours, bare = (getattr(figures[server], name) for server in SERVERS)
        each = [one / other for one, other in zip(ours, bare, strict=True)]
        mine, theirs = statistics.median(ours), statistics.median(bare)
        spread = f"{min(each):.2f} - {max(each):.2f}"
        table.add_row(label, f"{mine * factor:{form}}", f"{theirs * factor:{form}}", f"{mine / theirs:.2f}", spread)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    plan = QUICK if parser.parse_args().quick else FULL
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < plan.idle + 100:
        parser.error(f"{plan.idle} connections need as many file descriptors, this process may have {hard}")
    print(f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    report(asyncio.run(measure(plan)), plan)


if __name__ == "__main__":
    main()
