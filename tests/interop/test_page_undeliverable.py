"""What the room page does with an offer that can never be delivered: what flows goes on, and later changes work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits
from tests.interop.test_page_alone import decoding, pair
from tests.support.browsers import Browser, until

pytestmark = [pytest.mark.browsers("chromium", thorough=["firefox"]), pytest.mark.asyncio(loop_scope="package")]

ADD = """async (count) => {
  window.added = [];
  for (let n = 0; n < count; n++) window.added.push(await navigator.mediaDevices.getUserMedia({ video: true }));
  for (const stream of window.added) room.addStream(stream, { n: window.added.length }); // in one offer
}"""
STREAMS = "[...room.peers.values()][0].streams.length"


@pytest_asyncio.fixture(loop_scope="package")
async def small() -> AsyncIterator[SignallingServer]:
    """A server that takes the offer of a camera, and not that of ten."""
    async with SignallingServer(port=0, limits=Limits(max_message_size=16_384)) as running:
        yield running


async def test_an_offer_that_is_too_large_is_taken_back(browser: Browser, small: SignallingServer) -> None:
    ann, bob = await pair(browser, small)
    connections = [await page.evaluate("probe.connections.length") for page in (ann, bob)]
    await ann.evaluate("window.notices = []; room.onnotice = ({ detail }) => notices.push(detail.text); null")
    await ann.evaluate(ADD, 10)
    await until(ann, "notices.length === 1")
    before = await decoding(bob)
    await decoding(bob, beyond=before)
    await ann.evaluate("for (const stream of window.added) room.removeStream(stream)")
    await ann.evaluate(ADD, 1)
    await until(bob, f"{STREAMS} === 2")
    await decoding(bob, beyond=before)
    assert [await page.evaluate("probe.connections.length") for page in (ann, bob)] == connections


async def test_an_offer_that_is_refused_is_not_repeated(browser: Browser, server: SignallingServer) -> None:
    ann, bob = await pair(browser, server)
    connections = await ann.evaluate("probe.connections.length")
    await ann.evaluate("""() => {
      const socket = probe.sockets.at(-1);
      const send = socket.send.bind(socket);
      window.refused = window.offers = 0;
      socket.send = (text) => {
        const { type, data, requestId } = JSON.parse(text);
        if (type !== "send" || data.description?.type !== "offer") return send(text);
        window.offers += 1;
        if (window.refused) return send(text);
        window.refused = 1;
        const error = JSON.stringify({ type: "error", code: "channel_not_authorized", requestId });
        setTimeout(() => socket.onmessage({ data: error }));
      };
    }""")
    await ann.evaluate(ADD, 1)
    await until(ann, "window.refused === 1")
    await decoding(bob, beyond=await decoding(bob))
    assert await ann.evaluate("window.offers") == 1
    await ann.evaluate(ADD, 1)
    await until(bob, f"{STREAMS} === 3")
    assert await ann.evaluate("probe.connections.length") == connections
