"""Channels that survive their connection, between Python and the page's own implementation in a real browser."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import (
    ChannelOpened,
    ChannelResumed,
    ConnectionReset,
    DCMessage,
    ManagedChannel,
    MeteredPeer,
    PeerJoined,
    RemotePeer,
)
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.inside import start_over
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

pytestmark = [pytest.mark.browsers("chromium", thorough=["firefox"]), pytest.mark.asyncio(loop_scope="package")]

LISTEN = """(id) => {
  window.got = [];
  window.digest = async (data) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", data))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
  window.use = (channel) => {
    window.channel = channel;
    window.resumed = [];
    channel.addEventListener("resumed", ({ detail }) => resumed.push(detail));
    const keep = (data) => got.push(typeof data === "string" ? data : digest(data));
    channel.addEventListener("message", ({ detail: { data } }) => keep(data));
  };
  room.frameChannels.addEventListener("channel", ({ detail: { channel } }) => use(channel));
}"""
"""Makes the page keep what it gets: text as it is, bytes as their digest."""


@pytest_asyncio.fixture(loop_scope="package", params=["!polite", "~impolite"])
async def peer(request: pytest.FixtureRequest, server: SignallingServer) -> AsyncIterator[MeteredPeer]:
    """A peer whose id sorts before or after every id that the server gives a page."""
    peer = MeteredPeer(token_provider=lambda: server.mint_token(peer_id=request.param), url=server.url)
    yield peer
    await peer.close()


async def meet(peer: MeteredPeer, browser: Browser, server: SignallingServer) -> tuple[Page, RemotePeer]:
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    joined = peer.events(PeerJoined)
    await peer.join("room")
    await page.evaluate(LISTEN)
    async with asyncio.timeout(PATIENCE):
        return page, (await anext(joined)).peer


def collect(channel: ManagedChannel) -> list[Any]:
    got: list[Any] = []
    channel.on(DCMessage, lambda event: got.append(event.data))
    return got


async def replace_connection(remote: RemotePeer) -> None:
    resets = remote.events(ConnectionReset)
    start_over(remote)
    async with asyncio.timeout(PATIENCE):
        await anext(resets)
    resets.close()


@pytest.mark.parametrize("opener", ["python", "page", "both"])
async def test_large_messages_and_a_replaced_connection_go_both_ways(
    peer: MeteredPeer, browser: Browser, server: SignallingServer, opener: str
) -> None:
    page, remote = await meet(peer, browser, server)
    opened = remote.events(ChannelOpened)
    if opener != "python":
        await page.evaluate("(id) => use(room.frameChannels.open(id, 'x'))", peer.peer_id)
    if opener != "page":
        channel = remote.open_channel("x")
    async with asyncio.timeout(PATIENCE):
        if opener == "page":
            channel = (await anext(opened)).channel
        await channel.wait_open()
    got, resumed = collect(channel), channel.events(ChannelResumed)
    large = [random.Random(number).randbytes(1_000_000) for number in range(4)]
    for message in large[:2]:
        await channel.send(message)
    await channel.send("grüße")
    await until(page, "window.channel")
    await page.evaluate("""() => {
      window.large = [1, 2, 3, 4].map((seed) => new Uint8Array(1_000_000).map((_, index) => (index * seed * 31) >> 3));
      for (const message of large.slice(0, 2)) channel.send(message);
      channel.send("ÄÖÜ");
    }""")
    await replace_connection(remote)  # with all of this under way
    for message in large[2:]:
        await channel.send(message)
    await page.evaluate("() => { for (const message of large.slice(2)) channel.send(message); }")
    await until(page, "got.length === 5")
    async with asyncio.timeout(PATIENCE):
        await channel.drain()
        await anext(resumed)
    await eventually(lambda: len(got) == 5)
    digests = [hashlib.sha256(message).hexdigest() for message in large]
    assert await page.evaluate("Promise.all(got)") == [*digests[:2], "grüße", *digests[2:]]
    expected = await page.evaluate("Promise.all(large.map(digest))")
    theirs = [it if isinstance(it, str) else hashlib.sha256(it).hexdigest() for it in got]
    assert theirs == [*expected[:2], "ÄÖÜ", *expected[2:]]
    await page.evaluate("channel.drain()")
    assert await page.evaluate("[channel.state, channel.stats.duplicates, channel.stats.missed]") == ["open", 0, 0]
    assert channel.stats().duplicates_removed == 0


async def test_what_came_before_anybody_listened_and_the_end_reach_the_page(
    peer: MeteredPeer, browser: Browser, server: SignallingServer
) -> None:
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    joined = peer.events(PeerJoined)
    await peer.join("room")
    async with asyncio.timeout(PATIENCE):
        remote = (await anext(joined)).peer
        channel = remote.open_channel("early")
        for number in range(100):
            await channel.send(str(number))
        await channel.wait_open()
    await page.evaluate(LISTEN)
    await page.evaluate("(id) => use(room.frameChannels.open(id, 'early'))", peer.peer_id)
    await until(page, "got.length === 100")
    assert await page.evaluate("got") == [str(number) for number in range(100)]
    async with asyncio.timeout(PATIENCE):
        await channel.drain()
    await page.evaluate("channel.addEventListener('close', () => { window.ended = true; })")
    channel.close()
    await until(page, "window.ended && channel.state === 'closed'")
