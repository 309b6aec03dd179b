"""Simulcast of a foreign page in Chromium: the bot gets the full picture, and later offers of both sides work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import InboundTrackStats, MeteredPeer, StdlibLogger, iter_frames
from metered_realtime.media.receiving.remote_track import RemoteTrack
from metered_realtime.server import SignallingServer
from tests.interop.test_perfect_negotiation import FOREIGN, REMOTE
from tests.interop.test_python_and_browsers import IDS, Bot, picture_and_tone
from tests.support.browsers import Browser, until
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

pytestmark = [pytest.mark.browsers("chromium"), pytest.mark.asyncio(loop_scope="package")]

LOWEST_FIRST = """[
  { rid: "lo", scaleResolutionDownBy: 4 }, { rid: "mid", scaleResolutionDownBy: 2 }, { rid: "hi" },
]"""
HIGHEST_FIRST = '[{ rid: "f" }, { rid: "h", scaleResolutionDownBy: 2 }, { rid: "q", scaleResolutionDownBy: 4 }]'
SENT = f"""async () => Object.fromEntries([...(await {REMOTE}.pc.getStats()).values()]
  .filter((it) => it.type === "outbound-rtp" && it.kind === "video").map((it) => [it.rid, it.framesSent]))"""


@pytest_asyncio.fixture(loop_scope="package", params=["polite", "impolite"])
async def bot(request: pytest.FixtureRequest, server: SignallingServer) -> AsyncIterator[Bot]:
    """A bot in the channel, with nothing to send."""
    bot = Bot.watching(
        MeteredPeer(
            token_provider=lambda: server.mint_token(peer_id=IDS[request.param]), url=server.url, logger=StdlibLogger()
        )
    )
    await bot.peer.join("room")
    yield bot
    await bot.end()


@pytest_asyncio.fixture(loop_scope="package")
async def page(bot: Bot, launched: Browser, server: SignallingServer) -> AsyncIterator[Page]:
    """The other peer, which sends nothing yet."""
    page = await launched.page(server.http_url)
    await page.evaluate(f"{FOREIGN}\nnull")
    await page.evaluate(
        """(url) => { window.me = foreign(url, "room", null); }""",
        f"{server.url}/v1?token={server.mint_token(peer_id='m')}",
    )
    async with asyncio.timeout(PATIENCE):
        await asyncio.shield(bot.remote)
    await until(page, "me.remotes.size === 1")
    yield page
    assert await page.evaluate("me.errors") == []
    assert bot.events == []
    await launched.clean()


async def send(page: Page, encodings: str) -> None:
    """Have the page send its camera in several layers, in full size also before it knows the path."""
    await page.evaluate(
        f"""async () => {{
          const stream = await navigator.mediaDevices.getUserMedia({{ video: {{ width: 640, height: 480 }} }});
          const {{ sender }} = {REMOTE}.pc.addTransceiver(stream.getTracks()[0], {{
            direction: "sendonly", streams: [stream], sendEncodings: {encodings},
          }});
          const parameters = {{ ...sender.getParameters(), degradationPreference: "maintain-resolution" }};
          await sender.setParameters(parameters);
        }}"""
    )


async def full_picture(track: RemoteTrack) -> None:
    """Wait for a picture in full size."""
    async with asyncio.timeout(PATIENCE):
        async for frame in iter_frames(track):
            if (frame.width, frame.height) == (640, 480):
                return


def inbound(bot: Bot) -> list[InboundTrackStats]:
    return [it for it in bot.remote.result().stats().inbound if it.kind == "video"]


@pytest.mark.parametrize(("encodings", "best"), [(LOWEST_FIRST, "hi"), (HIGHEST_FIRST, "f")])
async def test_the_largest_layer_arrives_and_no_other_is_sent(page: Page, bot: Bot, encodings: str, best: str) -> None:
    await send(page, encodings)
    await bot.until(lambda: len(bot.tracks) == 1)
    await full_picture(bot.tracks[0].track)
    sent = await page.evaluate(SENT)
    assert {rid for rid, frames in sent.items() if frames} == {best}
    (stats,) = inbound(bot)
    assert stats.layer == best
    assert stats.frames_received > 0
    assert stats.packets_received > 0


async def test_both_sides_negotiate_further_and_the_picture_goes_on(page: Page, bot: Bot) -> None:
    await send(page, LOWEST_FIRST)
    await bot.until(lambda: len(bot.tracks) == 1)
    first = bot.tracks[0].track
    await some_pictures(first)
    bot.peer.add_stream(picture_and_tone())
    await until(page, f"async () => (await {REMOTE}.decoded()) > 5")
    await some_pictures(first)
    await page.evaluate(
        f"""async () => {{
          const stream = await navigator.mediaDevices.getUserMedia({{ audio: true }});
          window.sound = {REMOTE}.pc.addTrack(stream.getTracks()[0], stream);
        }}"""
    )
    await bot.flows("audio")
    await page.evaluate(f"{REMOTE}.pc.removeTrack(sound)")
    await bot.until(lambda: len(bot.removed) == 1)
    await some_pictures(first)
    await full_picture(first)
    assert [it.layer for it in inbound(bot)] == ["hi"]


async def test_two_cameras_with_layers_are_told_apart(page: Page, bot: Bot) -> None:
    """No description names their sources, and their payload types are the same: the mid in the packets routes them."""
    await send(page, LOWEST_FIRST)
    await bot.until(lambda: len(bot.tracks) == 1)
    await some_pictures(bot.tracks[0].track)
    await send(page, HIGHEST_FIRST)
    await bot.until(lambda: len(bot.tracks) == 2)
    for told in bot.tracks:
        await some_pictures(told.track)
    await eventually(lambda: all(it.frames_received > 5 for it in inbound(bot)))
    assert [it.layer for it in inbound(bot)] == ["hi", "f"]
    assert bot.remote.result().stats().packets_refused == 0


async def some_pictures(track: RemoteTrack) -> None:
    """Wait for a few more pictures."""
    goal = track.frames_received + 5
    await eventually(lambda: track.frames_received >= goal)
