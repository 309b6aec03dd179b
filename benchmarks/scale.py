"""What one node carries: idle connections and their memory, a channel that fills at once, deliveries and latency.

The server has a process of its own, with the engine in memory and the default pings; the clients are in several others,
over loopback. `docs/scaling.md` calculates with the figures.

    python -m benchmarks.scale --idle 10000 --storm 1000
    python -m benchmarks.scale --idle 10000 --storm 100 300 1000 --loop uvloop
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .broadcast import WAYS, Case, Crowd
from .machine import describe_machine
from .signalling import Target

PROCESSES = 4
"""Processes of clients. A process with a quarter of the clients connects and counts faster than a server serves."""

WARM = 200
"""Connections that are made and closed first: what the server allocates once is not a connection's."""

IDLE_TIME = 35.0
"""Seconds over which the CPU time of idle connections is measured: each is pinged at least once."""

QUIET_TIME = 1.0
"""Seconds for a server to see that clients have left."""


class ClientProcess:
    """A process of `benchmarks.scale_clients`."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.scale_clients", str(port), str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of clients has failed")
        return dict(json.loads(line))

    def end(self) -> None:
        """Disconnect all clients."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def running(name: str, loop: str) -> Iterator[Target]:
    """Run a server."""
    target = Target(name, loop)
    try:
        yield target
    finally:
        target.stop()


@contextmanager
def clients(target: Target, count: int) -> Iterator[list[ClientProcess]]:
    """Connect so many clients, from several processes."""
    shares = [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]
    processes = [ClientProcess(target.port, share) for share in shares if share]
    try:
        for process in processes:
            process.hear()
        yield processes
    finally:
        for process in processes:
            process.end()
        time.sleep(QUIET_TIME)


def usage(target: Target) -> tuple[int, float]:
    """Return the resident bytes and the CPU seconds of the server."""
    return asyncio.run(target.usage())


def slab() -> int:
    """Return the bytes of the kernel's own objects on this machine."""
    found = re.search(r"^Slab:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure_idle(target: Target, count: int) -> list[tuple[str, str]]:
    """Return what so many idle connections cost."""
    with clients(target, WARM):
        pass
    before, cpu_before = usage(target)
    slab_before = slab()
    started = time.monotonic()
    with clients(target, count):
        connecting = time.monotonic() - started
        after, cpu_after = usage(target)
        slab_after = slab()
        cpu_idle = target.cpu_seconds()
        time.sleep(IDLE_TIME)
        cpu_idle = target.cpu_seconds() - cpu_idle
    left, _ = usage(target)
    return [
        ("connections", f"{count:,}"),
        ("connected per s", f"{count / connecting:,.0f}"),
        ("CPU of the server for each handshake, ms", f"{(cpu_after - cpu_before) / count * 1_000:.2f}"),
        ("resident before, MB", f"{before / 1e6:.1f}"),
        ("resident with all, MB", f"{after / 1e6:.1f}"),
        ("resident per connection, kB", f"{(after - before) / count / 1e3:.1f}"),
        (
            "kernel objects per connection, both ends and whatever else runs, kB",
            f"{_per(slab_after - slab_before, count)}",
        ),
        ("CPU of the server while idle, s/s", f"{cpu_idle / IDLE_TIME:.4f}"),
        ("and for each connection, µs/s", f"{cpu_idle / IDLE_TIME / count * 1e6:.1f}"),
        ("resident after all have left, MB", f"{left / 1e6:.1f}"),
    ]


def measure_storm(target: Target, count: int, round_: int) -> dict[str, float]:
    """Have all clients join a channel at once, and return what it took."""
    with clients(target, count) as processes:
        cpu = target.cpu_seconds()
        for process in processes:
            process.tell({"channel": f"storm/{count}/{round_}", "peers": count - 1})
        answers = [process.hear() for process in processes]
        return {
            "seconds": max(it["ended"] for it in answers) - min(it["began"] for it in answers),
            "bytes": sum(it["bytes"] for it in answers),
            "cpu": target.cpu_seconds() - cpu,
        }


def measure_deliveries(
    target: Target, case: Case, rounds: int, seconds: float
) -> tuple[dict[str, tuple[float, float]], list[float], int]:
    """Return deliveries per second and per CPU second of each way of publishing, the latencies of one at a time, and
    the bytes of a message on the wire."""
    crowd, found = Crowd(target.port, [case]), {}
    on_wire = crowd.size_of(case)
    for way, under_way in WAYS.items():
        rates, by_cpu = [], []
        for _ in range(rounds):
            cpu = target.cpu_seconds()
            deliveries, took = crowd.fan_out(case, on_wire, under_way, seconds)
            rates.append(deliveries / took)
            by_cpu.append(deliveries / (target.cpu_seconds() - cpu))
        found[way] = statistics.median(rates), statistics.median(by_cpu)
    latencies = crowd.latencies(case, on_wire, 20 * rounds)
    crowd.close()
    return found, latencies, on_wire


def _per(total: int, count: int) -> str:
    return f"{total / count / 1e3:.1f}"


def report_deliveries(
    found: dict[str, tuple[float, float]], latencies: list[float], title: str, console: Console
) -> None:
    """Print a row for each way of publishing; ratios are to the first."""
    cuts = statistics.quantiles(latencies, n=100)
    caption = (
        f"one at a time, from publication to each delivery: p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms"
    )
    table = Table("publishing", "deliveries/s", "ratio", "per CPU s", "ratio", title=title, caption=caption)
    first_rate, first_by_cpu = next(iter(found.values()))
    for way, (rate, by_cpu) in found.items():
        cells = f"{rate:,.0f}", f"{rate / first_rate:.2f}", f"{by_cpu:,.0f}", f"{by_cpu / first_by_cpu:.2f}"
        table.add_row(way, *cells)
    console.print(table)


def report_storms(storms: dict[int, list[dict[str, float]]], console: Console) -> None:
    """Print a row for each size of storm: what is quadratic is divided by the pairs."""
    columns = (
        "clients",
        "s until all know all",
        "of the first row",
        "CPU s",
        "MB received",
        "bytes per pair",
        "CPU µs per pair",
    )
    table = Table(*columns, title="All join one channel at once, medians")
    first = 0.0
    for count, rounds in storms.items():
        took, cpu, size = (statistics.median(it[name] for it in rounds) for name in ("seconds", "cpu", "bytes"))
        first, pairs = first or took, count * (count - 1)
        table.add_row(
            f"{count:,}",
            f"{took:.2f}",
            f"{took / first:.1f}",
            f"{cpu:.2f}",
            f"{size / 1e6:.1f}",
            f"{size / pairs:.0f}",
            f"{cpu / pairs * 1e6:.2f}",
        )
    console.print(table)


def report_idle(rows: Sequence[tuple[str, str]], console: Console) -> None:
    """Print what idle connections cost."""
    table = Table("idle connections", "")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections, 0 for none")
    parser.add_argument("--storm", type=int, nargs="*", default=[100, 300, 1_000], help="clients that join at once")
    parser.add_argument("--receivers", type=int, default=1_000, help="receivers of messages, 0 for none")
    parser.add_argument("--size", type=int, default=256, help="bytes of a message's payload as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round of deliveries")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < max(options.idle, options.receivers, *options.storm) + 100:
        parser.error(f"the server needs a file descriptor for each connection, and may have {hard}: ulimit -n")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"{describe_machine()}, loop {options.loop}")
    if options.receivers:
        with running("ours", options.loop) as target:  # whose clients need not answer pings
            case = Case(options.receivers, options.size)
            deliveries, latencies, on_wire = measure_deliveries(target, case, options.rounds, options.seconds)
        report_deliveries(
            deliveries, latencies, f"{case.size} bytes, {on_wire} on the wire, to {case.receivers:,}", console
        )
    with running("present", options.loop) as target:
        storms: dict[int, list[dict[str, float]]] = {}
        for count in options.storm:
            storms[count] = [measure_storm(target, count, number) for number in range(options.rounds)]
    if storms:
        report_storms(storms, console)
    if options.idle:
        with running("present", options.loop) as target:  # a fresh one: what others have freed is not reused
            report_idle(measure_idle(target, options.idle), console)


if __name__ == "__main__":
    main()
