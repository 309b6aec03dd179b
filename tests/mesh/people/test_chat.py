"""The chat of the room page, between programs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    Chat,
    ChatMessage,
    DataChannel,
    DataChannelOpened,
    MeteredPeerSendError,
    MeteredRealtimeError,
    PeerLeft,
)
from metered_realtime.mesh.chat import MAX_CHANNELS, MAX_MESSAGES, MAX_TEXT
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually


async def talking(room: Room) -> tuple[Pair, Chat, Chat]:
    one, other = room.peer("a", name="Ann"), room.peer("b")
    chats = Chat(one), Chat(other)
    pair = await room.meet(one, other)
    await pair.log_b.holds(lambda: pair.to_a.name == "Ann")
    return pair, *chats


async def first(chat: Chat, count: int = 1) -> list[ChatMessage]:
    """Return the next messages of a chat."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(aiter(chat)) for _ in range(count)]


async def test_a_message_to_everybody_arrives_with_sender_and_name(room: Room) -> None:
    pair, a, b = await talking(room)
    await a.send("hello\nall")
    await b.send("hello Ann")
    assert await first(b) == [ChatMessage("a", "Ann", "hello\nall", False, pair.to_a)]
    assert await first(a) == [ChatMessage("b", None, "hello Ann", False, pair.to_b)]
    assert [it.text for it in b.messages] == ["hello\nall"]


async def test_a_message_to_one_goes_over_a_channel_that_both_use(room: Room) -> None:
    pair, a, b = await talking(room)
    await a.send("psst", to=pair.to_b)
    assert await first(b) == [ChatMessage("a", "Ann", "psst", True, pair.to_a)]
    await b.send("what?", to=pair.to_a)
    await b.send("who?", to=pair.to_a)
    assert [it.text for it in await first(a, 2)] == ["what?", "who?"]
    assert [len(it) for it in (a._channels[pair.to_b], b._channels[pair.to_a])] == [1, 1]


async def test_what_the_page_and_others_send_is_heard_and_other_data_is_not(room: Room) -> None:
    pair, _, b = await talking(room)
    for data in (7, {"type": "move", "text": "no"}, {"text": 7}, ["text"]):
        await pair.a.send(data)
    await pair.a.send("plain")
    await pair.a.send({"text": "bare", "name": "Queen"})
    await pair.a.send_to("b", {"type": "chat", "text": "direct"})
    heard = await first(b, 3)
    assert [(it.text, it.name, it.is_private) for it in heard] == [
        ("plain", "Ann", False),
        ("bare", "Ann", False),
        ("direct", "Ann", True),
    ]


async def test_a_name_in_a_message_counts_for_those_without_one(room: Room) -> None:
    pair, a, _ = await talking(room)
    await pair.b.send({"type": "chat", "text": "x", "name": "Bo\u202e"})
    assert [it.name for it in await first(a)] == ["Bo"]


async def test_long_texts_and_many_messages_are_bounded(room: Room) -> None:
    pair, _, b = await talking(room)
    await pair.a.send("x" * (MAX_TEXT + 10))
    (message,) = await first(b)
    assert message.text == "x" * MAX_TEXT
    for number in range(MAX_MESSAGES + 1):
        b._receive("a", None, str(number), False)
    assert [it.text for it in b.messages] == [str(number) for number in range(1, MAX_MESSAGES + 1)]
    assert await first(b, MAX_MESSAGES) == list(b.messages)


NO_MESSAGES = [("", ValueError), (" \n", ValueError), ("x" * (MAX_TEXT + 1), ValueError), (b"x", TypeError)]


@pytest.mark.parametrize(("text", "error"), NO_MESSAGES)
async def test_what_is_no_message_is_not_sent(room: Room, text: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await Chat(room.peer("a")).send(text)


async def test_nobody_is_written_to_outside_of_the_channel_or_after_leaving(room: Room) -> None:
    lonely = Chat(room.peer("c"))
    with pytest.raises(MeteredPeerSendError):
        await lonely.send("hello")
    pair, a, _ = await talking(room)
    log = EventLog(pair.a)
    await pair.b.close()
    await log.until(PeerLeft)
    with pytest.raises(MeteredRealtimeError, match="left"):
        await a.send("psst", to=pair.to_b)


async def test_a_remote_with_many_chat_channels_is_heard_on_few_of_them(room: Room) -> None:
    pair, _, b = await talking(room)
    channels = [DataChannel(pair.to_b.create_data_channel("chat")) for _ in range(MAX_CHANNELS + 2)]
    for number, channel in enumerate(channels):
        await channel.wait_open()
        await channel.send(str(number))
    log = EventLog(pair.to_a)
    last = pair.to_b.create_data_channel("end")
    await DataChannel(last).wait_open()
    await log.holds(lambda: log.events)
    await first(b)
    assert len(b._channels[pair.to_a]) == MAX_CHANNELS


async def test_the_end_of_the_peer_ends_the_iteration(room: Room) -> None:
    pair, a, b = await talking(room)
    await a.send("last")
    reading = asyncio.ensure_future(_all(b))
    await eventually(lambda: b.messages)
    await pair.b.close()
    assert [it.text for it in await asyncio.wait_for(reading, PATIENCE)] == ["last"]


async def test_a_closed_chat_leaves_the_peer_as_it_was(room: Room) -> None:
    pair, a, b = await talking(room)
    await a.send("psst", to=pair.to_b)
    await first(b)
    async with b:
        pass
    assert pair.to_a.listener_count(DataChannelOpened) == 0
    await a.send("to nobody")
    assert await _all(b) == []
    assert pair.b.state == "joined"


async def _all(chat: Chat) -> list[ChatMessage]:
    return [message async for message in chat]
