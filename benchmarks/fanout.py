"""A picture for many: the sender's process alone, beside one aiortc encoder for each receiver.

The sender and its receivers run in processes of their own; of the receivers one decodes and compares what it sees with
what was shown, the others only take packets in. Both ways take turns. Ratios tell; seconds are those of this machine.

    python -m benchmarks.fanout --sizes 640x480 --codecs VP8 --receivers 1 8 --seconds 4 --rounds 1
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

WARM_UP = 3.0
"""Seconds after which bitrates have settled."""

LINE_LIMIT = 4 * 1024 * 1024
"""Bytes of a line between the processes: it holds the descriptions of all connections."""

WAYS = ("shared", "per peer")

Case = tuple[str, str, int]
"""Size, codec, number of receivers."""

Results = dict[Case, dict[str, list[dict[str, float]]]]


class Side:
    """A process that answers lines with lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, role: str) -> Side:
        """Start a sender or the receivers."""
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "benchmarks.fanout_sides", role)
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE_LIMIT))

    async def tell(self, message: Any) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def hear(self) -> Any:
        """Return the next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the benchmark has failed")
        return json.loads(line)

    async def end(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()


async def run(way: str, case: Case, seconds: float) -> dict[str, float]:
    """Send once, and return what both sides measured."""
    size, codec, receivers = case
    width, height = map(int, size.split("x"))
    task = {
        "way": way,
        "codec": f"video/{codec}",
        "width": width,
        "height": height,
        "receivers": receivers,
        "seconds": seconds,
        "warm_up": WARM_UP,
    }
    sender, receiver = await asyncio.gather(Side.start("send"), Side.start("receive"))
    await sender.tell(task)
    await receiver.tell(task | {"offers": await sender.hear()})
    await sender.tell(await receiver.hear())
    sent = await sender.hear()
    await receiver.tell("enough")
    received = await receiver.hear()
    await asyncio.gather(sender.end(), receiver.end())
    return sent | received


async def measure(cases: list[Case], rounds: int, seconds: float) -> Results:
    """Run every case both ways, in turns."""
    results: Results = {case: {way: [] for way in WAYS} for case in cases}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("fan-out", total=len(cases) * rounds * len(WAYS))
        for number in range(rounds):
            for case in cases:
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    progress.update(bar, description=f"{case[0]} {case[1]}, {case[2]} receivers, {way}")
                    results[case][way].append(await run(way, case, seconds))
                    progress.advance(bar)
    return results


def report(results: Results) -> None:
    """Print the medians, and how they compare."""
    columns = (
        "picture",
        "codec",
        "receivers",
        "CPU s/s",
        "per peer",
        "of that",
        "of 1 receiver",
        "PSNR dB",
        "per peer",
    )
    columns += ("Mbit/s", "per peer", "shown/s", "per peer", "MB per added receiver", "per peer")
    table = Table(*columns, title=f"Sender alone, medians of {_rounds(results)}")
    for (size, codec, receivers), ways in results.items():
        ours, theirs = (_medians(ways[way]) for way in WAYS)
        least = min(number for other, name, number in results if (other, name) == (size, codec))
        first = [_medians(results[size, codec, least][way]) for way in WAYS]
        cells = [f"{ours['cpu']:.3f}", f"{theirs['cpu']:.3f}", f"{ours['cpu'] / theirs['cpu']:.2f}"]
        cells.append(f"{ours['cpu'] / first[0]['cpu']:.2f}")
        cells += [f"{it['psnr']:.2f}" for it in (ours, theirs)]
        cells += [f"{it['bitrate'] / 1e6:.2f}" for it in (ours, theirs)] + [
            f"{it['shown']:.1f}" for it in (ours, theirs)
        ]
        for now, before in zip((ours, theirs), first, strict=True):
            more = receivers - least
            cells.append(f"{(now['memory'] - before['memory']) / more:.1f}" if more else "-")
        table.add_row(size, codec, str(receivers), *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _medians(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    runs = list(runs)
    return {name: statistics.median(it[name] if it[name] is not None else 0.0 for it in runs) for name in runs[0]}


def _rounds(results: Results) -> str:
    count = len(next(iter(results.values()))[WAYS[0]])
    return f"{count} round" if count == 1 else f"{count} rounds"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1280x720"])
    parser.add_argument("--codecs", nargs="+", default=["VP8", "H264"], choices=["VP8", "H264"])
    parser.add_argument("--receivers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=8.0, help="measured in each run, after 3 s of warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if min(options.receivers) < 1 or options.rounds < 1 or options.seconds <= 0:
        parser.error("receivers, rounds and seconds are above 0")
    cases = list(itertools.product(options.sizes, options.codecs, options.receivers))
    report(asyncio.run(measure(cases, options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
