"""Presence of a signalling server that makes peers of a mesh work: they come and go all the time."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

from benchmarks.attacks._hostile_server import hostile_server, presence
from benchmarks.attacks.stage import Attack, Stage
from metered_realtime import MeteredPeer

PEERS = 256
INTERVAL = 0.05
"""Seconds between an arrival of all, and their departure."""
SECONDS = 6.0


async def roster_churn(stage: Stage) -> None:
    """256 peers that come and go every 50 ms, to a peer that has a channel for everybody."""

    async def speak(socket: ServerConnection) -> None:
        await socket.send(presence([], []))
        turn = 0
        while True:
            names = [f"p{turn}-{number}" for number in range(PEERS)]
            await socket.send(presence(names, []))
            await asyncio.sleep(INTERVAL)
            await socket.send(presence([], names))
            turn += 1

    async with hostile_server(speak) as url:
        peer = MeteredPeer(api_key="key", url=url)
        peer.open_channel("chat")
        async with stage.watch():
            await peer.join("c")
            await asyncio.sleep(SECONDS)
        await peer.close()


async def roster_ghosts(stage: Stage) -> None:
    """256 peers that are announced, and never answer an offer."""

    async def speak(socket: ServerConnection) -> None:
        await socket.send(presence([f"p{number}" for number in range(PEERS)], []))

    async with hostile_server(speak) as url:
        peer = MeteredPeer(api_key="key", url=url)
        peer.open_channel("chat")
        async with stage.watch():
            await peer.join("c")
            await asyncio.sleep(SECONDS)
        await peer.close()


ATTACKS: dict[str, Attack] = {"roster_churn": roster_churn, "roster_ghosts": roster_ghosts}
