"""Chromium, Firefox and two bots in one room: pictures, sound, chat, files, a screen, a reload, a restarted server."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from metered_realtime import Data, DCMessage, MeteredPeer, PeerJoined, RemotePeer, Track
from metered_realtime.server import SignallingServer
from tests.interop.test_page_alone import say
from tests.interop.test_python_and_browsers import picture_and_tone
from tests.support.browsers import LOST_SERVER, Browser, Chromium, Firefox, needs_chromium, needs_firefox, until
from tests.support.browsers.display import needs_display, white_screen
from tests.support.peers import eventually

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.firefox,
    needs_chromium,
    needs_firefox,
    needs_display,
    pytest.mark.asyncio(loop_scope="package"),
]

OTHERS = 3
"""How many others each of the four sees."""

DECODED = """async () => {
  const frames = {};
  for (const { id, streams } of room.peers.values())
    for (const { framesDecoded } of [await room.stats(id)]) if (streams.length) frames[id] = framesDecoded;
  return frames;
}"""

LISTEN = """() => {
  window.digest = async (data) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", data))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
  window.files = [];
  room.frameChannels.addEventListener("channel", ({ detail: { channel } }) =>
    channel.addEventListener("message", async ({ detail: { data } }) => {
      files.push(await digest(data));
      channel.send(data);
    }));
}"""
"""Makes the page send back what a managed channel brings, and keep its digest."""


@dataclass
class Whole:
    """A room of four."""

    server: SignallingServer
    pages: dict[str, Page]
    bots: list[MeteredPeer]

    def tracks(self) -> list[list[Any]]:
        """Return the tracks that each bot receives."""
        return [
            [it for remote in bot.remote_peers for s in remote.streams for it in s.get_tracks()] for bot in self.bots
        ]

    async def flows(self) -> None:
        """Wait until everybody has more pictures of everybody, and the bots more sound."""
        await asyncio.gather(*(self._decodes(page) for page in self.pages.values()), self._bots_receive())

    async def _decodes(self, page: Page) -> None:
        await until(page, f"async () => Object.keys(await ({DECODED})()).length === {OTHERS}")
        before = await page.evaluate(DECODED)
        grown = f"async (before) => Object.entries(await ({DECODED})()).filter(([id, n]) => n > (before[id] ?? 0) + 3)"
        await until(page, f"async (before) => (await ({grown})(before)).length === {OTHERS}", before)

    async def _bots_receive(self) -> None:
        first: dict[Any, int] = {}  # by track: a connection that is replaced meanwhile brings others

        def grown(track: Any) -> bool:
            return bool(track.frames_received > first.setdefault(track, track.frames_received) + 3)

        def receive() -> bool:
            live = [[it for it in tracks if it.readyState == "live"] for tracks in self.tracks()]
            return min(sum([grown(it) for it in tracks]) for tracks in live) >= 2 * OTHERS

        await eventually(receive)


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def browsers() -> AsyncIterator[dict[str, Browser]]:
    """Both browsers. Firefox has a screen to share."""
    async with AsyncExitStack() as stack:
        display = stack.enter_context(white_screen())
        yield {
            "Ann": await stack.enter_async_context(Chromium()),
            "Finn": await stack.enter_async_context(Firefox(display=display)),
        }


def tokens(server: SignallingServer, name: str) -> Callable[[], str]:
    """Return what gives a bot its tokens, with the name that pages show."""
    return lambda: server.mint_token(name.lower(), peer_metadata={"name": name})


@pytest_asyncio.fixture(loop_scope="package")
async def whole(browsers: dict[str, Browser], server: SignallingServer) -> AsyncIterator[Whole]:
    """A room in which everybody sees and hears everybody."""
    async with AsyncExitStack() as stack:
        bots = [MeteredPeer(token_provider=tokens(server, name), url=server.url) for name in ("Bot", "Bit")]
        for bot in bots:
            await stack.enter_async_context(bot)
        for bot in bots:
            bot.add_stream(picture_and_tone())
        await asyncio.gather(*(bot.join("room") for bot in bots))
        rooms = [it.room(server.http_url, channel="room", name=name) for name, it in browsers.items()]
        whole = Whole(server, dict(zip(browsers, await asyncio.gather(*rooms), strict=True)), bots)
        await whole.flows()
        yield whole
        for browser in browsers.values():
            await browser.clean()


def named(bot: MeteredPeer, page_id: str) -> RemotePeer:
    return next(remote for remote in bot.remote_peers if remote.id == page_id)


async def test_four_see_each_other_and_talk_and_share_files_and_a_screen(whole: Whole, tmp_path: Path) -> None:
    ann, finn = whole.pages["Ann"], whole.pages["Finn"]
    heard: list[Any] = []
    for bot in whole.bots:
        bot.on(Data, lambda event: heard.append(event.data["text"]))
    await say(finn, "from Firefox")
    await say(ann, "from Chromium")
    await whole.bots[0].send({"type": "chat", "text": "from Python"})
    await eventually(lambda: sorted(heard) == [*["from Chromium"] * 2, *["from Firefox"] * 2, "from Python"])
    for page, others in ((ann, "from Firefox"), (finn, "from Chromium")):
        for text in (others, "from Python"):
            await expect(page.locator(".message.theirs .text", has_text=text)).to_have_count(1)
    await say(finn, "for Ann", to="Ann")
    await expect(ann.locator(".message.private .text")).to_have_text(["for Ann"])

    for page in whole.pages.values():
        await file_goes_there_and_back(page, whole.bots[0])
    await file_goes_to_another_bot(whole.bots, tmp_path)
    await screen_is_seen(whole, finn)
    await whole.flows()


async def file_goes_there_and_back(page: Page, bot: MeteredPeer) -> None:
    """Send a megabyte through a channel that survives its connection."""
    await page.evaluate(LISTEN)
    file, back = random.Random(1).randbytes(1_000_000), list[Any]()
    channel = named(bot, await page.evaluate("room.peerId")).open_channel("file")
    channel.on(DCMessage, lambda event: back.append(event.data))
    await channel.send(file)
    await eventually(lambda: back)
    assert back == [file]
    assert await page.evaluate("files") == [hashlib.sha256(file).hexdigest()]


async def file_goes_to_another_bot(bots: list[MeteredPeer], directory: Path) -> None:
    sender, receiver = bots
    path, inbox = directory / "a.bin", directory / "inbox"
    path.write_bytes(random.Random(2).randbytes(1_000_000))
    inbox.mkdir()
    async with receiver.receive_files(inbox):
        await named(sender, str(receiver.peer_id)).send_file(path)
    assert (inbox / "a.bin").read_bytes() == path.read_bytes()


async def screen_is_seen(whole: Whole, finn: Page) -> None:
    """Let Firefox share its screen and stop."""
    ids = await finn.evaluate("room.peerId")
    shared: list[Any] = []
    for bot in whole.bots:
        named(bot, ids).on(Track, lambda event: shared.append((event.metadata or {}).get("source")))
    await finn.get_by_role("button", name="Share screen").click()
    screen = whole.pages["Ann"].locator(".tile.screen video")
    await expect(screen).to_have_count(1)
    await until(whole.pages["Ann"], "document.querySelector('.tile.screen video').videoWidth === 320")
    await eventually(lambda: shared == ["screen"] * 2)
    await finn.get_by_role("button", name="Share screen").click()
    await expect(screen).to_have_count(0)


async def test_a_page_that_is_reloaded_is_back_with_everybody(whole: Whole) -> None:
    for page in whole.pages.values():
        old = await page.evaluate("room.peerId")
        await page.reload()
        await until(page, "window.room?.state === 'joined'")
        for other in (it for it in whole.pages.values() if it is not page):
            await until(other, "(id) => !room.peers.has(id)", old)
        await eventually(lambda gone=old: all(gone not in {it.id for it in bot.remote_peers} for bot in whole.bots))
        await whole.flows()


async def test_nobody_is_lost_when_the_server_is_restarted(whole: Whole, browsers: dict[str, Browser]) -> None:
    for browser in browsers.values():
        browser.allow(LOST_SERVER)
    joined: list[PeerJoined] = []
    for bot in whole.bots:
        bot.on(PeerJoined, joined.append)
    made = [await page.evaluate("probe.connections.length") for page in whole.pages.values()]
    await whole.server.stop()
    for page in whole.pages.values():
        await until(page, "room.state === 'reconnecting'")
    await whole.flows()
    await whole.server.start()
    for page in whole.pages.values():
        connected = f"[...room.peers.values()].filter((it) => it.state === 'connected' && !it.away).length === {OTHERS}"
        await until(page, f"room.state === 'joined' && {connected}")
    await eventually(lambda: all(bot.state == "joined" for bot in whole.bots))
    await whole.flows()
    assert [await page.evaluate("probe.connections.length") for page in whole.pages.values()] == made
    assert joined == []
