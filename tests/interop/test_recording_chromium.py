"""Recording a real browser: what flashes and clicks at once in the page does so in the file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from aiortc.rtp import is_rtcp
from benchmarks.flash_and_click import offsets

from metered_realtime import MeteredPeer, Recorder, RemotePeer
from metered_realtime.server import SignallingServer
from tests.support.browsers import Chromium
from tests.support.inside import aioice_of
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("busy"),
    pytest.mark.asyncio(loop_scope="package"),
]

LATE = 0.25
"""Seconds that pictures take longer than sound."""

FOREIGN = (Path(__file__).parent / "perfect_negotiation.js").read_text()

FLASH_AND_CLICK = """
async (url) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1280, height: 720 });
  const pen = canvas.getContext("2d", { alpha: false });
  const context = new AudioContext();
  const oscillator = new OscillatorNode(context, { frequency: 1000 });
  const gain = new GainNode(context, { gain: 0 });
  const sound = new MediaStreamAudioDestinationNode(context);
  oscillator.connect(gain).connect(sound);
  oscillator.start();
  await context.resume();
  for (let second = 1; second < 60; second++) {
    gain.gain.setValueAtTime(0.9, second);
    gain.gain.setValueAtTime(0, second + 0.02);
  }
  let number = 0;
  const draw = () => {
    const level = context.currentTime % 1 < 0.12 ? 230 : 30;
    pen.fillStyle = `rgb(${level}, ${level}, ${level})`;
    pen.fillRect(0, 0, 1280, 720);
    for (let i = 0; i < 200; i++) {
      pen.fillStyle = `rgb(${(number * 7 + i * 31) % 255}, ${(i * 17) % 255}, ${(number * 3) % 255})`;
      pen.fillRect((i * 97 + number * 5) % 1280, (i * 61 + number * 3) % 200, 16, 8);
    }
    number++;
  };
  setInterval(draw, 33);
  draw();
  const tracks = [...canvas.captureStream(30).getTracks(), ...sound.stream.getTracks()];
  window.me = foreign(url, "room", new MediaStream(tracks));
}
"""


@contextmanager
def held_up(pc: Any, source: int) -> Iterator[None]:
    """Have the media of a source, not its reports, reach a connection `LATE`: as if it took long to be encoded."""
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    gate: Any = aioice_of(pc).data_received  # it is there since media came that nobody read
    pass_on = gate._pass_on

    def receive(data: bytes, component: int = 1) -> None:
        if data[8:12] == source.to_bytes(4) and not is_rtcp(data):
            timers.append(loop.call_later(LATE, pass_on, data, component))
        else:
            pass_on(data, component)

    gate._pass_on = receive
    try:
        yield
    finally:
        gate._pass_on = pass_on
        for timer in timers:
            timer.cancel()


async def source_of_pictures(bot: MeteredPeer) -> tuple[RemotePeer, int]:
    """Return the page as the bot sees it, and the source of its pictures, once they come."""

    def sources() -> list[int]:
        pcs = [remote.pc for remote in bot.remote_peers if remote.state == "connected"]
        receivers: list[Any] = [it for pc in pcs for it in pc.getReceivers() if it.track.kind == "video"]
        return [source for it in receivers for source in it._handle_rtp_packet.sources]

    await eventually(sources)
    return bot.remote_peers[0], sources()[0]


async def test_pictures_that_come_late_are_with_the_sound_of_the_page_all_the_same(
    chromium: Chromium, server: SignallingServer, tmp_path: Path
) -> None:
    bot = MeteredPeer(token_provider=lambda: server.mint_token(peer_id="bot"), url=server.url)
    recorder = Recorder(tmp_path / "page.webm")
    async with bot:
        await bot.join("room")
        page = await chromium.page(server.http_url)
        await page.evaluate(f"{FOREIGN}\nnull")
        await page.evaluate(FLASH_AND_CLICK, f"{server.url}/v1?token={server.mint_token(peer_id='ann')}")
        remote, source = await source_of_pictures(bot)
        recorder.follow(remote)
        with held_up(remote.pc, source):
            async with recorder:
                await eventually(lambda: recorder.frames_written["audio"] > 500, PATIENCE)
    found = offsets(tmp_path / "page.webm")
    assert len(found) > 5
    assert abs(median(found[-4:])) < 0.1, "a page on a busy machine draws late; its sound is reported every 5 s"
