"""A browser peer of another make, which negotiates as the W3C shows and keeps its connections whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import DataChannel, DCMessage, MeteredPeer, StateChange, StdlibLogger
from metered_realtime.aiortc_compat import ice_consent
from metered_realtime.server import SignallingServer
from tests.interop.test_python_and_browsers import IDS, Bot, picture_and_tone
from tests.support.browsers import Browser, until
from tests.support.inside import aioice_of
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog

pytestmark = [pytest.mark.browsers("chromium", "firefox"), pytest.mark.asyncio(loop_scope="package")]

FOREIGN = (Path(__file__).parent / "perfect_negotiation.js").read_text()
REMOTE = "[...me.remotes.values()][0]"


@pytest_asyncio.fixture(loop_scope="package", params=["polite", "impolite"])
async def bot(request: pytest.FixtureRequest, server: SignallingServer) -> AsyncIterator[Bot]:
    """A bot in the channel, with a picture and a tone."""
    bot = Bot.watching(
        MeteredPeer(
            token_provider=lambda: server.mint_token(peer_id=IDS[request.param]), url=server.url, logger=StdlibLogger()
        )
    )
    bot.peer.add_stream(picture_and_tone())
    await bot.peer.join("room")
    yield bot
    await bot.end()


@pytest_asyncio.fixture(loop_scope="package")
async def page(bot: Bot, launched: Browser, server: SignallingServer) -> AsyncIterator[Page]:
    """The other peer, with camera and microphone, when media flows in both directions."""
    page = await launched.page(server.http_url)
    await page.evaluate(f"{FOREIGN}\nnull")
    await page.evaluate(
        """async (url) => {
          window.me = foreign(url, "room", await navigator.mediaDevices.getUserMedia({ audio: true, video: true }));
        }""",
        f"{server.url}/v1?token={server.mint_token(peer_id='m')}",
    )
    async with asyncio.timeout(PATIENCE):
        await asyncio.shield(bot.remote)
    await until(page, "me.remotes.size === 1")
    await flows(page, bot)
    yield page
    assert bot.events == []
    assert await page.evaluate("me.errors") == []
    await launched.clean()


async def flows(page: Page, bot: Bot) -> None:
    """Wait for more pictures and sound on both sides."""
    decoded = f"{REMOTE}.decoded()"
    goal = await page.evaluate(decoded) + 5
    await asyncio.gather(bot.flows("audio", "video"), until(page, f"async () => (await {decoded}) >= {goal}"))


async def numbers(page: Page, bot: Bot) -> tuple[DataChannel, asyncio.Task[None]]:
    """Have numbers sent over a data channel without end, and echoed by the page."""
    channel = DataChannel(bot.remote.result().create_data_channel("numbers"))
    await channel.wait_open()
    await until(page, f"{REMOTE}.channel !== null")
    await page.evaluate(
        f"() => {{ const it = {REMOTE}; it.channel.onmessage = ({{ data }}) => it.channel.send(data); }}"
    )

    async def send() -> None:
        number = 0
        while True:
            await channel.send(str(number))
            number += 1
            await asyncio.sleep(0.01)

    return channel, asyncio.create_task(send())


async def next_numbers(messages: Any, count: int) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [int((await anext(messages)).data) for _ in range(count)]


async def test_media_flows_and_both_may_add_more_at_once(page: Page, bot: Bot) -> None:
    bot.peer.add_stream(picture_and_tone())
    await page.evaluate(
        f"""async () => {{
          const stream = await navigator.mediaDevices.getUserMedia({{ video: true }});
          {REMOTE}.pc.addTrack(stream.getTracks()[0], stream);
        }}"""
    )
    await until(page, "me.tracks.length >= 4")
    await bot.until(lambda: len(bot.tracks) >= 3)
    await flows(page, bot)


async def test_a_track_that_the_page_adds_while_it_applies_an_offer_arrives(page: Page, bot: Bot) -> None:
    """Chromium puts the track into the section that the bot has just opened for its own, names it in the answer, and
    negotiates no more."""
    await page.evaluate(
        f"""async () => {{
          const {{ pc }} = {REMOTE};
          const stream = await navigator.mediaDevices.getUserMedia({{ video: true }});
          const apply = pc.setRemoteDescription.bind(pc);
          pc.setRemoteDescription = async (description) => {{
            await apply(description);
            if (description.type !== "offer") return;
            delete pc.setRemoteDescription;
            window.added = pc.addTrack(stream.getTracks()[0], stream);
          }};
        }}"""
    )
    bot.peer.add_stream(picture_and_tone())
    await until(page, "window.added && me.tracks.length >= 4")
    await bot.until(lambda: len(bot.tracks) >= 3)
    await flows(page, bot)


async def test_an_ice_restart_of_the_browser_loses_nothing(page: Page, bot: Bot) -> None:
    channel, sending = await numbers(page, bot)
    messages = channel.events(DCMessage)
    log = EventLog(bot.remote.result())
    ufrag = f"/ice-ufrag:(.*)/.exec({REMOTE}.pc.remoteDescription.sdp)[1]"
    seen = [await page.evaluate(ufrag)]
    for _ in range(3):
        await page.evaluate(f"{REMOTE}.pc.restartIce()")
        await until(page, f"!{seen!r}.includes({ufrag}) && {REMOTE}.pc.iceConnectionState === 'connected'")
        seen.append(await page.evaluate(ufrag))
        await flows(page, bot)
    assert await next_numbers(messages, 100) == list(range(100))
    assert log.of(StateChange) == []
    sending.cancel()


async def test_a_path_that_dies_is_replaced_by_another_and_what_was_sent_arrives(
    page: Page, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice_consent, "CONSENT_INTERVAL", 0.3)
    monkeypatch.setattr(ice_consent, "CONSENT_TIMEOUT", 1.5)
    remote = bot.remote.result()
    channel, sending = await numbers(page, bot)
    messages = channel.events(DCMessage)
    log = EventLog(remote)
    assert await next_numbers(messages, 10) == list(range(10))
    with cut(remote.pc):
        await log.until(StateChange, to="reconnecting")
    await log.until(StateChange, to="connected")
    await flows(page, bot)
    received = await next_numbers(messages, 200)
    assert received == list(range(10, 210))
    sending.cancel()


@contextmanager
def cut(pc: Any) -> Iterator[None]:
    """Let nothing through the sockets of a connection."""
    with pytest.MonkeyPatch.context() as patch:
        for protocol in aioice_of(pc)._protocols:
            patch.setattr(protocol, "datagram_received", lambda data, address: None)
            patch.setattr(protocol, "send_stun", lambda message, address: None)
            patch.setattr(protocol.transport, "sendto", lambda data, address: None)
        yield
