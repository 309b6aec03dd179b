"""The outcomes of subscribe, unsubscribe, publish and send at their calls."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest

from metered_realtime.core.session.session import Timings
from metered_realtime.core.wire.frames import encode_payload
from metered_realtime.errors import (
    AckTimeoutError,
    DisconnectedError,
    PayloadTooLargeError,
    ServerRequestError,
)
from metered_realtime.events import Direct, Message, Presence, PresencePeer, ServerError
from metered_realtime.options import SubscribeOptions
from metered_realtime.signalling import socket
from metered_realtime.signalling.for_peers import publish_encoded, send_encoded

from ..support.programs import Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer

PATIENT = Timings(welcome_timeout=5, ack_timeout=0.02)


async def test_each_request_writes_its_frame_and_returns_with_the_acknowledgement() -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        await client.subscribe("a", SubscribeOptions(include_sender_metadata=True))
        await client.subscribe("b")
        await client.unsubscribe("b")
        await client.publish("a", {"text": "größer", "n": None})
        await client.send("bob", None)
        heard = server.conversations[0].heard
        assert all(frame.pop("requestId") for frame in heard)
        assert heard == [
            {"type": "subscribe", "channel": "a", "includeSenderMetadata": True, "recover": True},
            {"type": "subscribe", "channel": "b", "recover": True},
            {"type": "unsubscribe", "channel": "b"},
            {"type": "publish", "channel": "a", "data": {"text": "größer", "n": None}},
            {"type": "send", "to": "bob", "data": None},
        ]
        assert client.subscriptions == ("a",)


async def test_an_encoded_payload_is_sent_unchanged() -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        await publish_encoded(client, "a", encode_payload({"n": 1}))
        await send_encoded(client, "bob", msgspec.Raw(b"[1, 2]"))
        assert [frame["data"] for frame in server.conversations[0].heard] == [{"n": 1}, [1, 2]]


async def test_concurrent_requests_go_out_whole_and_in_the_order_of_the_calls() -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        large = "x" * 50_000
        await asyncio.gather(*(client.publish("a", [n, large]) for n in range(100)))
        assert [frame["data"][0] for frame in server.conversations[0].heard] == list(range(100))


async def test_answers_may_come_in_any_order() -> None:
    async def shuffle(conversation: Conversation) -> None:
        await conversation.welcome()
        frames = [await conversation.hear() for _ in range(3)]
        for frame in reversed(frames):
            await conversation.say({"type": "ack", "requestId": frame["requestId"]})
        await conversation.listen()

    async with ScriptedServer(shuffle) as server, make_client(server) as client:
        ended: list[int] = []

        async def publish(n: int) -> None:
            await client.publish("a", n)
            ended.append(n)

        await asyncio.gather(*(publish(n) for n in range(3)))
        assert ended == [2, 1, 0]


async def test_a_refusal_is_raised_where_it_was_asked_for() -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.refuse("channel_not_authorized")
        await conversation.refuse("brand_new_code")
        await conversation.listen()

    async with ScriptedServer(refuse) as server, make_client(server) as client:
        diary = Diary(client)
        with pytest.raises(ServerRequestError) as caught:
            await client.subscribe("a")
        assert caught.value.code == "channel_not_authorized"
        assert caught.value.request_id == server.conversations[0].heard[0]["requestId"]
        with pytest.raises(ServerRequestError) as caught:
            await client.publish("a", 1)
        assert caught.value.code == "brand_new_code"
        assert diary.events == []
        assert client.subscriptions == ()


async def test_no_answer_is_a_timeout_and_a_late_refusal_an_event() -> None:
    async def dawdle(conversation: Conversation) -> None:
        await conversation.welcome()
        frame = await conversation.hear()
        await conversation.hear()
        await conversation.say({"type": "error", "code": "backend_error", "requestId": frame["requestId"]})
        await conversation.listen()

    async with ScriptedServer(dawdle) as server, make_client(server, _timings=PATIENT) as client:
        diary = Diary(client)
        with pytest.raises(AckTimeoutError) as caught:
            await client.publish("a", 1)
        assert caught.value.timeout == 0.02
        with pytest.raises(AckTimeoutError):
            await client.publish("a", 2)
        error = await diary.wait_for(ServerError)
        assert (error.code, error.request_id) == ("backend_error", caught.value.request_id)


async def test_a_drop_under_way_fails_every_request() -> None:
    async def drop(conversation: Conversation) -> None:
        await conversation.welcome()
        for _ in range(3):
            await conversation.hear()
        conversation.drop()

    async with ScriptedServer(drop) as server:
        client = make_client(server, reconnect=False)
        await client.connect()
        results = await asyncio.gather(*(client.publish("a", n) for n in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [DisconnectedError] * 3
        await client.close()


async def test_a_cancelled_request_leaves_the_others_alone() -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        cancelled = asyncio.ensure_future(client.publish("a", 1))
        await asyncio.sleep(0)
        cancelled.cancel()
        await client.publish("a", 2)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert client._replies == {}


@pytest.mark.parametrize(
    ("channel", "error"),
    [(None, TypeError), (b"a", TypeError), ("", ValueError), ("x" * 257, ValueError), ("é" * 129, ValueError)]
    + [(f"a{character}", ValueError) for character in "\x00\n\x7f\x9f\ud800"],
)
async def test_a_bad_channel_name_is_refused_before_anything_is_sent(channel: Any, error: type[Exception]) -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        for request in (client.subscribe(channel), client.unsubscribe(channel), client.publish(channel, 1)):
            with pytest.raises(error):
                await request
        assert server.conversations[0].heard == []


@pytest.mark.parametrize(
    ("peer_id", "error"), [(7, TypeError), ("", ValueError), ("x" * 129, ValueError), ("a\x1f", ValueError)]
)
async def test_a_bad_peer_id_is_refused_before_anything_is_sent(peer_id: Any, error: type[Exception]) -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        with pytest.raises(error):
            await client.send(peer_id, 1)
        assert server.conversations[0].heard == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (math.nan, ValueError),
        ([math.inf], ValueError),
        (object(), TypeError),
        (b"x", TypeError),
        ("\ud800", ValueError),
    ],
)
async def test_data_that_is_no_json_is_refused_before_anything_is_sent(data: Any, error: type[Exception]) -> None:
    async with ScriptedServer() as server, make_client(server) as client:
        with pytest.raises(error):
            await client.publish("a", data)
        assert server.conversations[0].heard == []


async def test_sizes_are_bytes_of_utf_8_and_checked_against_the_welcome() -> None:
    async def small(conversation: Conversation) -> None:
        await conversation.welcome(maxMessageSize=32)
        while True:
            await conversation.ack()

    async with ScriptedServer(small) as server, make_client(server) as client:
        await client.publish("a", "汉" * 10)
        with pytest.raises(PayloadTooLargeError) as caught:
            await client.publish("a", "汉" * 11)
        assert (caught.value.size, caught.value.cap) == (35, 32)
        with pytest.raises(PayloadTooLargeError):
            await client.send("bob", "汉" * 11)
        assert len(server.conversations[0].heard) == 1


async def test_inbound_frames_become_events_in_their_order() -> None:
    async def room(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.ack()
        entry = {"peerId": "bob", "metadata": {"n": 1}}
        await conversation.say({"type": "presence", "channel": "a", "joined": [entry], "left": []})
        await conversation.say({"type": "direct", "from": "bob", "data": 1, "fromMetadata": {"n": 1}})
        await conversation.say({"type": "message", "channel": "a", "from": "bob", "data": 2})
        await conversation.say({"type": "presence", "channel": "a", "joined": [], "left": [{"peerId": "bob"}]})
        await conversation.listen()

    async with ScriptedServer(room) as server, make_client(server) as client:
        diary = Diary(client)
        await client.subscribe("a")
        await diary.wait_for(Presence, 2)
        assert diary.events == [
            Presence("a", (PresencePeer("bob", {"n": 1}),), ()),
            Direct("bob", 1, {"n": 1}),
            Message("a", "bob", 2),
            Presence("a", (), (PresencePeer("bob"),)),
        ]


async def test_a_sync_handler_may_start_requests_and_an_async_one_may_await_them() -> None:
    async def chatty(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.ack()
        await conversation.say({"type": "message", "channel": "a", "from": "bob", "data": 1})
        while True:
            await conversation.ack()

    async with ScriptedServer(chatty) as server, make_client(server) as client:
        answered = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        @client.on(Message)
        async def answer(message: Message) -> None:
            await client.publish("a", message.data + 1)
            answered.set()

        client.on(Message, lambda it: tasks.append(asyncio.ensure_future(client.publish("a", it.data + 2))))
        await client.subscribe("a")
        await answered.wait()
        await asyncio.gather(*tasks)
        assert sorted(frame["data"] for frame in server.conversations[0].heard[1:]) == [2, 3]


async def test_in_a_burst_of_frames_other_tasks_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "TURN_TIME", 0.0, raising=False)
    count, turns = 100, 0
    turns_at: list[int] = []

    async def burst(conversation: Conversation) -> None:
        await conversation.welcome()
        for number in range(count):
            await conversation.say({"type": "message", "channel": "a", "from": "bob", "data": number})
        await conversation.listen()

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with ScriptedServer(burst) as server:
        client = make_client(server)
        diary = Diary(client)
        client.on(Message, lambda _: turns_at.append(turns))
        await client.connect()
        working = asyncio.ensure_future(work())
        await diary.wait_for(Message, count)
        working.cancel()
        assert len(set(turns_at)) == count
        await client.close()
