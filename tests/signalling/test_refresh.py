"""Connections that outlive their token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime.errors import ServerRequestError, SignallingError
from metered_realtime.events import Connected, Disconnected, TokenProviderError, TokenRefreshed
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
