"""Ordinary use of the client with the server of this package."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime.errors import ServerRequestError, SignallingConnectError
from metered_realtime.events import (
    Connected,
    Direct,
    Disconnected,
    GoingAway,
    Message,
    Presence,
    PresencePeer,
    Reconnecting,
    Resubscribed,
)
from metered_realtime.options import ReconnectOptions, SubscribeOptions
from metered_realtime.server import Limits, SignallingServer
from metered_realtime.signalling import SignallingClient

from ..support.programs import Diary

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.02, max_attempts=1000)


def as_peer(server: SignallingServer, peer_id: str, *, options: dict[str, Any] | None = None, **claims: Any) -> Any:
    """Create a client with this peer id."""

    def token() -> str:
        return server.mint_token(peer_id, **claims)

    return SignallingClient(token_provider=token, url=server.url, reconnect=QUICK, **(options or {}))


async def test_two_clients_meet_talk_and_part() -> None:
    async with SignallingServer() as server:
        ann, bob = as_peer(server, "ann", peer_metadata={"role": "host"}), as_peer(server, "bob")
        heard_by_ann, heard_by_bob = Diary(ann), Diary(bob)
        await ann.connect()
        await bob.connect()
        await ann.subscribe("room")
        await bob.subscribe("room", SubscribeOptions(include_sender_metadata=True))
        assert await heard_by_bob.wait_for(Presence) == Presence("room", (PresencePeer("ann", {"role": "host"}),), ())
        assert await heard_by_ann.wait_for(Presence) == Presence("room", (), ())
        assert await heard_by_ann.wait_for(Presence, 2) == Presence("room", (PresencePeer("bob"),), ())
        await ann.publish("room", {"text": "größer 汉"})
        assert await heard_by_bob.wait_for(Message) == Message("room", "ann", {"text": "größer 汉"}, {"role": "host"})
        await bob.send("ann", None)
        assert await heard_by_ann.wait_for(Direct) == Direct("bob", None)
        await bob.unsubscribe("room")
        assert await heard_by_ann.wait_for(Presence, 3) == Presence("room", (), (PresencePeer("bob"),))
        with pytest.raises(ServerRequestError) as caught:
            await ann.send("carl", 1)
        assert caught.value.code == "peer_not_found"
        await bob.close()
        await ann.close()


async def test_a_wrong_key_is_refused_with_its_code() -> None:
    async with SignallingServer() as server:
        client = SignallingClient(api_key="pk_live_" + "0" * 40, url=server.url)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert caught.value.close_code == 4001
        await client.close()


async def test_too_many_connections_are_refused_with_an_http_status() -> None:
    async with SignallingServer(limits=Limits(connects_per_address=1)) as server:
        first, second = as_peer(server, "ann"), as_peer(server, "bob")
        await first.connect()
        with pytest.raises(SignallingConnectError) as caught:
            await second.connect()
        assert (caught.value.close_code, caught.value.http_status) == (1006, 429)
        await second.close()
        await first.close()


async def test_payloads_at_the_cap_arrive() -> None:
    async with SignallingServer() as server:
        ann, bob = as_peer(server, "ann"), as_peer(server, "bob")
        heard = Diary(bob)
        await ann.connect()
        await bob.connect()
        channel = '"' * 256
        await bob.subscribe(channel)
        payload = "x" * (ann.max_message_size - 2)
        await ann.publish(channel, payload)
        assert (await heard.wait_for(Message)).data == payload
        assert ann.state == "connected"
        await ann.close()
        await bob.close()


async def test_a_restart_of_the_server_is_survived_with_subscriptions_and_queued_messages() -> None:
    async with SignallingServer() as server:
        ann = as_peer(server, "ann", options={"queue_while_reconnecting": 10})
        bob = as_peer(server, "bob")
        heard_by_ann, heard_by_bob = Diary(ann), Diary(bob)
        await ann.connect()
        await bob.connect()
        await bob.subscribe("room")
        await server.stop()
        await heard_by_ann.wait_for(Reconnecting)
        await heard_by_bob.wait_for(Reconnecting)
        assert heard_by_bob.of(Disconnected)[0].code == 1001
        assert heard_by_bob.of(GoingAway)
        await server.start()
        await heard_by_bob.wait_for(Resubscribed)
        sent = asyncio.ensure_future(ann.publish("room", "while you were away"))
        assert (await heard_by_bob.wait_for(Message)).data == "while you were away"
        await sent
        assert (await heard_by_ann.wait_for(Connected, 2)).is_reconnect
        await ann.close()
        await bob.close()
