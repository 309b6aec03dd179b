"""Token refresh between the real client and the real server."""

from __future__ import annotations

import asyncio
import time

from metered_realtime import Data, MeteredPeer, StateChange, TokenRefreshed
from metered_realtime.events import Connected, Disconnected, Event, TokenProviderError
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

from .support import client_at

SHORT = 3
"""Lifetime of the first token in seconds: the client refreshes it after about one second."""


async def test_a_client_outlives_its_first_token_without_a_gap() -> None:
    async with SignallingServer() as server:
        lifetimes = iter([SHORT, 3_600])

        def provide() -> str:
            return server.mint_token("ann", expires_in=next(lifetimes), metadata={"iceServers": [{"urls": "stun:s"}]})

        async with client_at(server.url, token_provider=provide) as (client, diary):
            await client.connect()
            await client.subscribe("room")
            told = await diary.wait_for(TokenRefreshed)
            first = (await diary.wait_for(Connected)).expires_at
            assert told.expires_at is not None
            assert first is not None
            assert told.expires_at - first > 3_000
            assert told.ice_servers is not None
            assert told.ice_servers == client.ice_servers
            await asyncio.sleep(first - time.time() + 0.1)
            await client.publish("room", 1)
            assert diary.of(Disconnected) == []
            assert diary.of(TokenProviderError) == []


async def test_a_token_with_other_rights_changes_them_on_the_spot() -> None:
    async with SignallingServer() as server:
        claims = iter([{"expires_in": SHORT, "channels": ["a"]}, {"expires_in": 3_600, "channels": ["b"]}])
        async with client_at(server.url, token_provider=lambda: server.mint_token("ann", **next(claims))) as (
            client,
            diary,
        ):
            await client.connect()
            await client.subscribe("a")
            await diary.wait_for(TokenRefreshed)
            await client.subscribe("b")
            assert client.state == "connected"
            assert [event.code for event in diary.events if hasattr(event, "code")] == ["channel_not_authorized"]


async def test_a_peer_stays_joined_through_refreshes() -> None:
    async with SignallingServer() as server:
        lifetimes = iter([SHORT, 3_600])
        ann = MeteredPeer(url=server.url, token_provider=lambda: server.mint_token("ann", expires_in=next(lifetimes)))
        bob = MeteredPeer(url=server.url, token_provider=lambda: server.mint_token("bob"))
        seen: list[Event] = []
        heard = ann.events(Data)
        async with asyncio.timeout(PATIENCE), ann.joined("room"), bob.joined("room"):
            ann.on(StateChange, seen.append)
            await asyncio.sleep(SHORT)
            await bob.send("still there?")
            assert (await anext(heard)).data == "still there?"
            assert seen == []
