"""How soon somebody who comes late sees a picture, and how well everybody does when packets are lost.

A Python peer sends 640x480@30 to another one all the time. Then newcomers join, Python and Chromium in turn: the time
is that from the connection being up, at the sender, to the first decoded picture, and from `join()` on. While a
newcomer receives, every 20th datagram to him is lost by chance for some seconds. Pictures that he shows meanwhile are
counted, and the longest gap between two of them is measured, and that after the losses.

    python -m benchmarks.late_joiner --runs 10
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from playwright.async_api import Page
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tests.support.browsers import Chromium

from metered_realtime import MediaStream, MeteredPeer, PeerJoined, RemotePeer, StateChange, Track, iter_frames
from metered_realtime.aiortc_compat.transports import selected_pair
from metered_realtime.media.sources.testsource import PatternTrack
from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits

PATIENCE = 20.0
"""Seconds that a run may take."""

SETTLED = 1.0
"""Seconds of undisturbed media before the losses, and after them."""

FPS = 30


@dataclass
class Figures:
    """What one newcomer saw: seconds, and pictures shown of those sent while packets were lost."""

    since_connected: float
    since_join: float
    shown: float
    longest_gap: float
    recovery: float


class Newcomer(Protocol):
    """Somebody who joins late. Times are on the clock of `time.perf_counter`."""

    async def join(self) -> float: ...
    async def shown(self) -> list[float]: ...
    async def leave(self) -> None: ...


class PythonNewcomer:
    """A `MeteredPeer` that reads what it is sent."""

    def __init__(self, server: SignallingServer) -> None:
        self._times: list[float] = []
        self._peer = MeteredPeer(api_key=server.api_key, url=server.url)
        self._peer.on(PeerJoined, lambda event: self._watch(event.peer))

    def _watch(self, remote: RemotePeer) -> None:
        @remote.on(Track)
        async def _(event: Track) -> None:
            async for _ in iter_frames(event.track):
                self._times.append(time.perf_counter())

    async def join(self) -> float:
        started = time.perf_counter()
        await self._peer.join("bench")
        return started

    async def shown(self) -> list[float]:
        return list(self._times)

    async def leave(self) -> None:
        await self._peer.close()


PREPARE = """() => {
  const heard = new AbortController();
  const bench = (window.bench = { times: [], stop: () => heard.abort() });
  room.addEventListener("track", async ({ detail: { track } }) => {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      bench.times.push(performance.now());
      value.close();
    }
  }, { signal: heard.signal });
  bench.join = async () => {
    const started = performance.now();
    await room.join({ channel: "bench", name: "page", media: "none" });
    return started;
  };
}"""


class PageNewcomer:
    """The room page in a browser, its tab kept from run to run."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._offset = 0.0

    async def prepare(self) -> None:
        """Watch the pictures, and compare the clocks."""
        await self._page.evaluate(PREPARE)
        best = float("inf")
        for _ in range(10):
            asked = time.perf_counter()
            theirs = await self._page.evaluate("performance.now() / 1000")
            answered = time.perf_counter()
            if answered - asked < best:
                best, self._offset = answered - asked, (asked + answered) / 2 - theirs

    async def join(self) -> float:
        return float(await self._page.evaluate("bench.join()")) / 1000 + self._offset

    async def shown(self) -> list[float]:
        return [it / 1000 + self._offset for it in await self._page.evaluate("bench.times")]

    async def leave(self) -> None:
        await self._page.evaluate("async () => { bench.stop(); await room.leave(); }")


class Sender:
    """The peer that sends, and to whom."""

    def __init__(self, server: SignallingServer) -> None:
        self.peer = MeteredPeer(api_key=server.api_key, url=server.url)
        self._track = PatternTrack(width=640, height=480, fps=FPS)
        self._connected: dict[str, asyncio.Future[float]] = {}
        self.remotes: list[RemotePeer] = []
        self.peer.add_stream(MediaStream([self._track]))
        self.peer.on(PeerJoined, lambda event: self._watch(event.peer))

    def _watch(self, remote: RemotePeer) -> None:
        self.remotes.append(remote)
        connected = self._connected[remote.id] = asyncio.get_running_loop().create_future()

        @remote.on(StateChange)
        def _(event: StateChange) -> None:
            if event.to == "connected" and not connected.done():
                connected.set_result(time.perf_counter())

    async def connected(self, remote: RemotePeer) -> float:
        """Return when the connection to a remote came up."""
        return await self._connected[remote.id]

    async def close(self) -> None:
        await self.peer.close()
        self._track.stop()


async def lose(remote: RemotePeer, share: float, seconds: float, chance: random.Random) -> tuple[float, float]:
    """Lose a part of the datagrams to a remote. Return when that began and ended."""
    protocol = selected_pair(remote.pc).protocol
    send = protocol.send_data

    async def send_or_lose(data: bytes, address: Any) -> None:
        if chance.random() >= share:
            await send(data, address)

    began = time.perf_counter()
    protocol.send_data = send_or_lose
    await asyncio.sleep(seconds)
    protocol.send_data = send
    return began, time.perf_counter()


async def measure(sender: Sender, newcomer: Newcomer, share: float, seconds: float, chance: random.Random) -> Figures:
    """Let a newcomer join, disturb him, and let him leave."""
    before = len(sender.remotes)
    try:
        async with asyncio.timeout(PATIENCE + seconds):
            joined = await newcomer.join()
            while len(sender.remotes) == before or not await newcomer.shown():  # noqa: ASYNC110 - a page is asked
                await asyncio.sleep(0.05)
            remote = sender.remotes[-1]
            connected = await sender.connected(remote)
            await asyncio.sleep(SETTLED)
            began, ended = await lose(remote, share, seconds, chance)
            await asyncio.sleep(SETTLED)
            times = await newcomer.shown()
    finally:
        await newcomer.leave()
    disturbed = [it for it in times if began <= it <= ended]
    after = [it for it in times if it > ended]
    edges = [began, *disturbed, *after[:1]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(edges)]
    return Figures(
        times[0] - connected,
        times[0] - joined,
        len(disturbed) / (FPS * seconds),
        max(gaps),
        after[0] - ended if after else float("inf"),
    )


async def run_all(runs: int, share: float, seconds: float, *, browser: bool) -> dict[str, list[Figures]]:
    """Let newcomers of each kind come in turn."""
    chance = random.Random(1)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SignallingServer(limits=Limits(connects_per_address=100_000)))
        page = None
        if browser:
            chromium = await stack.enter_async_context(Chromium())
            page = await chromium.page(server.http_url)
            await page.wait_for_selector("html[data-ready=true]")
        sender = Sender(server)
        stack.push_async_callback(sender.close)
        await sender.peer.join("bench")
        resident = PythonNewcomer(server)
        stack.push_async_callback(resident.leave)
        await resident.join()
        results: dict[str, list[Figures]] = {"Python": []} | ({"Chromium": []} if page is not None else {})
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        bar = progress.add_task("late joiners", total=runs * len(results))
        for _ in range(runs):
            results["Python"].append(await measure(sender, PythonNewcomer(server), share, seconds, chance))
            progress.advance(bar)
            if page is not None:
                newcomer = PageNewcomer(page)
                await newcomer.prepare()
                results["Chromium"].append(await measure(sender, newcomer, share, seconds, chance))
                progress.advance(bar)
    return results


def report(results: dict[str, list[Figures]], share: float, seconds: float) -> None:
    """Print the medians and the worst."""
    table = Table("", "Python", "worst", *(("Chromium", "worst") if "Chromium" in results else ()))
    table.title = f"Newcomers; {share:.0%} loss for {seconds:g} s; {len(results['Python'])} runs"
    rows = (
        ("first picture after connected, ms", "since_connected", 1_000, max),
        ("first picture after join(), ms", "since_join", 1_000, max),
        ("pictures shown while packets are lost, %", "shown", 100, min),
        ("longest gap then, ms", "longest_gap", 1_000, max),
        ("next picture after the last loss, ms", "recovery", 1_000, max),
    )
    for label, name, factor, worst in rows:
        cells = []
        for figures in results.values():
            values = [getattr(it, name) * factor for it in figures]
            cells += [f"{statistics.median(values):.0f}", f"{worst(values):.0f}"]
        table.add_row(label, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--loss", type=float, default=0.05, help="part of the datagrams, from 0 to 1")
    parser.add_argument("--seconds", type=float, default=4.0, help="for which they are lost in each run")
    parser.add_argument("--no-browser", action="store_true", help="leave Chromium out")
    options = parser.parse_args()
    if options.runs < 1 or not 0 <= options.loss < 1 or options.seconds <= 0:
        parser.error("runs and seconds are above 0, loss is below 1")
    browser = not options.no_browser and Chromium.executable() is not None
    if not browser:
        print("Without Chromium: its newcomers are left out.")
    report(
        asyncio.run(run_all(options.runs, options.loss, options.seconds, browser=browser)),
        options.loss,
        options.seconds,
    )


if __name__ == "__main__":
    main()
