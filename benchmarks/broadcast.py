"""Fan-out alone: this server, `websockets.broadcast` and picows, each on asyncio's event loop and on uvloop.

Each server has a process of its own. The load comes from this one, over loopback, by an epoll loop that counts bytes
and parses nothing. Two ways of publishing, which take turns with the servers:

- one at a time: the next message is published when everybody has the last one, so that no two can be joined;
- eight at once: eight publishers have one message under way each.

Latency is measured at a pace that leaves every server idle between two messages. Ratios are of medians, and to
`websockets.broadcast` on asyncio in the same run; picows and uvloop are left out if they are not installed.

    python -m benchmarks.broadcast           # about four minutes
    python -m benchmarks.broadcast --quick   # about half a minute
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import select
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from .machine import describe_machine
from .signalling import DIALS, UPGRADE, Target, frame

SERVERS = {"ours": "this server", "bare": "websockets.broadcast", "picows": "picows"}
LOOPS = ("asyncio", "uvloop")
BASE = ("bare", "asyncio")

PUBLISHERS = 8
WAYS = {"one at a time": 1, "eight at once": PUBLISHERS}

PAUSE = 0.01
"""Seconds between the last delivery of a message and the next message, when latency is measured."""

PATIENCE = 30.0
"""Seconds without any byte after which a message is lost, and the benchmark fails."""

READ_SIZE = 1 << 18

Contender = tuple[str, str]
"""Server and loop."""


@dataclass(frozen=True)
class Case:
    """What is published, and to how many."""

    receivers: int
    size: int

    @property
    def message(self) -> bytes:
        """The frame of a publisher: the payload has this size as JSON, with its quotes."""
        return frame(type="publish", channel=self.channel, data="x" * (self.size - 2))

    @property
    def channel(self) -> str:
        """The channel of those receivers."""
        return f"stage/{self.receivers}"


@dataclass
class Figures:
    """What was measured of one contender in one case, a value per round."""

    rate: list[float] = field(default_factory=list)
    by_cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Crowd:
    """The clients of one server. The first `n` receivers are in the channel of each case with `n` receivers."""

    def __init__(self, port: int, cases: Sequence[Case]) -> None:
        self._epoll = select.epoll()
        self._buffer = bytearray(READ_SIZE)
        self._sockets = {}
        self.publishers = self._open(port, PUBLISHERS)
        self.receivers = self._open(port, max(case.receivers for case in cases))
        for receivers in {case.receivers for case in cases}:
            for receiver in self.receivers[:receivers]:
                receiver.sendall(frame(type="subscribe", channel=Case(receivers, 0).channel))
            for receiver in self.receivers[:receivers]:
                _read_until(receiver, b'"ack"')
        self._is_receiver = {it.fileno() for it in self.receivers}

    def close(self) -> None:
        """Disconnect all."""
        for it in self._sockets.values():
            it.close()
        self._epoll.close()

    def size_of(self, case: Case) -> int:
        """Return the bytes that one message is to a receiver."""
        self.publishers[0].sendall(case.message)
        first = self.receivers[0].recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
        size = 2 + first[1] if first[1] < 126 else 4 + int.from_bytes(first[2:4])
        left = size * case.receivers
        while left:
            left -= sum(got for _, got in self._receive())
        return size

    def fan_out(self, case: Case, size: int, under_way: int, seconds: float) -> tuple[int, float]:
        """Publish with so many messages under way. Return the deliveries and the seconds that they took."""
        message, whole = case.message, size * case.receivers
        turn = itertools.cycle(self.publishers[:under_way])
        started = time.perf_counter()
        sent = total = 0
        while True:
            if time.perf_counter() - started < seconds:
                while sent - total // whole < under_way:
                    next(turn).sendall(message)
                    sent += 1
            if total >= sent * whole:
                return sent * case.receivers, time.perf_counter() - started
            total += sum(got for _, got in self._receive())

    def latencies(self, case: Case, size: int, count: int) -> list[float]:
        """Return the seconds from each of so many publications to each of its deliveries."""
        took: list[float] = []
        for _ in range(count):
            left = size * case.receivers
            sent_at = time.perf_counter()
            self.publishers[0].sendall(case.message)
            while left:
                for at, got in self._receive():
                    took.append(at - sent_at)
                    left -= got
            time.sleep(PAUSE)
        return took

    def _receive(self) -> list[tuple[float, int]]:
        """Wait for data. Return when each receiver had some, and its size."""
        ready = self._epoll.poll(PATIENCE)
        if not ready:
            raise SystemExit("a message is lost")
        got, clock, buffer, sockets, is_receiver = [], time.perf_counter, self._buffer, self._sockets, self._is_receiver
        for fd, _ in ready:
            size = sockets[fd].recv_into(buffer)
            if not size:
                raise SystemExit("a server has closed a connection")
            if fd in is_receiver:
                got.append((clock(), size))
        return got

    def _open(self, port: int, count: int) -> list[socket.socket]:
        made: list[socket.socket] = []
        while len(made) < count:
            batch = [socket.create_connection(("127.0.0.1", port)) for _ in range(min(DIALS, count - len(made)))]
            for it in batch:
                it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                it.sendall(UPGRADE)
            for it in batch:
                _read_until(it, b'"maxMessageSize":65536')
                self._sockets[it.fileno()] = it
                self._epoll.register(it, select.EPOLLIN)
            made += batch
        return made


def _read_until(connection: socket.socket, text: bytes) -> None:
    seen = b""
    while text not in seen:
        got = connection.recv(READ_SIZE)
        if not got:
            raise SystemExit("a server has closed a connection")
        seen += got


Results = dict[tuple[Contender, Case, str], Figures]


def measure(contenders: Sequence[Contender], cases: Sequence[Case], rounds: int, seconds: float, paced: int) -> Results:
    """Measure all contenders, in turns."""
    targets = {contender: Target(*contender) for contender in contenders}
    results: Results = defaultdict(Figures)
    crowds: dict[Contender, Crowd] = {}
    try:
        for contender, target in targets.items():
            crowds[contender] = Crowd(target.port, cases)
        sizes = {(contender, case): crowds[contender].size_of(case) for contender in contenders for case in cases}
        gc.collect()
        gc.freeze()
        for number, case, (way, under_way) in itertools.product(range(rounds), cases, WAYS.items()):
            for contender in contenders if number % 2 == 0 else contenders[::-1]:
                crowd, figures = crowds[contender], results[contender, case, way]
                size = sizes[contender, case]
                before = targets[contender].cpu_seconds()
                deliveries, took = crowd.fan_out(case, size, under_way, seconds)
                figures.rate.append(deliveries / took)
                figures.by_cpu.append(deliveries / (targets[contender].cpu_seconds() - before))
                if under_way == 1:
                    figures.latencies += crowd.latencies(case, size, paced)
    finally:
        for crowd in crowds.values():
            crowd.close()
        for target in targets.values():
            target.stop()
    return results


def report(results: Results, contenders: Sequence[Contender], cases: Sequence[Case], console: Console) -> None:
    """Print a table for each way."""
    for way, under_way in WAYS.items():
        columns = ["receivers", "bytes", "server", "loop", "deliveries/s", "ratio", "per CPU s", "ratio", "by round"]
        if under_way == 1:
            columns += ["p50 ms", "p99 ms"]
        table = Table(*columns, title=f"Fan-out, {way}")
        for case in cases:
            base = results[BASE, case, way]
            for contender in contenders:
                table.add_row(*_row(case, contender, results[contender, case, way], base))
            table.add_section()
        console.print(table)


def _row(case: Case, contender: Contender, figures: Figures, base: Figures) -> list[str]:
    rate, by_cpu = statistics.median(figures.rate), statistics.median(figures.by_cpu)
    each = [one / other for one, other in zip(figures.by_cpu, base.by_cpu, strict=True)]
    cells = [f"{case.receivers:,}", f"{case.size:,}", SERVERS[contender[0]], contender[1]]
    cells += [f"{rate:,.0f}", f"{rate / statistics.median(base.rate):.2f}"]
    cells += [f"{by_cpu:,.0f}", f"{by_cpu / statistics.median(base.by_cpu):.2f}", f"{min(each):.2f}–{max(each):.2f}"]
    if figures.latencies:
        cuts = statistics.quantiles(figures.latencies, n=100)
        cells += [f"{cuts[49] * 1_000:.2f}", f"{cuts[98] * 1_000:.2f}"]
    return cells


def installed(servers: Sequence[str], loops: Sequence[str]) -> list[Contender]:
    """Return the contenders whose libraries are installed, the base always among them."""
    servers = [it for it in SERVERS if it in servers and (it != "picows" or find_spec("picows"))]
    loops = [it for it in LOOPS if it in loops and (it != "uvloop" or find_spec("uvloop"))]
    return list(dict.fromkeys([*itertools.product(servers, loops), BASE]))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--receivers", nargs="+", type=int, default=[100, 1_000])
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 1_024], help="bytes of the payload as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each server, case, way and round")
    parser.add_argument("--json", action="store_true", help="print the medians of ratios by CPU time as JSON, too")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    contenders = installed(options.servers, options.loops)
    if hard < len(contenders) * (max(options.receivers) + PUBLISHERS) + 100:
        parser.error(f"this process may have {hard} file descriptors, and needs one for each client of each server")
    cases = [Case(*it) for it in itertools.product(options.receivers, options.sizes)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(describe_machine())
    results = measure(contenders, cases, options.rounds, options.seconds, paced=10 if options.quick else 30)
    report(results, contenders, cases, console)
    if options.json:
        ratios = {
            f"{'/'.join(contender)} {case.receivers}x{case.size} {way}": round(
                statistics.median(figures.by_cpu) / statistics.median(results[BASE, case, way].by_cpu), 3
            )
            for (contender, case, way), figures in results.items()
        }
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
