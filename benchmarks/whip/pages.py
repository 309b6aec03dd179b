"""What sees and hears the encoder: pages of browsers, and a participant in Python."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError
from playwright.async_api import Page
from tests.bridge.whip_whep import client_page
from tests.support.browsers import Browser, Chromium, until

from metered_realtime import MeteredPeer, PeerJoined, Track, iter_frames
from metered_realtime.media.sources.pattern import read_counter
from metered_realtime.server import SignallingServer

from .source import FPS

CHANNEL = "bench"

LOUD = 4_000
"""Level of a click, of 32,767."""

FIRST_PICTURES = 3
"""Times that a player is opened in each browser: one that has just started is slower."""

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

    def offsets(self, after: float = 0.0, before: float = float("inf")) -> list[float]:
        """Return by how many seconds each click comes after the picture of its moment, between these two seconds after
        the first picture."""
        moments = [at for number, at in self.pictures.items() if number % FPS == 0]
        first = min(self.pictures.values(), default=0.0)
        clicks = [it for it in self.clicks if after <= it - first < before] if moments else []
        pairs = ((min(moments, key=lambda it: abs(it - click)), click) for click in clicks)
        return [click - moment for moment, click in pairs if abs(click - moment) < 0.45]


class Listener:
    """A participant in Python. Its times are those of the sender reports, by which receivers keep sound and picture
    together: they show what the bridge does, however busy the machine of a browser is."""

    def __init__(self, server: SignallingServer) -> None:
        self._peer = MeteredPeer(api_key=server.api_key, url=server.url)
        self._tracks: dict[str, Any] = {}
        self._pictures: dict[
            int, tuple[float, float | None]
        ] = {}  # each time with the offset that reports gave it then
        self._clicks: list[tuple[float, float | None]] = []
        self._peer.on(PeerJoined, self._watch)

    async def join(self) -> None:
        await self._peer.join(CHANNEL)

    async def close(self) -> Seen:
        """Leave, and return what was seen and heard."""
        await self._peer.close()
        seen = Seen("Python, by reports")
        picture = next((it for _, it in self._pictures.values() if it is not None), None)
        sound = next((it for _, it in self._clicks if it is not None), None)
        if picture is not None and sound is not None:  # before the first report that one counts
            seen.pictures = {number: at + (it or picture) for number, (at, it) in self._pictures.items()}
            seen.clicks = [at + (it or sound) for at, it in self._clicks]
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
                    at = float(frame.pts * frame.time_base)
                    self._pictures.setdefault(read_counter(frame), (at, track.sender_clock.offset))

    async def _listen(self, track: Any) -> None:
        async for frame in iter_frames(track):
            samples = frame.to_ndarray().reshape(-1, 2)[:, 0]
            loud = next((index for index, it in enumerate(samples) if abs(int(it)) > LOUD), None)
            at = float(frame.pts * frame.time_base)
            if loud is not None and (not self._clicks or at - self._clicks[-1][0] > 0.5):
                self._clicks.append((at + loud / frame.sample_rate, track.sender_clock.offset))


async def open_room(browser: Chromium, server: SignallingServer, name: str) -> Page:
    """Open the room page in the channel. It watches whatever it receives."""
    page = await browser.room(server.http_url, channel=CHANNEL, name=name, media="none", bypass_csp=True)
    await page.evaluate(WATCH, WORKER)
    await page.evaluate('room.addEventListener("track", ({ detail: { track } }) => watch(track))')
    return page


async def play(page: Page, url: str, token: str) -> float:
    """Play in a page. Return the seconds until the first picture."""
    await page.evaluate("([url, token]) => play(url, token)", [url, token])
    return float(await until(page, "window.first")) / 1000


async def first_pictures(browser: Browser, site: str, url: str, token: str) -> list[float]:
    """Return the seconds until the first picture of players that are opened one after another, each in a new page."""
    seconds = []
    for _ in range(FIRST_PICTURES):
        page = await client_page(browser, site)
        seconds.append(await play(page, url, token))
        await page.evaluate("client.stop()")
        await page.context.close()
    return seconds


async def seen_by(name: str, page: Page) -> Seen:
    """Return what a page saw and heard so far."""
    seen: dict[str, Any] = await page.evaluate("seen")
    pictures = {int(number): at / 1000 for number, at in reversed(seen["pictures"])}
    return Seen(name, pictures, [at / 1000 for at in seen["clicks"]])
