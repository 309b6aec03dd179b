"""The fast data path and a real browser: what the one sends the other receives, byte for byte, in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiortc import RTCPeerConnection, RTCSessionDescription
from playwright.async_api import Page

from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.transports import dtls_transport, selected_pair
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.browsers("chromium", thorough=["firefox"]), pytest.mark.asyncio(loop_scope="package")]

PAGE = """async (offer) => {
  const pc = window.direct = new RTCPeerConnection();
  window.heard = {}, window.ends = {};
  pc.ondatachannel = ({ channel }) => {
    channel.binaryType = "arraybuffer";
    ends[channel.label] = channel;
    heard[channel.label] = [];
    channel.onmessage = ({ data }) => heard[channel.label].push(data);
  };
  await pc.setRemoteDescription({ type: "offer", sdp: offer });
  await pc.setLocalDescription();
  while (pc.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 5));
  return pc.localDescription.sdp;
}"""

DIGEST = """async (label) => {
  const parts = [];
  for (const message of heard[label]) {
    const text = typeof message === "string";
    const bytes = text ? new TextEncoder().encode(message) : new Uint8Array(message);
    parts.push(new TextEncoder().encode(`${text ? "t" : "b"}${bytes.length}:`), bytes);
  }
  const hash = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""

ECHO = """async ([label, high]) => {
  const channel = ends[label];
  for (const message of heard[label]) {
    while (channel.bufferedAmount > high) await new Promise((resolve) => setTimeout(resolve, 1));
    channel.send(message);
  }
  return true;
}"""


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def page(launched: Browser) -> AsyncIterator[Page]:
    """A page of a secure context, which digests need."""
    async with SignallingServer(port=0) as server:
        yield await launched.page(server.http_url)
        await launched.clean()


@pytest_asyncio.fixture(loop_scope="package")
async def pc(page: Page) -> AsyncIterator[RTCPeerConnection]:
    made = create_peer_connection()
    yield made
    await page.evaluate("direct.close()")
    await made.close()


async def connect(pc: RTCPeerConnection, page: Page, label: str, **options: Any) -> tuple[Any, list[str | bytes]]:
    """Open a channel to the page. Return it, and what comes back on it."""
    channel = pc.createDataChannel(label, **options)
    heard: list[str | bytes] = []
    channel.on("message", heard.append)
    await gather_host_candidates(pc)
    await pc.setLocalDescription(await pc.createOffer())
    answer = await page.evaluate(PAGE, pc.localDescription.sdp)
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await peer_connection.connect(pc)
    await eventually(lambda: channel.readyState == "open")
    await until(page, f"ends.{label}?.readyState === 'open'")
    return channel, heard


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


def digest(messages: list[str | bytes]) -> str:
    """Return the digest of messages as the page makes it."""
    total = hashlib.sha256()
    for message in messages:
        data = message.encode() if isinstance(message, str) else message
        total.update(f"{'t' if isinstance(message, str) else 'b'}{len(data)}:".encode() + data)
    return total.hexdigest()


def large(chance: random.Random) -> list[str | bytes]:
    """Return a megabyte of bytes and one of text."""
    text = "".join(chance.choices("abc äöü 語 🎈", k=26_000))
    return [piece for _ in range(16) for piece in (chance.randbytes(65_536), text)]


def small(chance: random.Random) -> list[str | bytes]:
    """Return thousands of short messages, empty ones among them."""
    lengths = [chance.randrange(70) for _ in range(5_000)]
    return [chance.randbytes(length) if length % 2 else "x" * length for length in lengths]


def impair(pc: RTCPeerConnection, loss: float, chance: random.Random) -> list[str]:
    """Lose, delay and repeat packets of data in both directions, at the end of Python. Return what was done."""
    done: list[str] = []
    protocol = selected_pair(pc).protocol
    arrived: Any = dtls_transport(pc)._arrived  # type: ignore[attr-defined]
    send, put = protocol.transport.sendto, arrived.put
    loop = asyncio.get_running_loop()

    def pass_on(work: Any, *arguments: Any) -> None:
        if chance.random() < loss:
            done.append("lost")
            return
        for _ in range(1 + (chance.random() < 0.02)):
            if chance.random() < 0.02:
                done.append("delayed")
                loop.call_later(chance.uniform(0, 0.01), work, *arguments)
            else:
                work(*arguments)

    async def send_or_lose(data: bytes, address: Any) -> None:
        pass_on(send, data, address)

    protocol.send_data = send_or_lose
    arrived.put = lambda data: pass_on(put, data)
    return done


@pytest.mark.parametrize("make", [large, small])
async def test_messages_arrive_byte_for_byte_in_both_directions(pc: RTCPeerConnection, page: Page, make: Any) -> None:
    channel, heard = await connect(pc, page, make.__name__)
    sent = make(random.Random(1))
    for message in sent:
        while channel.bufferedAmount > 500_000:  # noqa: ASYNC110 - its end is what is waited for
            await asyncio.sleep(0.001)
        channel.send(message)
    await until(page, f"heard.{make.__name__}.length === {len(sent)}")
    assert await page.evaluate(DIGEST, make.__name__) == digest(sent)
    await page.evaluate(ECHO, [make.__name__, 500_000])
    await eventually(lambda: len(heard) == len(sent))
    assert heard == sent
    assert pc.sctp.packets_corrupt == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05])
async def test_messages_arrive_byte_for_byte_over_a_bad_path(pc: RTCPeerConnection, page: Page, loss: float) -> None:
    channel, heard = await connect(pc, page, "bad")
    done = impair(pc, loss, random.Random(2))
    sent = large(random.Random(3))[:6] + small(random.Random(4))[:500]
    for message in sent:
        channel.send(message)
    await until(page, f"heard.bad.length === {len(sent)}")
    assert await page.evaluate(DIGEST, "bad") == digest(sent)
    await page.evaluate(ECHO, ["bad", 500_000])
    await eventually(lambda: len(heard) == len(sent))
    assert heard == sent
    assert done.count("lost") >= loss * 500
    assert done.count("delayed") > 5


@pytest.mark.parametrize("options", [{"ordered": False}, {"ordered": False, "maxRetransmits": 0}])
async def test_unordered_and_unreliable_channels_carry_each_message_at_most_once(
    pc: RTCPeerConnection, page: Page, options: dict[str, Any]
) -> None:
    channel, heard = await connect(pc, page, "other", **options)
    sent: list[str] = []
    while await page.evaluate("heard.other.length") < 300:  # others come for those that are lost
        for number in range(len(sent), len(sent) + 300):
            sent.append(f"{number} " + "x" * (number * 7 % 5_000))
            channel.send(sent[-1])
            await asyncio.sleep(0)
        await eventually(lambda: channel.bufferedAmount == 0)
        if "maxRetransmits" not in options:
            await until(page, f"heard.other.length === {len(sent)}")
    got = await page.evaluate("heard.other")
    assert set(got) <= set(sent)
    assert len(got) == len(set(got))
    while len(heard) < 300:
        await page.evaluate(ECHO, ["other", 100_000])
        if "maxRetransmits" not in options:
            await eventually(lambda: len(heard) == len(got))
    assert set(heard) <= set(sent)  # some may have arrived there after `got` was read


async def test_a_channel_closes_at_both_ends(pc: RTCPeerConnection, page: Page) -> None:
    channel, _ = await connect(pc, page, "short")
    channel.send("last words")
    channel.close()
    await until(page, "ends.short.readyState === 'closed' && heard.short.length === 1")
    await eventually(lambda: channel.readyState == "closed")
    again = pc.createDataChannel("again")
    await eventually(lambda: again.readyState == "open")
    assert again.id == 1
    await until(page, "ends.again?.readyState === 'open'")
    await page.evaluate("ends.again.close()")
    await eventually(lambda: again.readyState == "closed")
