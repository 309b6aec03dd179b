"""ICE servers that a signalling server names: many of them, to a peer that has many remotes."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

from benchmarks.attacks._hostile_server import hostile_server, presence
from benchmarks.attacks.stage import Attack, Stage
from metered_realtime import MeteredPeer

REMOTES = 100
SERVERS, URLS = 16, 2_000
SECONDS = 6.0


async def ice_server_urls(stage: Stage) -> None:
    """2,000 URLs for each of 16 servers, and 100 remotes that are to be asked for a path."""
    urls = [f"turn:10.0.0.{number % 250}:{3478 + number}" for number in range(URLS)]
    metadata = {"iceServers": [{"urls": urls, "username": "u", "credential": "c"} for _ in range(SERVERS)]}

    async def speak(socket: ServerConnection) -> None:
        await socket.send(presence([f"p{number}" for number in range(REMOTES)], []))

    async with hostile_server(speak, metadata) as url:
        peer = MeteredPeer(api_key="key", url=url)
        peer.open_channel("chat")
        async with stage.watch():
            await peer.join("c")
            await asyncio.sleep(SECONDS)
        await peer.close()


ATTACKS: dict[str, Attack] = {"ice_server_urls": ice_server_urls}
