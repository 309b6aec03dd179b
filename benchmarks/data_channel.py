"""Data channels between two processes over loopback: ours at both ends, at one end, and aiortc's own.

Reliable and ordered, with hand-written backpressure at every sender. The combinations take turns, so that load on the
machine hits all alike, and each figure is the median of the rounds. The last combination sends and receives through the
`DataChannel` wrapper, to show what that costs.

    python -m benchmarks.data_channel --rounds 3 --seconds 1.5
    python -m benchmarks.data_channel --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.data_channel_sides import WARM_UP, percentile

SIZES = (64, 1024, 16_384, 65_536, 262_144)
QUICK_SIZES = (64, 16_384, 262_144)
COMBINATIONS = (("ours", "ours"), ("ours", "stock"), ("stock", "ours"), ("stock", "stock"), ("wrapped", "wrapped"))
"""Sender and receiver."""

Combination = tuple[str, str]
Figures = dict[tuple[Combination, int], list[dict[str, float]]]


class End:
    """A process that is one end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, kind: str) -> End:
        """Start one."""
        command = (sys.executable, "-m", "benchmarks.data_channel_sides", kind)
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 20))

    async def do(self, *command: Any) -> Any:
        """Have a command carried out and return what comes of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"one end failed at {command[0]}")
        return json.loads(line)

    async def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def connected(kinds: Combination) -> tuple[End, End]:
    """Return a sender and a receiver with open channels."""
    sender, receiver = await End.start(kinds[0]), await End.start(kinds[1])
    answer = await receiver.do("answer", await sender.do("offer"))
    await sender.do("accept", answer)
    return sender, receiver


async def run(kinds: Combination, size: int, seconds: float, pings: int) -> dict[str, float]:
    """Measure one combination with one size."""
    sender, receiver = await connected(kinds)
    try:
        await sender.do("idle", 20)
        idle = await sender.do("idle", pings)
        await sender.do("start", size)
        await asyncio.sleep(WARM_UP)
        await sender.do("ping")
        sent, got = await sender.do("mark"), await receiver.do("mark")
        await asyncio.sleep(seconds)
        got_then, sent_then = await receiver.do("mark"), await sender.do("mark")
        loaded = await sender.do("stop")
    finally:
        await asyncio.gather(sender.close(), receiver.close())
    took = got_then["at"] - got["at"]
    cpu = sent_then["cpu"] - sent["cpu"] + got_then["cpu"] - got["cpu"]
    return {
        "MB/s": (got_then["bytes"] - got["bytes"]) / took / 1e6,
        "msg/s": (got_then["messages"] - got["messages"]) / took,
        "MB/CPU s": (got_then["bytes"] - got["bytes"]) / 1e6 / cpu,
        "cpu out": (sent_then["cpu"] - sent["cpu"]) / took,
        "cpu in": (got_then["cpu"] - got["cpu"]) / took,
        "idle p50": percentile(idle, 50),
        "idle p99": percentile(idle, 99),
        "load p50": percentile(loaded, 50),
        "load p99": percentile(loaded, 99),
    }


async def measure(
    sizes: list[int], combinations: list[Combination], rounds: int, seconds: float, pings: int
) -> Figures:
    """Measure everything, the combinations taking turns."""
    figures: Figures = {(kinds, size): [] for size in sizes for kinds in combinations}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("data", total=rounds * len(figures))
        for number in range(rounds):
            for size in sizes:
                for kinds in combinations if number % 2 == 0 else combinations[::-1]:
                    progress.update(bar, description=f"{size:,} B, {kinds[0]} to {kinds[1]}")
                    figures[kinds, size].append(await run(kinds, size, seconds, pings))
                    progress.advance(bar)
    return figures


def report(sizes: list[int], combinations: list[Combination], figures: Figures) -> None:
    """Print the medians, beside stock aiortc at both ends in the same rounds."""
    columns = ("message", "from, to", "x stock", "by round", "per CPU s", "MB/s", "msg/s", "CPU out, in")
    title = f"Data channels beside stock aiortc at both ends, {len(figures[combinations[0], sizes[0]])} rounds"
    caption = "idle and under load: round trips of 64 bytes in ms, p50 (p99)"
    table = Table(*columns, "idle", "under load", title=title, caption=caption)
    for size in sizes:
        base = figures[("stock", "stock"), size]
        for kinds in combinations:
            rounds = figures[kinds, size]
            ratios = [it["MB/s"] / other["MB/s"] for it, other in zip(rounds, base, strict=True)]
            per_cpu = [it["MB/CPU s"] / other["MB/CPU s"] for it, other in zip(rounds, base, strict=True)]
            middle = {name: statistics.median(it[name] for it in rounds) for name in rounds[0]}
            table.add_row(
                f"{size:,} B",
                f"{kinds[0]}, {kinds[1]}",
                f"{statistics.median(ratios):.1f}",
                f"{min(ratios):.1f}–{max(ratios):.1f}",
                f"{statistics.median(per_cpu):.1f}",
                f"{middle['MB/s']:.1f}",
                f"{middle['msg/s']:,.0f}",
                f"{middle['cpu out']:.2f}, {middle['cpu in']:.2f}",
                *(f"{middle[f'{at} p50'] * 1e3:.2f} ({middle[f'{at} p99'] * 1e3:.2f})" for at in ("idle", "load")),
            )
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="bytes of a message")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each measurement lasts")
    parser.add_argument("--quick", action="store_true", help="one short round of three sizes, in less than a minute")
    options = parser.parse_args()
    sizes, rounds, seconds, pings = options.sizes, options.rounds, options.seconds, 500
    if options.quick:
        sizes, rounds, seconds, pings = list(QUICK_SIZES), 1, 0.5, 100
    combinations = list(COMBINATIONS)
    report(sizes, combinations, asyncio.run(measure(sizes, combinations, rounds, seconds, pings)))


if __name__ == "__main__":
    main()
