"""How well an encoder is seen through the bridge: FFmpeg's WHIP client, two browsers in the channel, and a WHEP player.

FFmpeg publishes 640x480@25 in H.264, each picture with its number, and Opus with a click when a second begins. Two room
pages in Chromium receive it from the channel; a third page plays it by WHEP. In each page the numbers of the pictures
are read as they are rendered, and the clicks as they are played. Told are the share of the pictures that were shown,
how far click and picture of the same moment are apart, how soon the player has its first picture, and what the bridge
costs: then a player of the mixed room is added.

    python -m benchmarks.whip --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError
from playwright.async_api import Page
from rich.console import Console
from rich.table import Table
from tests.bridge.certificates import p256
from tests.bridge.whip_whep import client_page, client_site, is_installed
from tests.support.browsers import Chromium, until

from metered_realtime import Bridge, BridgeSessionClosed, MeteredPeer, PeerJoined, Track, iter_frames
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.server import SignallingServer

from .whip_source import FPS

LEAST_SHOWN = 0.98
"""Share of the pictures that a browser has to show from its first one on."""

MOST_APART = 0.08
"""Seconds between sound and picture of the same moment at the most."""

LOUD = 4_000
"""Level of a click, of 32,767."""

FIRST_PICTURE = 1.0
"""Seconds within which a player has to show a picture."""

WORKER = """
const numberOf = async (frame) => {
  const { height, width } = frame.visibleRect;
  const pixels = new Uint8Array(frame.allocationSize());
  const [{ offset, stride }] = await frame.copyTo(pixels);
  const y = height - Math.max(1, Math.floor(Math.max(16, Math.floor(height / 8)) / 2));
  let number = 0;
  for (let bit = 0; bit < 16; bit++) {
    const x = Math.floor(((2 * bit + 1) * width) / 32);
    number = (number << 1) | (pixels[offset + y * stride + x] > 125);
  }
  return number;
};
const clickIn = (data) => {
  const samples = new Float32Array(data.numberOfFrames);
  data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
  const loud = samples.findIndex((it) => Math.abs(it) > 0.12);
  return loud < 0 ? null : (loud / data.sampleRate) * 1000;
};
onmessage = async ({ data: { kind, readable } }) => {
  const reader = readable.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const at = performance.now();
    if (kind === "video") postMessage({ kind, number: await numberOf(value), at });
    else if (clickIn(value) !== null) postMessage({ kind, at: at + clickIn(value) });
    value.close();
  }
};
"""
"""Reads rendered pictures and played sound as they come, whatever else the page does."""

WATCH = """(source) => {
  const seen = (window.seen = { pictures: [], clicks: [] });
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.onmessage = ({ data }) => {
    if (data.kind === "video") seen.pictures.push([data.number, data.at]);
    else if (data.at - (seen.clicks.at(-1) ?? -1e9) > 500) seen.clicks.push(data.at);
  };
  window.watch = (track) => {
    const { readable } = new MediaStreamTrackProcessor({ track, maxBufferSize: 50 });
    worker.postMessage({ kind: track.kind, readable }, [readable]);
  };
}"""


@dataclass
class Seen:
    """What one page saw and heard: numbers of pictures and seconds of clicks, each with the page's time in seconds."""

    name: str
    pictures: dict[int, float] = field(default_factory=dict)
    clicks: list[float] = field(default_factory=list)

    def shown(self, sent: int) -> float:
        """Return the share of the pictures that were shown, from the first one on."""
        first = min(self.pictures, default=sent)
        return len([it for it in self.pictures if it < sent]) / max(1, sent - first)

    def offsets(self) -> list[float]:
        """Return by how many seconds each click comes after the picture of its moment."""
        moments = [at for number, at in self.pictures.items() if number % FPS == 0]
        pairs = ((min(moments, key=lambda it: abs(it - click)), click) for click in self.clicks) if moments else ()
        return [click - moment for moment, click in pairs if abs(click - moment) < 0.45]


class Listener:
    """A participant in Python. Its times are those of the sender reports, by which receivers keep sound and picture
    together: they show what the bridge does, however busy the machine of a browser is."""

    def __init__(self, server: SignallingServer) -> None:
        self._peer = MeteredPeer(api_key=server.api_key, url=server.url)
        self._tracks: dict[str, Any] = {}
        self._pictures: dict[int, float] = {}
        self._clicks: list[float] = []
        self._peer.on(PeerJoined, self._watch)

    async def join(self) -> None:
        await self._peer.join("bench")

    async def close(self) -> Seen:
        """Leave, and return what was seen and heard."""
        await self._peer.close()
        seen = Seen("Python, by reports")
        offsets = {kind: track.sender_clock.offset for kind, track in self._tracks.items()}
        if None not in offsets.values():
            seen.pictures = {number: at + offsets["video"] for number, at in self._pictures.items()}
            seen.clicks = [at + offsets["audio"] for at in self._clicks]
        return seen

    def _watch(self, event: PeerJoined) -> None:
        @event.peer.on(Track)
        async def _(event: Track) -> None:
            self._tracks[event.track.kind] = event.track
            await (self._look if event.track.kind == "video" else self._listen)(event.track)

    async def _look(self, track: Any) -> None:
        decoder = av.CodecContext.create("h264", "r")
        reader = track.encoded()
        with contextlib.suppress(MediaStreamError):
            while True:
                for frame in decoder.decode(await reader.recv()):
                    self._pictures.setdefault(read_counter(frame), float(frame.pts * frame.time_base))

    async def _listen(self, track: Any) -> None:
        async for frame in iter_frames(track):
            samples = frame.to_ndarray().reshape(-1, 2)[:, 0]
            loud = next((index for index, it in enumerate(samples) if abs(int(it)) > LOUD), None)
            at = float(frame.pts * frame.time_base)
            if loud is not None and (not self._clicks or at - self._clicks[-1] > 0.5):
                self._clicks.append(at + loud / frame.sample_rate)


@dataclass
class Result:
    """The figures of a run."""

    sent: int
    seen: list[Seen]
    first_picture: float
    first_mixed: float | None
    ended: str
    cpu: float
    """Seconds of CPU per second that this process takes: signalling server, bridge and measurement."""
    cpu_mixing: float | None

    def faults(self) -> list[str]:
        """Return what is not as it has to be."""
        faults = []
        for page in self.seen:
            worst = max(map(abs, page.offsets()), default=float("inf"))
            if page.shown(self.sent) < LEAST_SHOWN:
                faults.append(f"{page.name} showed {page.shown(self.sent):.1%} of the pictures")
            if worst > MOST_APART:
                faults.append(f"{page.name}: sound and picture are {worst * 1000:.0f} ms apart")
        if self.first_picture > FIRST_PICTURE:
            faults.append(f"the first picture of a player took {self.first_picture:.2f} s")
        if self.ended != "deleted":
            faults.append(f"the publisher's session ended by {self.ended}")
        return faults


async def run(seconds: float, *, mixed: bool = False) -> Result:
    """Publish for some seconds, and return what was seen."""
    async with (
        SignallingServer(port=0) as server,
        Bridge("bench", url=server.url, api_key=server.api_key) as bridge,
        client_site() as site,
        Chromium() as browser,
    ):
        ends: list[BridgeSessionClosed] = []
        bridge.on(BridgeSessionClosed, ends.append)
        listener = Listener(server)
        await listener.join()
        rooms = [await _room(browser, server, name) for name in ("Ann", "Bob")]
        player = await client_page(browser, site)
        await player.evaluate(WATCH, WORKER)
        with tempfile.TemporaryDirectory() as folder:
            token = server.mint_token("encoder")
            arguments = (bridge.whip_url, token, str(seconds), *p256(Path(folder)))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.whip_source", *arguments, stdout=asyncio.subprocess.PIPE
            )
            for room in rooms:
                await until(room, "window.seen.pictures.length > 0")
            first = await _play(player, f"{bridge.whep_url}/encoder", server.mint_token("player"))
            await player.evaluate("() => stream.getTracks().forEach((track) => watch(track))")
            cpu, first_mixed, cpu_mixing = await _cost(seconds / 4), None, None
            if mixed:
                other = await client_page(browser, site)
                first_mixed = await _play(other, bridge.whep_url, server.mint_token("other"))
                cpu_mixing = await _cost(seconds / 4)
                await other.evaluate("client.stop()")
            out, _ = await process.communicate()
        pages = (("room 1", rooms[0]), ("room 2", rooms[1]), ("player", player))
        seen = [await _seen(name, page) for name, page in pages] + [await listener.close()]
        ended = next((it.reason for it in ends if it.role == "publisher"), "nothing")
        for room in rooms:
            await room.evaluate("room.leave()")
        return Result(int(out), seen, first, first_mixed, ended, cpu, cpu_mixing)


async def _room(browser: Chromium, server: SignallingServer, name: str) -> Page:
    page = await browser.room(server.http_url, channel="bench", name=name, media="none", bypass_csp=True)
    await page.evaluate(WATCH, WORKER)
    await page.evaluate('room.addEventListener("track", ({ detail: { track } }) => watch(track))')
    return page


async def _play(page: Page, url: str, token: str) -> float:
    """Play in a page. Return the seconds until the first picture."""
    await page.evaluate("([url, token]) => play(url, token)", [url, token])
    return float(await until(page, "window.first")) / 1000


async def _cost(seconds: float) -> float:
    began, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - used) / (time.perf_counter() - began)


async def _seen(name: str, page: Page) -> Seen:
    seen: dict[str, Any] = await page.evaluate("seen")
    pictures = {int(number): at / 1000 for number, at in reversed(seen["pictures"])}
    return Seen(name, pictures, [at / 1000 for at in seen["clicks"]])


def _print(result: Result) -> None:
    console = Console()
    table = Table(title=f"{result.sent} pictures by FFmpeg's WHIP client")
    for name in ("page", "pictures", "shown", "clicks", "sound after picture: median", "worst"):
        table.add_column(name, justify="left" if name == "page" else "right")
    for page in result.seen:
        apart = [1000 * it for it in page.offsets()]
        median = f"{statistics.median(apart):.0f} ms" if apart else "-"
        worst = f"{max(apart, key=abs):.0f} ms" if apart else "-"
        shown = f"{page.shown(result.sent):.2%}"
        table.add_row(page.name, str(len(page.pictures)), shown, str(len(apart)), median, worst)
    console.print(table)
    console.print(f"first picture of the player of the encoder: {result.first_picture * 1000:.0f} ms")
    if result.first_mixed is not None:
        console.print(f"first picture of the player of the mixed room: {result.first_mixed * 1000:.0f} ms")
    console.print(f"CPU of server and bridge: {result.cpu:.2f} s/s", end="")
    console.print(f", and {result.cpu_mixing:.2f} s/s while mixing" if result.cpu_mixing is not None else "")
    console.print(f"the session ended by: {result.ended}")
    for fault in result.faults():
        console.print(f"[red]{fault}[/]")


def main() -> int:
    """Run the benchmark. The exit code is 1 if something is not as it has to be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--no-mix", action="store_true", help="leave the player of the mixed room out")
    arguments = parser.parse_args()
    if Chromium.executable() is None or not is_installed():
        print("Chromium and npm's whip-whep are needed: tools/install-test-programs", file=sys.stderr)
        return 2
    result = asyncio.run(run(arguments.seconds, mixed=not arguments.no_mix))
    _print(result)
    return 1 if result.faults() else 0


if __name__ == "__main__":
    raise SystemExit(main())
