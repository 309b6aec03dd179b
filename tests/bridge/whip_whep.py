"""A page with npm's whip-whep client, in whatever browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from playwright.async_api import Page

from tests.support.browsers import Browser, until
from tests.support.foreign_ends import PROGRAMS

CLIENT = PROGRAMS / "node_modules" / "whip-whep"

SCRIPT = """
import { WHIPClient } from "/whip.js";
import { WHEPClient } from "/whep.js";

const video = document.querySelector("video");

window.play = async (url, token) => {
  const began = performance.now();
  const pc = (window.pc = new RTCPeerConnection());
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.addTransceiver("audio", { direction: "recvonly" });
  const stream = (window.stream = new MediaStream());
  pc.ontrack = ({ track }) => {
    stream.addTrack(track);
    video.srcObject = stream;
  };
  window.shown = 0;
  const count = () => {
    window.shown += 1;
    window.first ??= performance.now() - began;
    video.requestVideoFrameCallback(count);
  };
  video.requestVideoFrameCallback(count);
  window.client = new WHEPClient();
  await window.client.view(pc, url, token);
};

window.publish = async (url, token) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 240];
  const context = canvas.getContext("2d");
  let tick = 0;
  window.timer = setInterval(() => {
    context.fillStyle = `hsl(${(tick += 7) % 360} 80% 50%)`;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }, 40);
  const pc = (window.pc = new RTCPeerConnection());
  for (const track of canvas.captureStream(25).getTracks()) {
    pc.addTransceiver(track, { direction: "sendonly" });
  }
  window.client = new WHIPClient();
  await window.client.publish(pc, url, token);
};

window.ready = true;
"""

PAGE = f"""<!doctype html>
<title>whip-whep</title>
<link rel="icon" href="data:,">
<video muted autoplay playsinline width="320"></video>
<script type="module">{SCRIPT}</script>
"""


@asynccontextmanager
async def client_site() -> AsyncIterator[str]:
    """Serve the page, and yield its URL. Browsers keep pages of no real address from local servers."""
    application = web.Application()
    application.add_routes([web.get("/{name:.*}", _serve)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}/"
    finally:
        await runner.cleanup()


async def client_page(browser: Browser, url: str) -> Page:
    """Open the page in a browser."""
    page = await browser.page(url)
    await until(page, "window.ready")
    return page


async def _serve(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name in ("whip.js", "whep.js"):
        return web.Response(text=(CLIENT / name).read_text(), content_type="text/javascript")
    return web.Response(text=PAGE, content_type="text/html")


def is_installed() -> bool:
    """Return whether npm has installed the client."""
    return CLIENT.is_dir()
