"""A client with a publishable key keeps its peer id when it reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime.events import Connected, Disconnected, Message, Presence, PresencePeer, Resubscribed
from metered_realtime.options import ReconnectOptions
from metered_realtime.server import SignallingServer
from metered_realtime.server.keys import App, PublishableKey, SecretKey, new_secret_pair
from metered_realtime.server.rights import ACTIONS
from metered_realtime.signalling import SignallingClient
from tests.support.inside import session_of, socket_of, tenant_of, websocket_of
from tests.support.peers import Wire

from ..support.programs import Diary, make_client
from ..support.scripted_server import ScriptedServer
from .test_privacy import ListLogger

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.02, max_attempts=1000)
KEY = "pk_live_" + "a" * 40
TOKEN = "a.b/c"


def client_of(server: SignallingServer, **options: Any) -> SignallingClient:
    return SignallingClient(**{"api_key": server.api_key, "url": server.url, "reconnect": QUICK, **options})


@asynccontextmanager
async def in_a_room(server: SignallingServer, wire: Wire) -> AsyncIterator[tuple[SignallingClient, Diary, Diary]]:
    """Let ann, behind the wire, and bob join a channel. Yield ann, and the events of both since then."""
    async with client_of(server) as bob, client_of(server, url=wire.url) as ann:
        await bob.subscribe("room")
        heard = Diary(bob)
        await ann.subscribe("room")
        await heard.wait_for(Presence)
        heard.events.clear()
        yield ann, Diary(ann), heard


async def test_a_loss_that_the_server_does_not_notice_is_not_noticed_by_others() -> None:
    async with SignallingServer() as server, Wire(server.port) as wire, in_a_room(server, wire) as (ann, diary, heard):
        before = ann.peer_id
        wire.break_off(told=False)
        await diary.wait_for(Resubscribed)
        assert ann.peer_id == before
        assert diary.of(Connected)[0].peer_id == before
        await ann.publish("room", "back")
        assert (await heard.wait_for(Message)).sender_peer_id == before
        assert heard.of(Presence) == []
        assert len(tenant_of(server).hub._peers[str(before)]) == 1, "the old socket is evicted"


async def test_a_loss_that_the_server_notices_is_a_departure_and_a_return() -> None:
    async with SignallingServer() as server, Wire(server.port) as wire, in_a_room(server, wire) as (ann, _, heard):
        peer = PresencePeer(str(ann.peer_id))
        wire.block()
        wire.break_off(told=True)
        assert await heard.wait_for(Presence) == Presence("room", (), (peer,))
        wire.unblock()
        assert await heard.wait_for(Presence, 2) == Presence("room", (peer,), ())


@pytest.mark.parametrize("has_secret_key", [True, False])
async def test_a_server_that_restarts_knows_it_again_if_its_app_has_a_secret_key(has_secret_key: bool) -> None:
    key_id, secret = new_secret_pair()
    secrets = (SecretKey(id=key_id, secret=secret),) if has_secret_key else ()
    apps = [App("app", (PublishableKey(key=KEY, actions=ACTIONS),), secrets)]
    async with SignallingServer(run_keys=False, apps=apps) as server, client_of(server, api_key=KEY) as ann:
        before, diary = ann.peer_id, Diary(ann)
        await server.stop()
        async with SignallingServer(port=server.port, run_keys=False, apps=apps):
            await diary.wait_for(Connected)
            assert (ann.peer_id == before) is has_secret_key


async def test_two_with_one_token_go_their_own_ways() -> None:
    """As on a virtual machine that was cloned while running. Neither client is closed, and they do not evict each other
    again."""
    async with SignallingServer() as server, client_of(server) as original, client_of(server) as clone:
        one, other = Diary(original), Diary(clone)
        before = original.peer_id
        session_of(clone)._resumption.replace_token(session_of(original).resume_token)
        websocket_of(clone).transport.abort()
        await other.wait_for(Connected)
        await one.wait_for(Connected)
        assert one.of(Disconnected) == [Disconnected(4002, "resumed by another connection", True)]
        assert clone.peer_id == before != original.peer_id
        await asyncio.sleep(0.2)  # ten times the time of a reconnect
        assert (len(one.of(Connected)), len(other.of(Connected))) == (1, 1)


async def test_close_ends_it_and_a_new_connect_is_somebody_else() -> None:
    async with SignallingServer() as server:
        client = client_of(server)
        await client.connect()
        before = client.peer_id
        await client.close()
        await client.connect()
        assert client.peer_id != before
        await client.close()


async def test_the_token_goes_beside_the_key_and_only_after_a_loss() -> None:
    async with ScriptedServer(lambda it: it.welcome(resumeToken=TOKEN)) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 2)
        await client.close()
        assert server.paths[:2] == [
            "/v1?key=pk_live_secret&recover=1",
            "/v1?key=pk_live_secret&resume=a.b%2Fc&recover=1",
        ]


async def test_a_client_with_a_token_provider_sends_none() -> None:
    async with ScriptedServer(lambda it: it.welcome(resumeToken=TOKEN)) as server:
        client = make_client(server, token_provider=lambda: "t")
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 2)
        await client.close()
        assert set(server.paths) == {"/v1?token=t&recover=1"}


async def test_a_server_that_knows_nothing_of_it_is_asked_for_nothing() -> None:
    async with ScriptedServer(lambda it: it.welcome()) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 2)
        await client.close()
        assert set(server.paths) == {"/v1?key=pk_live_secret&recover=1"}


async def test_the_token_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = ListLogger()
    async with SignallingServer() as server, client_of(server, logger=logger) as client:
        diary = Diary(client)
        await server.stop()
        await server.start()
        await diary.wait_for(Connected)
        token = session_of(client).resume_token
        assert token is not None
        parts = [client, socket_of(client), session_of(client), *asyncio.all_tasks(), *diary.events]
        shown = "".join(repr(part) + repr(getattr(part, "__dict__", "")) for part in parts)
        assert token not in shown + caplog.text + "".join(logger.lines)
