"""Losing the connection, reconnecting, giving up."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime.core.session.session import Timings
from metered_realtime.errors import DisconnectedError, NotConnectedError
from metered_realtime.events import (
    Connected,
    Disconnected,
    GoingAway,
    Reconnecting,
    Resubscribed,
    StateChange,
    SubscriptionLost,
    TokenProviderError,
)
from metered_realtime.options import ReconnectOptions

from ..support.programs import SOON, Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer, behave, refuse_handshake


async def drop_when_asked(conversation: Conversation) -> None:
    """Acknowledge until the publication "drop"."""
    await conversation.welcome()
    while (await conversation.ack()).get("data") != "drop":
        pass
    conversation.drop()


async def test_a_lost_connection_comes_back_with_its_subscriptions() -> None:
    async with ScriptedServer(drop_when_asked, behave) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await client.subscribe("a")
        await client.subscribe("b")
        await client.publish("a", "drop")
        await diary.wait_for(Resubscribed, 2)
        assert diary.events[3:] == [
            Disconnected(1006, "", True),
            StateChange("connected", "reconnecting"),
            Reconnecting(1, diary.of(Reconnecting)[0].delay),
            StateChange("reconnecting", "connected"),
            Connected("ann", 1, None, True, 65536, None),
            Resubscribed("a"),
            Resubscribed("b"),
        ]
        assert diary.states[3:5] == ["connected", "reconnecting"]
        assert [frame["channel"] for frame in server.conversations[1].heard] == ["a", "b"]
        await client.close()


async def test_a_subscription_that_the_server_takes_back_is_told_as_lost() -> None:
    async def refuse_all(conversation: Conversation) -> None:
        await conversation.welcome()
        while True:
            await conversation.refuse("channel_not_authorized")

    async with ScriptedServer(drop_when_asked, refuse_all) as server:
        client = make_client(server, _timings=Timings(replay_delay=0.001))
        diary = Diary(client)
        await client.connect()
        await client.subscribe("a")
        await client.publish("a", "drop")
        lost = await diary.wait_for(SubscriptionLost)
        assert lost.channel == "a"
        assert len(server.conversations[1].heard) == 4
        await client.close()


async def test_attempts_that_fail_in_every_way_are_repeated() -> None:
    async def close_unwelcomed(conversation: Conversation) -> None:
        await conversation.hang_up(1011, "not now")

    scripts = [drop_when_asked, refuse_handshake(503), refuse_handshake(429), close_unwelcomed, behave]
    async with ScriptedServer(*scripts) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await client.publish("a", "drop")
        await diary.wait_for(Connected, 2)
        assert [event.attempt for event in diary.of(Reconnecting)] == [1, 2, 3, 4]
        assert diary.of(Disconnected) == [Disconnected(1006, "", True), Disconnected(1011, "not now", True)]
        await client.close()


@pytest.mark.parametrize("code", [4001, 4003, 4012, 4020])
async def test_a_terminal_code_ends_the_client_and_its_streams(code: int) -> None:
    async def kick(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hang_up(code, "out")

    async with ScriptedServer(kick) as server:
        client = make_client(server)
        diary = Diary(client)
        stream = client.events(Disconnected)
        await client.connect()
        assert [event async for event in stream] == [Disconnected(code, "out", False)]
        assert diary.events[3:] == [Disconnected(code, "out", False), StateChange("connected", "closed")]
        assert len(server.paths) == 1
        await client.close()


async def test_giving_up_is_told_when_nobody_listens_any_more() -> None:
    async with ScriptedServer() as server:
        client = make_client(server, reconnect=ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=3))
        diary = Diary(client)
        ended = client.events(Disconnected)
        await client.connect()
        await server.stop()
        told = [event async for event in ended]
        assert told[-1] == Disconnected(1006, "ConnectionRefusedError", False)
        assert [event.will_reconnect for event in told] == [True, False]
        assert diary.events[-1] == StateChange("reconnecting", "closed")
        assert client.state == "closed"
        with pytest.raises(NotConnectedError):
            await client.publish("a", 1)
        await client.close()


async def test_a_restarted_server_is_found_again() -> None:
    async with ScriptedServer() as server:
        client = make_client(server, reconnect=ReconnectOptions(initial_delay=0.01, max_delay=0.01))
        diary = Diary(client)
        await client.connect()
        await client.subscribe("a")
        await server.stop()
        await diary.wait_for(Reconnecting, 2)
        await server.start()
        await diary.wait_for(Resubscribed)
        await client.publish("a", 1)
        await client.close()


async def test_token_failures_are_told_and_end_in_a_give_up_with_the_last_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def expire(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hang_up(4002, "expired")

    class LoginExpiredError(Exception):
        def __init__(self, user: str) -> None:
            super().__init__(f"https://auth/?token=s3cret for {user}")
            self.user = user

    tokens = iter(["first"])

    def provide() -> str:
        token = next(tokens, None)
        if token is None:
            raise LoginExpiredError("ann")
        return token

    async with ScriptedServer(expire) as server:
        client = make_client(server, token_provider=provide)
        diary = Diary(client)
        ended = client.events(StateChange)
        await client.connect()
        assert [change.to async for change in ended][-1] == "closed"
        told = diary.of(TokenProviderError)
        assert [event.consecutive_failures for event in told] == [3, 4, 5]
        assert all(isinstance(event.err, LoginExpiredError) and event.err.user == "ann" for event in told)
        assert "s3cret" not in str(told[0].err)
        assert caplog.text.count(", in provide") == 5
        assert "https://auth/?token=s3cret" not in caplog.text.replace('f"https://auth/?token=s3cret for {user}"', "")
        assert diary.of(Disconnected)[-1] == Disconnected(4002, "token provider failed", False)
        await client.close()


async def test_an_expired_token_is_replaced_and_the_subscription_lives_on() -> None:
    async def expire(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.ack()
        await conversation.hang_up(4002, "expired")

    tokens = iter(["old", "new"])
    async with ScriptedServer(expire, behave) as server:
        client = make_client(server, token_provider=lambda: next(tokens))
        diary = Diary(client)
        await client.connect()
        await client.subscribe("a")
        await diary.wait_for(Resubscribed)
        assert diary.of(Disconnected) == [Disconnected(4002, "expired", True)]
        assert server.paths == ["/v1?token=old&recover=1", "/v1?token=new&recover=1"]
        await client.close()


async def test_silence_is_broken_by_pings_and_then_ends_the_connection() -> None:
    async def ignore(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.listen()

    async with ScriptedServer(ignore, behave) as server:
        client = make_client(server, inactivity_timeout=0.1)
        diary = Diary(client)
        await client.connect()
        assert await diary.wait_for(Disconnected) == Disconnected(4000, "inactivity", True)
        await diary.wait_for(Connected, 2)
        assert all(frame == {"type": "ping"} for frame in server.conversations[0].heard)
        await server.conversations[0].socket.wait_closed()
        assert server.conversations[0].socket.close_code == 4000
        await client.close()


async def test_going_away_is_told_and_decides_on_the_return() -> None:
    async def leave(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.say({"type": "going_away", "retryAfterMs": 50})
        await conversation.hang_up(1001, "deploy")

    async with ScriptedServer(leave, behave) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 2)
        assert diary.of(GoingAway) == [GoingAway(50)]
        assert 0.04 <= diary.of(Reconnecting)[0].delay <= 0.05
        await client.close()


async def test_without_reconnect_the_first_loss_is_the_end() -> None:
    async with ScriptedServer(drop_when_asked) as server:
        client = make_client(server, reconnect=False)
        ended = client.events(Disconnected)
        await client.connect()
        await client.publish("a", "drop")
        assert [event async for event in ended] == [Disconnected(1006, "", False)]
        await client.close()


# --- waiting for the connection


async def test_while_reconnecting_requests_fail_at_once_by_default() -> None:
    async with ScriptedServer(drop_when_asked) as server:
        client = make_client(server, reconnect=ReconnectOptions(initial_delay=60, max_delay=60))
        diary = Diary(client)
        await client.connect()
        await client.publish("a", "drop")
        await diary.wait_for(Reconnecting)
        for request in (client.subscribe("a"), client.publish("a", 1), client.send("bob", 1)):
            with pytest.raises(NotConnectedError):
                await request
        await client.close()


async def test_a_queue_lets_requests_wait_for_the_connection_in_order() -> None:
    async with ScriptedServer(drop_when_asked, behave) as server:
        client = make_client(server, queue_while_reconnecting=2, reconnect=SOON)
        diary = Diary(client)
        await client.connect()
        await client.subscribe("a")
        await client.publish("a", "drop")
        await diary.wait_for(Reconnecting)
        waiting = [asyncio.ensure_future(client.publish("a", n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(NotConnectedError):
            await client.publish("a", 3)
        await asyncio.gather(*waiting)
        heard = server.conversations[1].heard
        assert [frame.get("data", "subscribe") for frame in heard] == ["subscribe", 1, 2]
        await client.close()


async def test_close_fails_what_waits() -> None:
    async with ScriptedServer(drop_when_asked) as server:
        slow = ReconnectOptions(initial_delay=60, max_delay=60)
        client = make_client(server, queue_while_reconnecting=1, reconnect=slow)
        diary = Diary(client)
        await client.connect()
        await client.publish("a", "drop")
        await diary.wait_for(Reconnecting)
        waiting = asyncio.ensure_future(client.send("bob", 1))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(DisconnectedError):
            await waiting
