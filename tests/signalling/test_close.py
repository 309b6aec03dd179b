"""Closing a client: in any state, in bounded time, once."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime.errors import DisconnectedError
from metered_realtime.events import Connected, Direct, Message, StateChange
from metered_realtime.signalling.client import CLOSE_TIMEOUT
from tests.support.patience import takes_less_than

from ..support.programs import Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer, behave

SLACK = 0.5


async def greet(conversation: Conversation) -> None:
    await conversation.welcome()
    await conversation.say({"type": "direct", "from": "bob", "data": 1})
    await conversation.listen()


@pytest.mark.parametrize("code", [1001, 1008, 4321])
async def test_close_says_goodbye_with_code_and_reason_and_is_idempotent(code: int) -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        await client.connect()
        await client.close(code, "ä" * 100)
        await client.close()
        socket = server.conversations[0].socket
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (code, "ä" * 61)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_codes_that_a_client_may_not_send_are_refused_and_change_nothing(code: int) -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        with pytest.raises(ValueError, match="code"):
            await client.close(code)
        assert client.state == "connected"


async def test_close_of_an_unused_client_is_told_and_ends_its_streams() -> None:
    client = make_client("ws://localhost:1")
    stream = client.events(StateChange)
    await client.close()
    assert [event async for event in stream] == [StateChange("idle", "closed")]
    assert [event async for event in stream] == []
    assert [event async for event in client.events(StateChange)] == []


async def test_close_fails_what_is_under_way() -> None:
    async with ScriptedServer(greet) as server:
        client = make_client(server)
        await client.connect()
        requests = [asyncio.ensure_future(it) for it in (client.publish("a", 1), client.subscribe("a"))]
        await asyncio.sleep(0)
        await client.close()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(result) for result in results] == [DisconnectedError] * 2


async def test_close_inside_an_async_handler_returns_there() -> None:
    async with ScriptedServer(greet) as server:
        client = make_client(server)
        diary = Diary(client)
        closed = asyncio.Event()

        @client.on(Direct)
        async def leave(direct: Direct) -> None:
            await client.close()
            closed.set()

        stream = client.events(Connected)
        await client.connect()
        await asyncio.wait_for(closed.wait(), CLOSE_TIMEOUT)
        assert client.state == "closed"
        assert diary.events[-1] == StateChange("connected", "closed")
        assert len([event async for event in stream]) == 1


async def test_several_handlers_may_close_at_once() -> None:
    async with ScriptedServer(greet) as server:
        client = make_client(server)
        ended: asyncio.Queue[int] = asyncio.Queue()

        async def leave(n: int) -> None:
            await asyncio.sleep(n / 100)  # some enter while others already wait
            await client.close()
            ended.put_nowait(n)

        for n in range(3):
            client.on(Direct, lambda _, n=n: leave(n))
        async with takes_less_than(1):
            await client.connect()
            assert sorted([await ended.get() for _ in range(3)]) == [0, 1, 2]


async def test_a_handler_of_the_end_may_connect_again() -> None:
    async def kick(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hang_up(4020)

    async with ScriptedServer(kick, behave) as server:
        client = make_client(server)
        back = asyncio.Event()

        @client.on(StateChange)
        async def return_at_once(change: StateChange) -> None:
            if change.to == "closed":
                await client.connect()
                back.set()

        await client.connect()
        await asyncio.wait_for(back.wait(), CLOSE_TIMEOUT)
        assert client.state == "connected"
        await client.close()


async def test_a_cancelled_close_finishes_nevertheless() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        await client.connect()
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await client.close()
        assert client.state == "closed"


async def test_close_is_bounded_when_server_and_handlers_do_not_cooperate() -> None:
    done = asyncio.Event()

    async def deaf(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.say({"type": "message", "channel": "a", "from": "bob", "data": 1})
        conversation.socket.transport.pause_reading()
        await done.wait()

    async with ScriptedServer(deaf) as server:
        client = make_client(server)
        cancelled, release = asyncio.Event(), asyncio.Event()

        @client.on(Message)
        async def stubborn(message: Message) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                await release.wait()

        stream = client.events(Message)
        await client.connect()
        await anext(stream)
        async with takes_less_than(CLOSE_TIMEOUT + SLACK):
            await client.close()
        assert cancelled.is_set()
        assert client.state == "closed"
        release.set()
        done.set()
        await asyncio.sleep(0)


async def test_a_write_buffer_that_nobody_empties_does_not_hold_close_up() -> None:
    done = asyncio.Event()

    async def deaf(conversation: Conversation) -> None:
        await conversation.welcome()
        conversation.socket.transport.pause_reading()
        await done.wait()

    async with ScriptedServer(deaf) as server:
        client = make_client(server)
        await client.connect()
        flood = [asyncio.ensure_future(client.publish("a", "x" * 60_000)) for _ in range(400)]
        await asyncio.sleep(0.05)
        async with takes_less_than(CLOSE_TIMEOUT + SLACK):
            await client.close()
        results = await asyncio.gather(*flood, return_exceptions=True)
        assert {type(result) for result in results} == {DisconnectedError}
        done.set()


async def test_the_context_manager_closes_after_an_error_too() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        with pytest.raises(KeyError):
            async with client:
                raise KeyError
        assert client.state == "closed"
