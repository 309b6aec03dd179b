"""Media of all kinds between Python and a real browser: packets of a file, and tracks that a bot passes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from metered_realtime import MediaStream, MeteredPeer, PeerJoined, Track, from_file
from metered_realtime.server import SignallingServer
from tests.interop.test_python_and_browsers import Bot, page_decodes
from tests.support import clips
from tests.support.browsers import Browser, until

pytestmark = [pytest.mark.browsers("chromium", "firefox"), pytest.mark.asyncio(loop_scope="package")]

CODEC = """async (id) => {
  for (const pc of probe.connections) {
    const reports = [...(await pc.getStats()).values()];
    const video = reports.find((it) => it.type === 'inbound-rtp' && it.kind === 'video' && it.framesDecoded > 0);
    if (video) return reports.find((it) => it.id === video.codecId).mimeType;
  }
  return null;
}"""

KNOWN = "RTCRtpReceiver.getCapabilities('video').codecs.map((codec) => codec.mimeType)"
"""The codecs of the browser. Firefox has H.264 from a plugin that it downloads, and no package of Debian has."""


@pytest_asyncio.fixture(loop_scope="package")
async def bots(server: SignallingServer) -> AsyncIterator[list[Bot]]:
    """Two bots that are not in the channel yet."""
    bots = [Bot.watching(MeteredPeer(api_key=server.api_key, url=server.url)) for _ in range(2)]
    yield bots
    await asyncio.gather(*(bot.end() for bot in bots))


@pytest.mark.parametrize(
    ("name", "video", "options", "codec"),
    [
        ("t.mp4", "libx264", {"profile": "Baseline", "options": {"bf": "0"}}, "video/H264"),
        ("t.webm", "libvpx", {}, "video/VP8"),
    ],
)
async def test_packets_of_a_file_are_shown_as_they_are_or_in_a_codec_that_the_browser_has(
    bots: list[Bot],
    browser: Browser,
    server: SignallingServer,
    tmp_path: Path,
    name: str,
    video: str,
    options: dict[str, object],
    codec: str,
) -> None:
    path = clips.write(tmp_path / name, video, None, 2.0, **options)
    player = await asyncio.to_thread(from_file, str(path), packets=True, loop=True)
    bot = bots[0]
    bot.peer.add_stream(MediaStream([player.video]))
    await bot.peer.join("room")
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    await page_decodes(page, bot, 20)
    known = await page.evaluate(KNOWN)
    assert "video/VP8" in known
    assert await page.evaluate(CODEC, bot.peer.peer_id) == (codec if codec in known else "video/VP8")
    player.video.stop()


async def test_a_bot_passes_the_camera_of_one_browser_on_to_another_and_to_python(
    bots: list[Bot], browser: Browser, server: SignallingServer
) -> None:
    """The browsers are in two channels: what reaches the second one comes from the bot."""
    listener = bots[0]
    relay, outlet = (MeteredPeer(api_key=server.api_key, url=server.url) for _ in range(2))
    passed: list[Any] = []

    def pass_on(event: Track) -> None:
        passed.append(event.track)
        outlet.add_track(event.track)

    relay.on(PeerJoined, lambda event: event.peer.on(Track, pass_on))
    async with relay, outlet:
        await asyncio.gather(relay.join("studio"), outlet.join("stage"), listener.peer.join("stage"))
        await browser.room(server.http_url, channel="studio", name="Ann", media="camera")
        await listener.until(lambda: {it.track.kind for it in listener.tracks} == {"audio", "video"})
        await listener.flows("audio", "video")
        page = await browser.room(server.http_url, channel="stage", name="Ben", media="none")
        decoded = "async (id) => (await room.stats(id).catch(() => null))?.framesDecoded ?? 0"
        await until(page, f"async (id) => (await ({decoded})(id)) >= 20", outlet.peer_id)
        assert [track.frames_decoded for track in passed] == [0, 0], "nothing is decoded to be passed on"
