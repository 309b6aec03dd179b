"""Metadata of streams that a browser adds in mid-call, in sections which the other end has offered.

Chromium describes such a track under an id of its own, and the browser here names its tracks by theirs alone.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from metered_realtime.server import SignallingServer
from tests.interop.test_perfect_negotiation import FOREIGN, REMOTE, bot
from tests.interop.test_python_and_browsers import Bot
from tests.support.browsers import Browser, until

pytestmark = [pytest.mark.browsers("chromium", thorough=["firefox"]), pytest.mark.asyncio(loop_scope="package")]

__all__ = ["bot"]

SHARE = f"""async ([audio, video, title]) => {{
  const stream = await navigator.mediaDevices.getUserMedia({{ audio, video }});
  {REMOTE}.share(stream, {{ title }});
  window.ids = stream.getTracks().map((track) => track.id);
}}"""


async def joined(browser: Browser, server: SignallingServer, tracks: int) -> Page:
    """Return a page without media that receives so many tracks."""
    page = await browser.page(server.http_url, name="foreign")
    await page.evaluate(f"{FOREIGN}\nnull")
    url = f"{server.url}/v1?token={server.mint_token(peer_id='m')}"
    await page.evaluate("(url) => { window.me = foreign(url, 'room', null); }", url)
    await until(page, f"me.tracks.length === {tracks} && {REMOTE}.pc.connectionState === 'connected'")
    return page


@pytest.mark.parametrize("kinds", [("video",), ("audio", "video")])
async def test_late_metadata_of_a_browser_reaches_a_bot(
    bot: Bot, browser: Browser, server: SignallingServer, kinds: tuple[str, ...]
) -> None:
    page = await joined(browser, server, 2)
    await page.evaluate(SHARE, ["audio" in kinds, "video" in kinds, "first"])
    await bot.until(lambda: len(bot.tracks) == len(kinds))
    ids = await page.evaluate("ids")
    assert not {it.track.id for it in bot.tracks} & set(ids), "the browser took sections of ours"
    assert [it.metadata for it in bot.tracks] == [{"title": "first"}] * len(kinds)
    await page.evaluate(SHARE, [True, True, "second"])
    await bot.until(lambda: len(bot.tracks) == len(kinds) + 2)
    assert [it.metadata for it in bot.tracks[len(kinds) :]] == [{"title": "second"}] * 2
    await bot.flows(*kinds)
    assert bot.events == []
    assert await page.evaluate("me.errors") == []


async def test_late_metadata_of_a_browser_reaches_the_room_page(browser: Browser, server: SignallingServer) -> None:
    ours = await browser.room(server.http_url, channel="room", name="Ann")
    page = await joined(browser, server, 2)
    await page.evaluate(SHARE, [True, True, "late"])
    peer = "[...room.peers.values()][0]"
    await until(ours, f"{peer}.tracks.length === 2 && {peer}.tracks.every((it) => it.metadata)")
    tracks: list[dict[str, Any]] = await ours.evaluate(f"{peer}.tracks")
    assert {it["trackId"] for it in tracks}.isdisjoint(await page.evaluate("ids"))
    assert [it["metadata"] for it in tracks] == [{"title": "late"}] * 2
    assert await page.evaluate("me.errors") == []
