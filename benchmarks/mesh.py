"""A full mesh of data channels in one process, beside bare `RTCPeerConnection`s wired directly.

Every link gets a channel that one end opens, and a message each way. Each mesh is formed by a process of its own, so
that memory is its own, and the two kinds take turns. The signalling server of ours runs in this process, which is
otherwise idle: its CPU time stands apart.

    python -m benchmarks.mesh --peers 4 8 12 --rounds 5 --idle 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.mesh_sides import SIDES, pairs_of
from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits

Figures = dict[str, list[dict[str, float]]]
"""What was measured of each side, in the order of the rounds."""


async def run(side: str, server: SignallingServer, peers: int, idle: float) -> dict[str, float]:
    """Form one mesh in a process of its own."""
    cpu = time.process_time()
    tokens = [server.mint_token(peer_id=f"p{number:03}") for number in range(peers)]
    task = json.dumps({"url": server.url, "tokens": tokens, "idle": idle})
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.mesh_sides",
        side,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate(task.encode() + b"\n")
    if child.returncode:
        raise SystemExit(f"the mesh of {peers} was not formed: {side}")
    result: dict[str, float] = json.loads(output)
    return result | {"server": time.process_time() - cpu}


async def measure(sizes: list[int], rounds: int, idle: float) -> dict[int, Figures]:
    """Form every mesh so many times, the sides taking turns."""
    figures: dict[int, Figures] = {peers: {side: [] for side in SIDES} for peers in sizes}
    limits = Limits(connects_per_address=100_000)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("meshes", total=len(sizes) * rounds * len(SIDES))
        async with SignallingServer(limits=limits) as server:
            for number in range(rounds):
                for peers in sizes:
                    for side in sorted(SIDES, reverse=number % 2 == 0):
                        progress.update(bar, description=f"{side}, {peers} peers")
                        figures[peers][side].append(await run(side, server, peers, idle))
                        progress.advance(bar)
    return figures


ROWS: list[tuple[str, str, Callable[[float, int], float], str]] = [
    # (what, name, value from the figure and the number of links, format)
    ("until complete, s", "seconds", lambda value, links: value, ".3f"),
    ("CPU, s", "cpu", lambda value, links: value, ".3f"),
    ("CPU per link, ms", "cpu", lambda value, links: value / links * 1_000, ".2f"),
    ("memory per link, kB", "memory", lambda value, links: value / links / 1_000, ".0f"),
    ("idle CPU per link, %", "idle", lambda value, links: value / links * 100, ".4f"),
]


def report(peers: int, figures: Figures) -> None:
    """Print the medians, and ours against bare aiortc."""
    links = pairs_of(peers)
    server = statistics.median(it["server"] for it in figures["ours"])
    title = f"{peers} peers, {links} links, {len(figures['ours'])} rounds"
    caption = f"CPU of the signalling server, process start to end: {server:.2f} s"
    columns = ("what", "metered_realtime", "bare aiortc", "ours / bare", "by round")
    table = Table(*columns, title=title, caption=caption)
    for label, name, convert, form in ROWS:
        ours, bare = ([convert(it[name], links) for it in figures[side]] for side in ("ours", "bare"))
        ratios = [one / other for one, other in zip(ours, bare, strict=True) if other > 0]
        each = f"{min(ratios):.2f} - {max(ratios):.2f}" if ratios else "-"
        mine, theirs = statistics.median(ours), statistics.median(bare)
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        table.add_row(label, f"{mine:{form}}", f"{theirs:{form}}", ratio, each)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[12], help="sizes of the meshes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds over which the idle CPU time is taken")
    options = parser.parse_args()
    if min(options.peers) < 2 or options.rounds < 1 or options.idle <= 0:
        parser.error("a mesh has two peers or more; rounds and idle seconds are above 0")
    # Inherited by the children: a bare connection has a socket for each address, and there are two to a link.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for peers, figures in asyncio.run(measure(options.peers, options.rounds, options.idle)).items():
        report(peers, figures)


if __name__ == "__main__":
    main()
