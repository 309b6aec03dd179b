"""One person in two channels, from two programs: the room page takes the signals of its own channel only."""

from __future__ import annotations

from typing import Any

import pytest
from aiortc import RTCPeerConnection

from metered_realtime import Direct, Presence, SignallingClient
from metered_realtime.core.negotiation.signals import DescriptionSignal, in_channel
from metered_realtime.server import SignallingServer
from tests.support.browsers import Chromium
from tests.support.peers import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def offer() -> dict[str, Any]:
    """Return the offer of a connection with a data channel, as a signal without a channel."""
    pc = RTCPeerConnection()
    pc.createDataChannel("x")
    text = (await pc.createOffer()).sdp
    await pc.close()
    return DescriptionSignal("offer", text).payload()


async def test_signals_of_another_channel_are_ignored(chromium: Chromium, server: SignallingServer) -> None:
    answers: list[Any] = []
    members: set[str] = set()
    page = await chromium.room(server.http_url, channel="room", name="Ann", media="none")
    client = SignallingClient(api_key=server.api_key, url=server.url)
    client.on(Presence, lambda event: members.update(peer.peer_id for peer in event.joined))
    client.on(Direct, lambda event: answers.append(event.data) if "answer" in str(event.data) else None)
    await client.connect()
    await client.subscribe("room")
    await eventually(lambda: members - {client.peer_id})
    (ann,) = members - {client.peer_id}
    await client.send(ann, in_channel(await offer(), "elsewhere"))
    wanted = in_channel(await offer(), "room")
    await client.send(ann, wanted)
    await eventually(lambda: answers)
    assert answers[0]["channel"] == "room"
    assert await page.evaluate("probe.connections.length") == 1, "nothing was made for the other channel"
    await client.close()
