"""A browser that hides its addresses behind names of multicast DNS, as browsers do for pages without a camera."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from metered_realtime import DataChannel, DCMessage, MeteredPeer, PeerJoined
from metered_realtime.server import SignallingServer
from tests.support.browsers import Firefox, needs_firefox, until
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.firefox, needs_firefox, pytest.mark.asyncio(loop_scope="package")]


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def hiding() -> AsyncIterator[Firefox]:
    """Firefox with the setting that users have."""
    async with Firefox(preferences={"media.peerconnection.ice.obfuscate_host_addresses": True}) as running:
        yield running


@pytest.mark.parametrize("bot_id", ["!polite", "~impolite"])
async def test_a_browser_that_hides_its_addresses_is_connected(
    hiding: Firefox, server: SignallingServer, bot_id: str
) -> None:
    async with MeteredPeer(token_provider=lambda: server.mint_token(bot_id), url=server.url) as bot:
        joined = bot.events(PeerJoined)
        await bot.join("room")
        page = await hiding.room(server.http_url, channel="room", name="Ann", media="none")
        async with asyncio.timeout(PATIENCE):
            channel = DataChannel((await anext(joined)).peer.create_data_channel("x"))
            replies = channel.events(DCMessage)
            await channel.wait_open()
            await until(page, "(id) => room.channels(id).some((it) => it.label === 'x')", bot_id)
            await page.evaluate("(id) => room.channels(id).find((it) => it.label === 'x').send('hello')", bot_id)
            assert (await anext(replies)).data == "hello"
        description = await page.evaluate("probe.connections.at(-1).localDescription.sdp")
        addresses = re.findall(r"a=candidate:\S+ 1 \S+ \S+ (\S+) \d+ typ host", description)
        assert addresses
        assert all(it.endswith(".local") for it in addresses)
        await hiding.clean()
