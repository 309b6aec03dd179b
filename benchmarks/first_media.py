"""From `join()` to an open data channel and to the first decoded picture, beside two bare RTCPeerConnections.

One end sends video and opens a channel as soon as it hears of the other, which receives. The clock starts when whoever
joins second calls `join`, with the other one in the channel already. It stops when the channel is open at the sender,
and when the receiver has decoded a picture: in Python `recv()` returns it, in Chromium a MediaStreamTrackProcessor.

Python ends are `MeteredPeer`s of this process, as is the signalling server; the browser end is the project's own room
page. What happens in the page is timed there with `performance.now()` and converted by the offset between both clocks,
which is asked for in each run and is good for about a millisecond. The cases take turns, so that load on the machine
hits all alike. The bare connections have no server to join: their clock starts with the offer.

    python -m benchmarks.first_media --runs 20
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

from aiortc import RTCConfiguration, RTCPeerConnection
from playwright.async_api import Page
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tests.support.browsers import Chromium

from metered_realtime import DataChannel, DCOpen, MediaStream, MeteredPeer, PeerJoined, RemotePeer, Track
from metered_realtime.media.sources.testsource import PatternTrack
from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits

PATIENCE = 20.0
"""Seconds that a run may take."""

IDS = {"polite": "!python", "impolite": "~python"}
"""Ids that sort before and after every id that the server gives a page: the smaller one is polite."""

PICTURE = {"width": 320, "height": 240, "fps": 30}
BARE = "bare aiortc"

Times = tuple[float, float]
"""Seconds to the open channel and to the first picture."""


class End(Protocol):
    """One of the two. What it tells is on the clock of `time.perf_counter`."""

    async def join(self) -> float:
        """Join, and return when that began."""

    async def opened(self) -> float:
        """Return when the channel that this end opened was open."""

    async def framed(self) -> float:
        """Return when the first picture was decoded here."""

    async def leave(self) -> None:
        """Leave the channel."""


class PythonEnd:
    """A `MeteredPeer`."""

    def __init__(self, server: SignallingServer, peer_id: str, *, sends: bool) -> None:
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[float] = loop.create_future()
        self._framed: asyncio.Future[float] = loop.create_future()
        self._peer = MeteredPeer(token_provider=lambda: server.mint_token(peer_id=peer_id), url=server.url)
        self._picture = PatternTrack(**PICTURE) if sends else None
        if self._picture is not None:
            self._peer.add_stream(MediaStream([self._picture]))
        self._peer.on(PeerJoined, lambda event: (self._open if sends else self._watch)(event.peer))

    def _open(self, remote: RemotePeer) -> None:
        channel = DataChannel(remote.create_data_channel("bench"))
        channel.on(DCOpen, lambda _: self._opened.set_result(time.perf_counter()))

    def _watch(self, remote: RemotePeer) -> None:
        @remote.on(Track)
        async def _(event: Track) -> None:
            await event.track.recv()
            self._framed.set_result(time.perf_counter())

    async def join(self) -> float:
        started = time.perf_counter()
        await self._peer.join("bench")
        return started

    async def opened(self) -> float:
        return await self._opened

    async def framed(self) -> float:
        return await self._framed

    async def leave(self) -> None:
        await self._peer.close()
        if self._picture is not None:
            self._picture.stop()


PREPARE = """([sends, { width, height, fps }]) => {
  const heard = new AbortController();
  const options = { signal: heard.signal };
  const bench = (window.bench = { stop: () => heard.abort() });
  bench.framed = new Promise((resolve) => {
    room.addEventListener("track", async ({ detail: { track } }) => {
      const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
      const { value } = await reader.read();
      resolve(performance.now());
      value.close();
      reader.cancel();
    }, options);
  });
  bench.join = () => {
    bench.started = performance.now();
    return room.join({ channel: "bench", name: "page", media: "none" });
  };
  if (!sends) return;
  bench.opened = new Promise((resolve) => {
    room.addEventListener("peerjoined", async ({ detail: { peerId } }) => {
      await room.openChannel(peerId, "bench").opened();
      resolve(performance.now());
    }, options);
  });
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  const timer = setInterval(() => context.fillRect(Math.random() * width, Math.random() * height, 9, 9), 1000 / fps);
  heard.signal.addEventListener("abort", () => clearInterval(timer));
  room.addStream(canvas.captureStream(fps), { name: "page" });
}"""


class PageEnd:
    """The room page in a browser, its tab kept from run to run."""

    def __init__(self, page: Page, *, sends: bool) -> None:
        self._page = page
        self._sends = sends
        self._offset = 0.0

    async def prepare(self) -> None:
        """Give the room something to send and compare the clocks."""
        await self._page.evaluate(PREPARE, [self._sends, PICTURE])
        best = float("inf")
        for _ in range(10):
            asked = time.perf_counter()
            theirs = await self._page.evaluate("performance.now() / 1000")
            answered = time.perf_counter()
            if answered - asked < best:
                best = answered - asked
                self._offset = (asked + answered) / 2 - theirs

    async def join(self) -> float:
        return await self._time("bench.join().then(() => bench.started)")

    async def opened(self) -> float:
        return await self._time("bench.opened")

    async def framed(self) -> float:
        return await self._time("bench.framed")

    async def leave(self) -> None:
        await self._page.evaluate("async () => { bench.stop(); await room.leave(); }")

    async def _time(self, expression: str) -> float:
        return float(await self._page.evaluate(expression)) / 1000 + self._offset


async def measure(sender: End, receiver: End, *, sender_last: bool) -> Times:
    """Bring both into the channel and return what was measured from the second one's `join` on."""
    first, second = (receiver, sender) if sender_last else (sender, receiver)
    try:
        async with asyncio.timeout(PATIENCE):
            await first.join()
            started, opened, framed = await asyncio.gather(second.join(), sender.opened(), receiver.framed())
    finally:
        await asyncio.gather(sender.leave(), receiver.leave())
    return opened - started, framed - started


async def python_to_python(server: SignallingServer, role: str, *, sender_last: bool) -> Times:
    """Measure two Python ends. The role is the sender's."""
    other = "impolite" if role == "polite" else "polite"
    sender = PythonEnd(server, IDS[role], sends=True)
    return await measure(sender, PythonEnd(server, IDS[other], sends=False), sender_last=sender_last)


async def python_to_page(server: SignallingServer, page: Page, role: str, *, sender_last: bool) -> Times:
    """Measure a Python sender and the page. The role is Python's."""
    receiver = PageEnd(page, sends=False)
    await receiver.prepare()
    return await measure(PythonEnd(server, IDS[role], sends=True), receiver, sender_last=sender_last)


async def page_to_python(server: SignallingServer, page: Page, role: str, *, sender_last: bool) -> Times:
    """Measure the page as sender and a Python receiver. The role is the page's."""
    other = "impolite" if role == "polite" else "polite"
    sender = PageEnd(page, sends=True)
    await sender.prepare()
    return await measure(sender, PythonEnd(server, IDS[other], sends=False), sender_last=sender_last)


async def bare() -> Times:
    """Measure two connections in this process, descriptions handed over directly."""
    one, other = RTCPeerConnection(RTCConfiguration(iceServers=[])), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    picture = PatternTrack(**PICTURE)
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[float] = loop.create_future()
    framed: asyncio.Future[float] = loop.create_future()

    @other.on("track")
    async def _(track: Any) -> None:
        await track.recv()
        framed.set_result(time.perf_counter())

    one.addTrack(picture)
    channel = one.createDataChannel("bench")
    channel.on("open", lambda: opened.set_result(time.perf_counter()))
    started = time.perf_counter()
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    async with asyncio.timeout(PATIENCE):
        result = await opened - started, await framed - started
    await asyncio.gather(one.close(), other.close())
    picture.stop()
    return result


Case = Callable[[], Awaitable[Times]]
Name = tuple[str, str, str]
"""From and to, the sender's role, who joins second."""


def cases(server: SignallingServer, page: Page | None) -> dict[Name, Case]:
    """Return everything that is to be measured. Without a page that is Python only."""
    made: dict[Name, Case] = {}

    def add(label: str, run: Callable[..., Awaitable[Times]], *arguments: Any) -> None:
        for role, last in itertools.product(IDS, (True, False)):
            second = "sender" if last else "receiver"
            made[label, role, second] = lambda role=role, last=last: run(*arguments, role, sender_last=last)

    add("Python to Python", python_to_python, server)
    if page is not None:
        add("Python to Chromium", python_to_page, server, page)
        add("Chromium to Python", page_to_python, server, page)
    made[BARE, "-", "-"] = bare
    return made


async def run_all(runs: int, *, browser: bool) -> dict[Name, list[Times]]:
    """Run every case in turn, once to warm up and then `runs` times."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SignallingServer(limits=Limits(connects_per_address=100_000)))
        page = None
        if browser:
            chromium = await stack.enter_async_context(Chromium())
            page = await chromium.page(server.http_url)
            await page.wait_for_selector("html[data-ready=true]")
        todo = cases(server, page)
        results: dict[Name, list[Times]] = {name: [] for name in todo}
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        bar = progress.add_task("first media", total=len(todo) * (runs + 1))
        for run in range(runs + 1):
            for name, case in todo.items():
                progress.update(bar, description=" ".join(name))
                gc.collect()
                took = await case()
                if run:
                    results[name].append(took)
                progress.advance(bar)
    return results


def report(results: dict[Name, list[Times]]) -> None:
    """Print p50 and p95 in milliseconds, and how the p50 compare with the bare connections."""
    table = Table(title=f"From join() on, {len(results[BARE, '-', '-'])} runs, ms")
    for name in ("from, to", "sender is", "joins second"):
        table.add_column(name)
    for name in ("channel p50", "p95", "/ bare", "picture p50", "p95", "/ bare"):
        table.add_column(name, justify="right")
    base = [statistics.median(values) for values in zip(*results[BARE, "-", "-"], strict=True)]
    for name, times in results.items():
        cells: list[str] = []
        for values, bare_p50 in zip(zip(*times, strict=True), base, strict=True):
            p50 = statistics.median(values)
            p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
            cells += [f"{p50 * 1000:.1f}", f"{p95 * 1000:.1f}", f"{p50 / bare_p50:.2f}"]
        table.add_row(*name, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--no-browser", action="store_true", help="leave Chromium out")
    options = parser.parse_args()
    if options.runs < 2:
        parser.error("two runs are needed for quantiles")
    browser = not options.no_browser and Chromium.executable() is not None
    if not browser:
        print("Without Chromium: its cases are left out.")
    report(asyncio.run(run_all(options.runs, browser=browser)))


if __name__ == "__main__":
    main()
