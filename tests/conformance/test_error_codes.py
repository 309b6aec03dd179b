"""All codes of `error` frames: their causes, and what the program gets.

A request that the server refuses raises `ServerRequestError` at its call, with the `code` and the `request_id`. An
error that belongs to no pending request is a `ServerError` event. Either way the connection stays as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import Raw

from metered_realtime import ErrorCode, ServerError, ServerRequestError, SignallingError
from metered_realtime.errors import MeteredRealtimeError
from metered_realtime.events import Disconnected
from metered_realtime.server import SignallingServer
from metered_realtime.server.auth import mint_token
from metered_realtime.server.keys import App, SecretKey, new_secret_pair
from metered_realtime.server.limits import Limits
from metered_realtime.server.plan import Plan
from metered_realtime.signalling import SignallingClient
from tests.support.scripted_server import Conversation, ScriptedServer

from .support import client_at, connected, write

Call = Callable[[SignallingClient], Awaitable[None]]


@dataclass(frozen=True)
class Refusal:
    """A call that the server refuses, by a client whose token has these claims."""

    code: str
    why: str
    call: Call
    claims: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)


def unchecked_subscribe(channel: str) -> Call:
    """Subscribe without the checks of the client."""
    return lambda client: client._reply_to(*client._session.subscribe(channel, False, client._now()))


def unchecked_send(peer_id: str) -> Call:
    return lambda client: client._reply_to(*client._session.send(peer_id, Raw(b"1"), client._now()))


async def subscribe_twice(client: SignallingClient) -> None:
    await client.subscribe("first")
    await client.subscribe("second")


ROOM_ONLY = {"channels": ["room/*"]}
READER = {"permissions": ["subscribe"]}
WRITER = {"permissions": ["publish"]}

REFUSALS = [
    Refusal("invalid_channel", "the name is too long, in bytes", unchecked_subscribe("ö" * 129)),
    Refusal("invalid_channel", "the name has a control character", unchecked_subscribe("a\x85b")),
    Refusal("invalid_channel", "the name is empty", unchecked_subscribe("")),
    Refusal("invalid_peer_id", "the id is too long", unchecked_send("x" * 129)),
    Refusal("invalid_peer_id", "the id has a control character", unchecked_send("a\nb")),
    Refusal("channel_not_authorized", "subscribe outside the token", lambda it: it.subscribe("hall"), ROOM_ONLY),
    Refusal("channel_not_authorized", "publish outside the token", lambda it: it.publish("hall", 1), ROOM_ONLY),
    Refusal("channel_not_authorized", "a star ends at a slash", lambda it: it.subscribe("room/1/2"), ROOM_ONLY),
    Refusal("channel_not_authorized", "a pattern wider than the token", lambda it: it.subscribe("**"), ROOM_ONLY),
    Refusal("channel_reserved", "_metered/", lambda it: it.subscribe("_metered/a")),
    Refusal("channel_reserved", "_internal/, on publish", lambda it: it.publish("_internal/a", 1)),
    Refusal("channel_reserved", "_system/, in any case", lambda it: it.subscribe("_SYSTEM/a")),
    Refusal("channel_limit_exceeded", "one channel too many", subscribe_twice, {}, {"channels_per_connection": 1}),
    Refusal("peer_not_found", "nobody has the id", lambda it: it.send("bob", 1)),
    Refusal("action_not_permitted", "subscribe not granted", lambda it: it.subscribe("a"), WRITER),
    Refusal("action_not_permitted", "publish not granted", lambda it: it.publish("a", 1), READER),
    Refusal("action_not_permitted", "send not granted", lambda it: it.send("ann", 1), READER),
]


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.code}: {row.why}")
async def test_a_refused_request_raises_at_its_call_and_costs_nothing_else(row: Refusal) -> None:
    async with (
        SignallingServer(limits=Limits(**row.limits)) as server,
        connected(server, **row.claims) as (client, diary),
    ):
        with pytest.raises(ServerRequestError) as caught:
            await row.call(client)
        assert caught.value.code == row.code
        assert caught.value.request_id is not None
        assert isinstance(caught.value, SignallingError)
        assert isinstance(caught.value, MeteredRealtimeError)
        assert client.state == "connected"
        await client.unsubscribe("anything")  # the connection still answers
        assert (diary.of(ServerError), diary.of(Disconnected)) == ([], [])


UNCORRELATED = [
    # (the frame, the code, the echoed request id)
    ("no JSON", "malformed_message", None),
    ("[]", "malformed_message", None),
    ("{}", "malformed_message", None),
    ('{"type":7}', "malformed_message", None),
    ('{"type":"ping","requestId":""}', "malformed_message", None),
    ('{"type":"ping","requestId":"%s"}' % ("x" * 129), "malformed_message", None),
    ('{"type":"ping","requestId":7}', "malformed_message", None),
    ('{"type":"subscribe","channel":"a","includeSenderMetadata":1,"requestId":"x"}', "malformed_message", "x"),
    ('{"type":"refresh","requestId":"x"}', "malformed_message", "x"),
    ('{"type":"publish","channel":"a","data":NaN,"requestId":"x"}', "malformed_message", None),
    ('{"type":"publish","channel":"a","data":' + "[" * 30_000 + "]" * 30_000 + "}", "malformed_message", None),
    ('{"type":"dance","requestId":"x"}', "unknown_type", "x"),
    ('{"type":"subscribe","requestId":"x"}', "invalid_channel", "x"),
    ('{"type":"subscribe","channel":7,"requestId":"x"}', "invalid_channel", "x"),
    ('{"type":"publish","data":1,"requestId":"x"}', "invalid_channel", "x"),
    ('{"type":"send","data":1,"requestId":"x"}', "invalid_peer_id", "x"),
    ('{"type":"send","to":7,"data":1,"requestId":"x"}', "invalid_peer_id", "x"),
    ('{"type":"publish","channel":"a","requestId":"x"}', "missing_data", "x"),
    ('{"type":"send","to":"ann","requestId":"x"}', "missing_data", "x"),
    ('{"type":"send","to":"bob","data":1}', "peer_not_found", None),
]


@pytest.mark.parametrize(("frame", "code", "request_id"), UNCORRELATED, ids=lambda it: str(it)[:50])
async def test_an_error_that_no_call_waits_for_is_an_event(frame: str, code: str, request_id: str | None) -> None:
    async with SignallingServer() as server, connected(server) as (client, diary):
        write(client, frame)
        told = await diary.wait_for(ServerError)
        assert (told.code, told.request_id) == (code, request_id)
        assert isinstance(told.message, str)
        await client.publish("a", 1)
        assert diary.of(Disconnected) == []


async def test_the_unknown_type_that_old_servers_answer_a_heartbeat_with_is_no_event() -> None:
    async with SignallingServer() as server, connected(server) as (client, diary):
        write(client, '{"type":"dance"}')
        await client.publish("a", 1)
        assert diary.of(ServerError) == []


async def test_over_message_quota_blocks_messages_and_nothing_else() -> None:
    key_id, secret = new_secret_pair()
    app = App("small", (), (SecretKey(id=key_id, secret=secret),), Plan(max_messages_per_period=2))
    async with SignallingServer(apps=[app]) as server:

        def token() -> str:
            return mint_token(secret_id=key_id, secret=secret, peer_id="ann")

        async with client_at(server.url, token_provider=token) as (client, diary):
            await client.connect()
            await client.publish("a", 1)
            await client.send("ann", 2)
            for call in (client.publish("a", 3), client.send("ann", 4)):
                with pytest.raises(ServerRequestError) as caught:
                    await call
                assert caught.value.code == "over_message_quota"
            await client.subscribe("a")
            assert client.state == "connected"
            assert diary.of(Disconnected) == []


@pytest.mark.parametrize("code", ["backend_error", "internal_error", "a_code_of_tomorrow"])
async def test_codes_of_other_servers_reach_the_call_verbatim(code: str) -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.refuse(code)
        await conversation.listen()

    async with ScriptedServer(refuse) as server, client_at(server.url, api_key="pk_live_x") as (client, _):
        await client.connect()
        with pytest.raises(ServerRequestError) as caught:
            await client.publish("a", 1)
        assert caught.value.code == code


def test_no_code_is_left_out() -> None:
    shown = {row.code for row in REFUSALS} | {code for _, code, _ in UNCORRELATED}
    elsewhere = {"over_message_quota", "backend_error", "internal_error"}
    assert shown | elsewhere == set(ErrorCode.__args__)  # type: ignore[attr-defined]
