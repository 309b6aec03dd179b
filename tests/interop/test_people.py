"""Names and the chat between Python and the room page."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page

from metered_realtime import Chat, ChatMessage, MeteredPeer, NameChanged, PeerJoined, RemotePeer
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog

pytestmark = [pytest.mark.browsers("chromium"), pytest.mark.asyncio(loop_scope="package")]


async def met(peer: MeteredPeer, log: EventLog) -> RemotePeer:
    """Return the page, as a peer sees it."""
    remote = (await log.until(PeerJoined)).peer
    await log.holds(lambda: remote.name is not None)
    return remote


@pytest.mark.parametrize("first", ["python", "page"])
async def test_each_sees_the_name_of_the_other_without_a_connection(
    browser: Browser, server: SignallingServer, first: str
) -> None:
    async with MeteredPeer(api_key=server.api_key, url=server.url, name="Robo\u202et") as peer:
        log = EventLog(peer)
        if first == "python":
            await peer.join("room")
        page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
        if first == "page":
            await peer.join("room")
        remote = await met(peer, log)
        assert (remote.name, remote.state) == ("Ann", "idle")
        await until(page, "(id) => room.peers.get(id)?.name === 'Robot'", peer.peer_id)
        await until(page, "() => document.getElementById('stage').innerText.includes('Robot')")
        peer.name = "Robo 2"
        await until(page, "(id) => room.peers.get(id)?.name === 'Robo 2'", peer.peer_id)
        peer.name = None
        await until(page, "(id) => room.peers.get(id)?.name === null", peer.peer_id)
        assert [event.name for event in log.of(NameChanged)] == ["Ann"]


async def shown(page: Page, name: str, text: str) -> None:
    """Wait until the chat box shows a message."""
    await until(
        page,
        """([name, text]) => [...document.querySelectorAll('#messages li')].some((it) =>
          it.querySelector('.who b').textContent === name && it.querySelector('.text').textContent === text)""",
        [name, text],
    )


async def test_the_chat_goes_both_ways_to_everybody_and_to_one(browser: Browser, server: SignallingServer) -> None:
    async with MeteredPeer(api_key=server.api_key, url=server.url, name="Robot") as peer, Chat(peer) as chat:
        log = EventLog(peer)
        await peer.join("room")
        page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
        remote = await met(peer, log)
        await chat.send("hello all")
        await shown(page, "Robot", "hello all")
        await chat.send("hello Ann", to=remote)
        await shown(page, "Robot to you", "hello Ann")
        await page.fill("#chat-text", "hi everybody")
        await page.press("#chat-text", "Enter")
        await page.select_option("#chat-to", peer.peer_id)
        await page.fill("#chat-text", "hi Robot")
        await page.press("#chat-text", "Enter")
        async with asyncio.timeout(PATIENCE):
            heard = [await anext(aiter(chat)) for _ in range(2)]
        assert heard == [
            ChatMessage(remote.id, "Ann", "hi everybody", False, remote),
            ChatMessage(remote.id, "Ann", "hi Robot", True, remote),
        ]
