"""Calls per second and their latency over a data channel, beside a bare ping-pong on the same connection.

Two peers in one process, so that every number is of both ends together; a 100-byte echo, one call at a time and 100 in
flight. The kinds take turns. CPU time per round trip holds on a busy machine as well; 43 s without options.

    python -m benchmarks.rpc --seconds 3 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from metered_realtime import DataChannelOpened, MeteredPeer, PeerJoined, RemotePeer
from metered_realtime.server import SignallingServer

PAYLOAD = "x" * 100
WARM_UP = 200
"""Round trips before anything is measured: SCTP starts slowly."""

Echo = Callable[[], Awaitable[object]]


@dataclass
class Stats:
    """What was measured of one kind at one number in flight, round by round."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class PingPong:
    """A bare channel whose other end sends everything back. Messages come back in their order."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._waiting: list[asyncio.Future[None]] = []
        channel.on("message", lambda message: self._waiting.pop(0).set_result(None))

    async def __call__(self) -> None:
        self._waiting.append(back := asyncio.get_running_loop().create_future())
        self._channel.send(PAYLOAD)
        await back


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[RemotePeer, RemotePeer]]:
    """Return two connected peers, each as the other one sees it."""
    async with SignallingServer(port=0) as server:
        one, other = (MeteredPeer(api_key=server.api_key, url=server.url) for _ in range(2))
        other.rpc.add("echo", lambda value: value)
        met = [peer.events(PeerJoined) for peer in (one, other)]
        for peer in (one, other):
            await peer.join("benchmark")
        yield (await anext(met[0])).peer, (await anext(met[1])).peer
        await asyncio.gather(one.close(), other.close())


async def echoes(to_other: RemotePeer, to_one: RemotePeer) -> dict[str, Echo]:
    """Open a channel of each kind, and return what goes there and back on it."""
    to_one.on(DataChannelOpened, lambda event: event.channel.on("message", event.channel.send))
    bare = to_other.create_data_channel("bare")
    is_open = asyncio.Event()
    bare.on("open", is_open.set)
    await is_open.wait()
    json, msgpack = to_other.rpc, to_other.rpc.using(format="msgpack-rpc")
    return {
        "JSON-RPC call": lambda: json.call("echo", PAYLOAD),
        "MessagePack-RPC call": lambda: msgpack.call("echo", PAYLOAD),
        "bare ping-pong": PingPong(bare),
    }


async def measure(echo: Echo, in_flight: int, seconds: float, stats: Stats) -> None:
    """Keep so many round trips going for some time."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def go() -> None:
        while (started := time.perf_counter()) < until:
            await echo()
            latencies.append(time.perf_counter() - started)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(go() for _ in range(in_flight)))
    stats.cpu.append((time.process_time() - cpu) / len(latencies))
    stats.rates.append(len(latencies) / (time.perf_counter() - started))
    stats.latencies += latencies


async def run(levels: list[int], seconds: float, rounds: int) -> dict[tuple[int, str], Stats]:
    """Measure every kind at every level, the kinds taking turns."""
    async with pair() as (to_other, to_one):
        kinds = await echoes(to_other, to_one)
        for echo in kinds.values():
            for _ in range(WARM_UP):
                await echo()
        stats = {(level, name): Stats() for level in levels for name in kinds}
        for _ in range(rounds):
            for level in levels:
                for name, echo in kinds.items():
                    await measure(echo, level, seconds, stats[level, name])
        return stats


def report(stats: dict[tuple[int, str], Stats]) -> None:
    """Print the medians of the rounds, and each kind against the bare one."""
    table = Table("in flight", "what", "round trips/s", "of bare", "by round", "CPU, µs", "p50, ms", "p99, ms")
    for (level, name), found in stats.items():
        bare = stats[level, "bare ping-pong"]
        ratios = [mine / theirs for mine, theirs in zip(found.rates, bare.rates, strict=True)]
        cuts = statistics.quantiles(found.latencies, n=100)
        table.add_row(
            str(level),
            name,
            f"{statistics.median(found.rates):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} - {max(ratios):.2f}",
            f"{statistics.median(found.cpu) * 1e6:.0f}",
            f"{cuts[49] * 1_000:.2f}",
            f"{cuts[98] * 1_000:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 100])
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1 or min(options.in_flight) < 1:
        parser.error("seconds are above 0, rounds and calls in flight are 1 or more")
    report(asyncio.run(run(options.in_flight, options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
