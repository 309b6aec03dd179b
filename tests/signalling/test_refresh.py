"""Connections that outlive their token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime import MeteredPeer
from metered_realtime.errors import ServerRequestError, SignallingConnectError, SignallingError, TokenExpiredError
from metered_realtime.events import Connected, Disconnected, FatalError, TokenProviderError, TokenRefreshed
from metered_realtime.signalling import SignallingClient

from ..support.programs import Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer, behave

SOON_OVER = {"serverTime": 1_000, "expiresAt": 1_002}
"""A token of two seconds, of which a client uses 0.75 s: it refreshes after half a second."""

RATHER_SOON_OVER = {"serverTime": 1_000, "expiresAt": 1_003}
"""A token with time for a third attempt, on a busy machine too."""

Provider = Callable[[], str | Awaitable[str]]


@asynccontextmanager
async def connected(server: ScriptedServer, provider: Provider) -> AsyncIterator[tuple[SignallingClient, Diary]]:
    client = make_client(server, token_provider=provider, _chance=lambda: 0.0)
    diary = Diary(client)
    try:
        await client.connect()
        yield client, diary
    finally:
        await client.close()


async def hear_the_first_refresh(conversation: Conversation) -> dict[str, Any]:
    await conversation.welcome(**SOON_OVER)
    return await conversation.hear()


async def test_a_fresh_token_is_sent_ahead_of_the_end_and_the_connection_stays() -> None:
    async def consent(conversation: Conversation) -> None:
        frame = await hear_the_first_refresh(conversation)
        await conversation.say({"type": "ack", "requestId": frame["requestId"], "expiresAt": 9_999})
        await conversation.listen()

    tokens = iter(["first", "second"])
    async with ScriptedServer(consent) as server, connected(server, lambda: next(tokens)) as (client, diary):
        assert await diary.wait_for(TokenRefreshed) == TokenRefreshed(9_999)
        assert server.conversations[0].heard == [{"type": "refresh", "token": "second", "requestId": "1"}]
        assert server.paths == ["/v1?token=first&recover=1"]
        assert client.state == "connected"
        assert diary.of(Disconnected) == []


async def test_a_server_that_knows_no_refresh_is_left_to_close_and_found_again() -> None:
    async def be_old(conversation: Conversation) -> None:
        frame = await hear_the_first_refresh(conversation)
        await conversation.say({"type": "error", "code": "unknown_type", "requestId": frame["requestId"]})
        await conversation.hang_up(4002, "expired")

    tokens = iter(["first", "second", "third"])
    async with ScriptedServer(be_old, behave) as server, connected(server, lambda: next(tokens)) as (_, diary):
        await diary.wait_for(Connected, 2)
        assert server.paths == ["/v1?token=first&recover=1", "/v1?token=third&recover=1"]
        assert diary.of(Disconnected) == [Disconnected(4002, "expired", True)]
        assert diary.of(TokenProviderError) == []


async def test_failures_of_the_provider_are_told_from_the_third_on_and_cost_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def be_patient(conversation: Conversation) -> None:
        await conversation.welcome(**RATHER_SOON_OVER)
        await conversation.listen()

    answers: list[Exception | str] = ["first", *[OSError("https://auth/?token=s3cret")] * 5]

    async def provide() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with ScriptedServer(be_patient) as server, connected(server, provide) as (client, diary):
        told = await diary.wait_for(TokenProviderError)
        assert (told.consecutive_failures, str(told.err)) == (3, "https://auth/?token=***")
        assert client.state == "connected"
        assert server.conversations[0].heard == []
    assert caplog.text.count("Traceback") == 3, "all of them are logged"
    assert ", in provide" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_provider_that_cancels_itself_counts_as_failed() -> None:
    async def be_patient(conversation: Conversation) -> None:
        await conversation.welcome(**RATHER_SOON_OVER)
        await conversation.listen()

    answers = ["first"]

    async def provide() -> str:
        if not answers:
            raise asyncio.CancelledError
        return answers.pop()

    async with ScriptedServer(be_patient) as server, connected(server, provide) as (_, diary):
        assert isinstance((await diary.wait_for(TokenProviderError)).err, SignallingError)


async def test_a_refusal_keeps_its_code() -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.welcome(**RATHER_SOON_OVER)
        while True:
            await conversation.refuse("action_not_permitted")

    async with ScriptedServer(refuse) as server, connected(server, lambda: "token") as (_, diary):
        error = (await diary.wait_for(TokenProviderError)).err
        assert isinstance(error, ServerRequestError)
        assert error.code == "action_not_permitted"
        assert server.paths == ["/v1?token=token&recover=1"]


@pytest.mark.parametrize("ending", ["close", "loss"])
async def test_a_fetch_ends_with_its_connection(ending: str) -> None:
    async def be_patient(conversation: Conversation) -> None:
        await conversation.welcome(**SOON_OVER)
        await conversation.listen()

    asked, dropped = asyncio.Event(), asyncio.Event()
    calls = 0

    async def provide() -> str:
        nonlocal calls
        calls += 1
        if calls != 2:
            return f"token{calls}"
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        raise AssertionError

    async with ScriptedServer(be_patient, behave) as server, connected(server, provide) as (client, diary):
        await asked.wait()
        if ending == "close":
            await client.close()
        else:
            server.conversations[0].drop()
            await diary.wait_for(Connected, 2)
            assert server.paths[1:] == ["/v1?token=token3&recover=1"]
        assert dropped.is_set()


async def test_with_a_key_nothing_is_refreshed() -> None:
    async def be_patient(conversation: Conversation) -> None:
        await conversation.welcome(**SOON_OVER)
        await asyncio.sleep(0.8)
        await conversation.hang_up(4002, "expired")

    async with ScriptedServer(be_patient, behave) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 2)
        assert server.conversations[0].heard == []
        await client.close()


async def test_a_plain_token_serves_every_connection_until_it_expires_and_then_says_what_is_missing() -> None:
    async def expire(conversation: Conversation) -> None:
        await conversation.welcome(**SOON_OVER)
        await conversation.hang_up(4002, "expired")

    async def drop(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hang_up(1012, "restart")

    async with ScriptedServer(drop, expire) as server:
        client = make_client(server, api_key=None, token="t0k3n")
        diary = Diary(client)
        try:
            await client.connect()
            await diary.wait_for_state("closed")
        finally:
            await client.close()
        assert server.paths == ["/v1?token=t0k3n&recover=1"] * 2
        first, last = diary.of(Disconnected)
        assert (first.will_reconnect, first.err) == (True, None)
        assert (last.code, last.will_reconnect) == (4002, False)
        assert isinstance(last.err, TokenExpiredError)
        assert "token_provider" in str(last.err)


async def test_a_peer_with_a_plain_token_that_expires_ends_with_that_error() -> None:
    async def expire(conversation: Conversation) -> None:
        await conversation.welcome(**SOON_OVER)
        request = await conversation.hear()
        await conversation.say({"type": "ack", "requestId": request["requestId"]})
        await conversation.say({"type": "presence", "channel": "room", "joined": [], "left": []})
        await conversation.hang_up(4002, "expired")

    async with ScriptedServer(expire) as server, MeteredPeer(url=server.url, token="t0k3n") as peer:
        fatal = peer.events(FatalError)
        await peer.join("room")
        event = await anext(fatal)
        assert isinstance(event.err, TokenExpiredError)
        assert event.code == "token_expired"


def test_a_peer_with_a_shared_client_takes_no_token() -> None:
    client = SignallingClient(url="ws://localhost", token="t")
    with pytest.raises(ValueError, match="shared client"):
        MeteredPeer(client=client, token="t")


async def test_a_plain_token_that_has_expired_already_is_an_error_of_its_own() -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.hang_up(4002, "expired")

    async with ScriptedServer(refuse) as server:
        client = make_client(server, api_key=None, token="t0k3n")
        with pytest.raises(SignallingConnectError) as raised:
            await client.connect()
        assert isinstance(raised.value, TokenExpiredError)
        assert (raised.value.close_code, raised.value.close_reason) == (4002, "expired")
        assert "t0k3n" not in f"{client!r} {raised.value!r} {vars(client)}"


async def test_an_end_by_expiry_is_no_end_with_a_provider() -> None:
    async def expire(conversation: Conversation) -> None:
        await conversation.welcome(**SOON_OVER)
        await conversation.hang_up(4002, "expired")

    async with ScriptedServer(expire, behave) as server, connected(server, lambda: "again") as (_, diary):
        await diary.wait_for(Connected, 2)
        assert [(it.will_reconnect, it.err) for it in diary.of(Disconnected)] == [(True, None)]


@pytest.mark.parametrize(
    "credentials",
    [{}, {"api_key": "k", "token": "t"}, {"token": "t", "token_provider": lambda: "t"}, {"token": ""}],
)
def test_exactly_one_credential_is_needed(credentials: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of api_key, token and token_provider"):
        SignallingClient(url="ws://localhost", **credentials)


def test_a_function_is_no_plain_token() -> None:
    with pytest.raises(TypeError, match="token_provider"):
        SignallingClient(url="ws://localhost", token=lambda: "t")  # type: ignore[arg-type]
