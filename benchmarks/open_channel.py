"""From `PeerJoined` to an open data channel, beside two bare RTCPeerConnections wired directly.

Two peers in one process, host candidates only. The polite and the impolite end take turns at opening. Bare connections
are measured in the same loop, alternating, so that load on the machine hits both alike.

    python -m benchmarks.open_channel --runs 20
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable

from aiortc import RTCConfiguration, RTCPeerConnection
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metered_realtime import DataChannel, DCOpen, MeteredPeer, PeerJoined, RemotePeer
from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits

CASES = ("polite end opens", "impolite end opens", "bare aiortc")


async def peers(server: SignallingServer, opener: str) -> float:
    """Return the seconds from the opener's `PeerJoined` to its open channel."""
    ids = {"polite": ("a", "b"), "impolite": ("b", "a")}[opener]
    opening = MeteredPeer(token_provider=lambda: server.mint_token(peer_id=ids[0]), url=server.url)
    other = MeteredPeer(token_provider=lambda: server.mint_token(peer_id=ids[1]), url=server.url)
    took: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    @opening.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        _open(event.peer, time.perf_counter(), took)

    async with opening, other:
        await opening.join("room")
        await other.join("room")
        async with asyncio.timeout(10):
            return await took


def _open(remote: RemotePeer, started: float, took: asyncio.Future[float]) -> None:
    channel = DataChannel(remote.create_data_channel("bench"))
    channel.on(DCOpen, lambda _: took.set_result(time.perf_counter() - started))


async def bare() -> float:
    """Return the seconds from creating an offer to an open channel, descriptions handed over directly."""
    one, other = RTCPeerConnection(RTCConfiguration(iceServers=[])), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    started = time.perf_counter()
    opened = asyncio.Event()
    channel = one.createDataChannel("bench")
    channel.on("open", opened.set)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    await opened.wait()
    took = time.perf_counter() - started
    await asyncio.gather(one.close(), other.close())
    return took


async def measure(runs: int) -> dict[str, list[float]]:
    """Run every case in turn, once to warm up and then `runs` times."""
    results: dict[str, list[float]] = {case: [] for case in CASES}
    async with SignallingServer(limits=Limits(connects_per_address=100_000)) as server:
        cases: dict[str, Callable[[], Awaitable[float]]] = {
            CASES[0]: lambda: peers(server, "polite"),
            CASES[1]: lambda: peers(server, "impolite"),
            CASES[2]: bare,
        }
        for run in track(range(runs + 1), description="open channels"):
            for name, case in cases.items():
                gc.collect()
                took = await case()
                if run:
                    results[name].append(took)
    return results


def report(results: dict[str, list[float]]) -> None:
    """Print p50 and p95, and how they compare with the bare connections."""
    table = Table("case", "p50 ms", "p95 ms", "p50 / bare", title=f"Open data channel, {len(results[CASES[0]])} runs")
    base = statistics.median(results["bare aiortc"])
    for name, values in results.items():
        p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
        p50 = statistics.median(values)
        table.add_row(name, f"{p50 * 1000:.1f}", f"{p95 * 1000:.1f}", f"{p50 / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    report(asyncio.run(measure(parser.parse_args().runs)))
