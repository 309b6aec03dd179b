"""The five outcomes of `subscribe`, `unsubscribe`, `publish` and `send`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from metered_realtime import (
    AckTimeoutError,
    DisconnectedError,
    NotConnectedError,
    PayloadTooLargeError,
    ServerError,
    ServerRequestError,
    SignallingError,
)
from metered_realtime.core.session.session import Timings
from metered_realtime.server import SignallingServer
from metered_realtime.signalling import SignallingClient
from tests.support.scripted_server import Conversation, ScriptedServer

from .support import client_at, connected

REQUESTS: dict[str, Callable[[SignallingClient], Awaitable[None]]] = {
    "subscribe": lambda client: client.subscribe("a"),
    "unsubscribe": lambda client: client.unsubscribe("a"),
    "publish": lambda client: client.publish("a", 1),
    "send": lambda client: client.send("ann", 1),
}

every_request = pytest.mark.parametrize("name", REQUESTS)


@every_request
async def test_acknowledged_it_returns_none(name: str) -> None:
    async with SignallingServer() as server, connected(server) as (client, _):
        assert await REQUESTS[name](client) is None  # type: ignore[func-returns-value]


@every_request
async def test_refused_it_raises_the_code_of_the_server(name: str) -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.refuse("internal_error")
        await conversation.listen()

    async with ScriptedServer(refuse) as server, client_at(server.url, api_key="pk_live_x") as (client, _):
        await client.connect()
        with pytest.raises(ServerRequestError) as caught:
            await REQUESTS[name](client)
        sent = server.conversations[0].heard[0]
        assert (caught.value.code, caught.value.request_id) == ("internal_error", sent["requestId"])


@every_request
@pytest.mark.parametrize("when", ["idle", "reconnecting", "closed"])
async def test_without_a_connection_it_raises_at_once_and_nothing_is_sent(name: str, when: str) -> None:
    async def leave(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.say({"type": "going_away", "retryAfterMs": 60_000})
        await conversation.hang_up(1001)

    async with ScriptedServer(leave) as server, client_at(server.url, api_key="pk_live_x") as (client, diary):
        if when != "idle":
            await client.connect()
            await diary.wait_for_state("reconnecting")
        if when == "closed":
            await client.close()
        with pytest.raises(NotConnectedError) as caught:
            await REQUESTS[name](client)
        assert isinstance(caught.value, SignallingError)
        assert not isinstance(caught.value, DisconnectedError)
        assert [conversation.heard for conversation in server.conversations] == ([[]] if when != "idle" else [])


@every_request
async def test_cut_off_it_raises_disconnected(name: str) -> None:
    async def drop(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hear()
        conversation.drop()

    async with ScriptedServer(drop) as server, client_at(server.url, api_key="pk_live_x") as (client, _):
        await client.connect()
        with pytest.raises(DisconnectedError):
            await REQUESTS[name](client)


@every_request
async def test_unanswered_it_times_out_and_a_late_answer_harms_nobody(name: str) -> None:
    answer = asyncio.Event()
    heard = asyncio.get_running_loop().create_future()

    async def be_late(conversation: Conversation) -> None:
        await conversation.welcome()
        frame = await conversation.hear()
        heard.set_result(frame)
        await answer.wait()
        await conversation.say({"type": "ack", "requestId": frame["requestId"]})
        await conversation.say({"type": "error", "code": "internal_error", "requestId": frame["requestId"]})
        await conversation.listen()

    hasty = Timings(ack_timeout=0.02)
    async with (
        ScriptedServer(be_late) as server,
        client_at(server.url, api_key="pk_live_x", _timings=hasty) as (client, diary),
    ):
        await client.connect()
        with pytest.raises(AckTimeoutError) as caught:
            await REQUESTS[name](client)
        sent = await heard  # the timeout may be over before the server has read the frame
        assert (caught.value.request_id, caught.value.timeout) == (sent["requestId"], 0.02)
        answer.set()
        assert await diary.wait_for(ServerError) == ServerError("internal_error", None, sent["requestId"])
        assert client.state == "connected"


def test_the_ordinary_timeout_is_15_seconds() -> None:
    assert Timings().ack_timeout == 15


WRONG_ARGUMENTS: list[tuple[type[Exception], str, Callable[[SignallingClient], Awaitable[None]]]] = [
    (TypeError, "a channel that is no text", lambda client: client.subscribe(7)),  # type: ignore[arg-type]
    (ValueError, "an empty channel", lambda client: client.unsubscribe("")),
    (ValueError, "a channel of 257 bytes", lambda client: client.publish("ö" * 128 + "x", 1)),
    (ValueError, "a channel with a control character", lambda client: client.subscribe("a\n")),
    (TypeError, "a peer id that is no text", lambda client: client.send(None, 1)),  # type: ignore[arg-type]
    (ValueError, "an empty peer id", lambda client: client.send("", 1)),
    (ValueError, "a peer id of 129 characters", lambda client: client.send("x" * 129, 1)),
    (TypeError, "data that is no JSON", lambda client: client.publish("a", object())),
    (ValueError, "data with NaN", lambda client: client.publish("a", float("nan"))),
    (PayloadTooLargeError, "a payload over the cap", lambda client: client.publish("a", "x" * 65_535)),
    (PayloadTooLargeError, "the same in bytes, not characters", lambda client: client.send("ann", "汉" * 22_000)),
]


@pytest.mark.parametrize(("kind", "why", "call"), WRONG_ARGUMENTS, ids=lambda it: it if isinstance(it, str) else "")
async def test_wrong_arguments_raise_before_anything_is_sent(
    kind: type[Exception], why: str, call: Callable[[SignallingClient], Awaitable[None]]
) -> None:
    async with ScriptedServer() as server, client_at(server.url, api_key="pk_live_x") as (client, _):
        await client.connect()
        with pytest.raises(kind):
            await call(client)
        assert server.conversations[0].heard == []
        assert client.state == "connected"
