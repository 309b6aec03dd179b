"""Data channels between two peers: nothing is lost, reordered or stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    ChannelClosedError,
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DataChannelOverflowError,
    DCClose,
    DCError,
    DCMessage,
    DCOpen,
    MessageTooLargeError,
    MeteredRealtimeError,
    NegotiationError,
)
from metered_realtime.channels import data_channel, early_messages
from metered_realtime.channels.unread import unread_of
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually


async def opened(pair: Pair, **options: Any) -> tuple[DataChannel, DataChannel]:
    """Open a channel from a to b and return both ends, a's first."""
    count = len(pair.log_b.of(DataChannelOpened))
    mine = DataChannel(pair.to_b.create_data_channel("x"), **options)
    log = EventLog(mine)
    theirs = DataChannel((await pair.log_b.until(DataChannelOpened, count + 1)).channel, **options)
    await log.until(DCOpen)
    return mine, theirs


async def clog(channel: DataChannel, count: int) -> list[asyncio.Task[None]]:
    """Fill a channel of 10,000 bytes, and return sends numbered from 0 that wait for it."""
    await channel.send("-" * 10_000)  # this one SCTP takes, but more than its window
    filling = asyncio.ensure_future(channel.send("-" * 10_000))
    sends = [asyncio.ensure_future(channel.send(str(number % 10) * 10_000)) for number in range(count)]
    await asyncio.sleep(0)
    assert filling.done()
    assert not any(send.done() for send in sends)
    return sends


def messages(log: EventLog) -> list[str | bytes]:
    return [event.data for event in log.of(DCMessage)]


@pytest.mark.smoke
@pytest.mark.parametrize("opener", ["a", "b"])
@pytest.mark.every_path
async def test_either_end_can_open_a_channel(room: Room, opener: str) -> None:
    pair = await room.pair()
    remote, log = (pair.to_b, pair.log_b) if opener == "a" else (pair.to_a, pair.log_a)
    mine = DataChannel(remote.create_data_channel("chat"))
    seen = EventLog(mine)
    assert (mine.label, mine.ready_state) == ("chat", "connecting")
    theirs = DataChannel((await log.until(DataChannelOpened)).channel)
    seen_there = EventLog(theirs)
    await seen.until(DCOpen)
    await seen_there.until(DCOpen)
    await mine.send("ping")
    await seen_there.until(DCMessage, data="ping")
    await theirs.send(b"pong")
    await seen.until(DCMessage, data=b"pong")
    assert (theirs.label, mine.ready_state, theirs.ready_state) == ("chat", "open", "open")
    assert len(seen.of(DCOpen)) == len(seen_there.of(DCOpen)) == 1


async def test_both_ends_can_open_one_at_the_same_moment(room: Room) -> None:
    pair = await room.pair()
    channels = [DataChannel(remote.create_data_channel("x")) for remote in (pair.to_b, pair.to_a)]
    logs = [EventLog(channel) for channel in channels]
    inbound = [DataChannel((await log.until(DataChannelOpened)).channel) for log in (pair.log_b, pair.log_a)]
    for channel, log, other in zip(channels, logs, inbound, strict=True):
        await log.until(DCOpen)
        heard = EventLog(other)
        await channel.send("x")
        await heard.until(DCMessage)
    for log in (pair.log_a, pair.log_b):
        assert log.of(ConnectionReset) == log.of(NegotiationError) == []


async def test_channels_opened_at_once_stay_separate(room: Room) -> None:
    pair = await room.pair()
    mine = [DataChannel(pair.to_b.create_data_channel(f"to b {n}")) for n in range(20)]
    mine += [DataChannel(pair.to_a.create_data_channel(f"to a {n}")) for n in range(20)]
    for log in (pair.log_a, pair.log_b):
        await log.until(DataChannelOpened, 20)
    await eventually(lambda: all(channel.ready_state == "open" for channel in mine))
    inbound = [
        EventLog(DataChannel(it.channel)) for log in (pair.log_b, pair.log_a) for it in log.of(DataChannelOpened)
    ]
    labels = [event.channel.label for log in (pair.log_b, pair.log_a) for event in log.of(DataChannelOpened)]
    for channel in mine:
        await channel.send(channel.label)
    for label, log in zip(labels, inbound, strict=True):
        await log.until(DCMessage)
        assert messages(log) == [label]


async def test_one_more_on_a_running_connection_needs_no_negotiation(room: Room) -> None:
    pair = await room.pair()
    await opened(pair)
    before = pair.to_b.pc.localDescription.sdp
    await opened(pair)
    assert pair.to_b.pc.localDescription.sdp == before


@pytest.mark.every_path
async def test_text_arrives_as_text_and_bytes_as_bytes(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    sent: list[str | bytes] = ["text", b"bytes", "", b"", "größe 語 🎈", bytes(range(256)), "\x00", "x" * 60_000]
    for message in sent:
        await mine.send(message)
    await log.until(DCMessage, len(sent))
    assert messages(log) == sent


@pytest.mark.parametrize("message", [bytearray(b"x"), memoryview(b"x"), 7, None, ["x"]])
async def test_only_text_and_bytes_can_be_sent(room: Room, message: Any) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair)
    with pytest.raises(TypeError):
        await mine.send(message)


async def test_the_options_reach_the_other_end(room: Room) -> None:
    pair = await room.pair()
    pair.to_b.create_data_channel("x", ordered=False, maxRetransmits=3, protocol="chess")
    channel = (await pair.log_b.until(DataChannelOpened)).channel
    assert (channel.ordered, channel.maxRetransmits, channel.protocol) == (False, 3, "chess")
    pair.to_a.create_data_channel("y", maxPacketLifeTime=500)
    channel = (await pair.log_a.until(DataChannelOpened)).channel
    assert (channel.ordered, channel.maxPacketLifeTime, channel.maxRetransmits) == (True, 500, None)


@pytest.mark.every_path
async def test_channels_negotiated_out_of_band_meet(room: Room) -> None:
    pair = await room.pair()
    ends = [DataChannel(it.create_data_channel("x", negotiated=True, id=100)) for it in (pair.to_a, pair.to_b)]
    logs = [EventLog(end) for end in ends]
    for log in logs:
        await log.until(DCOpen)
    await ends[0].send("hello")
    await logs[1].until(DCMessage, data="hello")
    assert pair.log_a.of(DataChannelOpened) == []


async def pile_up(pair: Pair, count: int) -> Any:
    """Let messages arrive on a channel without a listener. Return its sender and the raw channel."""
    mine = DataChannel(pair.to_b.create_data_channel("x"))
    log = EventLog(mine)
    channel = (await pair.log_b.until(DataChannelOpened)).channel
    await log.until(DCOpen)
    for number in range(count):
        await mine.send(str(number))
    size = sum(len(str(number)) for number in range(count))
    await eventually(lambda: unread_of(channel).bytes == size)
    return mine, channel


async def test_messages_before_the_wrapper_are_held(room: Room) -> None:
    pair = await room.pair()
    mine, channel = await pile_up(pair, 5)
    theirs = DataChannel(channel)
    log = EventLog(theirs)
    await mine.send("5")
    await log.until(DCMessage, 6)
    assert messages(log) == list("012345")
    await log.until(DCOpen)


async def test_messages_before_the_handler_of_a_wrapper_are_held(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    for number in range(5):
        await mine.send(str(number))
    await eventually(lambda: theirs.stats().messages_received == 5)
    theirs.on(DCClose, lambda event: None)
    log = EventLog(theirs)
    await mine.send("5")
    await log.until(DCMessage, 6)
    assert messages(log) == list("012345")


async def test_messages_before_an_event_stream_are_held(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    await mine.send("x")
    await eventually(lambda: theirs.stats().messages_received)
    async with asyncio.timeout(PATIENCE), theirs.events(DCMessage) as stream:
        assert (await anext(stream)).data == "x"


async def test_messages_before_a_listener_of_the_raw_channel_are_held(room: Room) -> None:
    pair = await room.pair()
    mine, channel = await pile_up(pair, 5)
    heard: list[Any] = []
    channel.on("close", lambda: heard.append("closed"))
    channel.on("message", heard.append)
    # The next message may come before what was held has been handed out.
    channel.emit("message", "5")
    await mine.send("6")
    await eventually(lambda: len(heard) == 7)
    assert heard == list("0123456")
    assert len(channel.listeners("message")) == 1, "what held the messages is gone"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_messages_of_a_channel_that_closed_before_it_had_a_listener_are_held(room: Room, wrapped: bool) -> None:
    pair = await room.pair()
    mine, channel = await pile_up(pair, 3)
    heard: list[Any] = []
    if wrapped:
        theirs = DataChannel(channel)
        await eventually(lambda: theirs.stats().messages_received == 3)
    mine.close()
    await eventually(lambda: channel.readyState == "closed")
    if not wrapped:
        channel.on("message", heard.append)
        await eventually(lambda: len(heard) == 3)
        assert heard == list("012")
        return
    assert theirs.ready_state == "closed"
    log = EventLog(theirs)
    await log.until(DCClose)
    assert messages(log) == list("012")
    assert log.kinds()[-1] == "DCClose"


async def test_a_wrapper_of_a_closed_channel_gets_what_was_held_then_the_end(room: Room) -> None:
    pair = await room.pair()
    mine, channel = await pile_up(pair, 3)
    mine.close()
    await eventually(lambda: channel.readyState == "closed")
    await asyncio.sleep(0)
    log = EventLog(DataChannel(channel))
    await log.until(DCClose)
    assert log.kinds() == ["DCMessage"] * 3 + ["DCClose"]


async def test_a_handler_for_the_end_only_gets_it_despite_unread_messages(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    ends: list[Any] = []
    theirs.on(DCClose, ends.append)
    await mine.send("x")
    await eventually(lambda: theirs.stats().messages_received)
    mine.close()
    await eventually(lambda: ends)


async def test_a_channel_without_a_listener_is_closed_at_its_bound(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_messages, "MAX_HELD_BYTES", 1_000)
    pair = await room.pair()
    mine, _ = await pile_up(pair, 5)
    log = EventLog(mine)
    await mine.send("x" * 1_000)
    await log.until(DCClose)


async def test_a_wrapper_without_a_handler_is_closed_at_its_bound(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_channel, "MAX_UNREAD_BYTES", 1_000)
    pair = await room.pair()
    mine, theirs = await opened(pair)
    errors: list[Any] = []
    theirs.on(DCError, lambda event: errors.append(event.err))
    log = EventLog(mine)
    await mine.send("x" * 1_001)
    await log.until(DCClose)
    assert isinstance(errors[0], DataChannelOverflowError)
    assert theirs.ready_state == "closed"


@pytest.mark.every_path
async def test_backpressure_keeps_the_order_and_the_bound(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=50_000)
    log = EventLog(theirs)
    peak = 0

    async def send(number: int) -> None:
        nonlocal peak
        await mine.send(f"{number:04d}" + "x" * (number % 7) * 3_000)
        peak = max(peak, mine.buffered_amount)

    await asyncio.gather(*(send(number) for number in range(200)))
    await log.until(DCMessage, 200)
    assert [int(str(message)[:4]) for message in messages(log)] == list(range(200))
    assert 0 < peak <= 50_000


@pytest.mark.parametrize("low", [0, None, 10_000])
async def test_a_sender_wakes_up_whatever_the_low_threshold(room: Room, low: int | None) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000, buffered_amount_low_threshold=low)
    log = EventLog(theirs)
    async with asyncio.timeout(PATIENCE):
        for size in (10_000, 1, 9_999, 10_000, 5_000, 5_000, 5_000):
            await mine.send(b"x" * size)
    await log.until(DCMessage, 7)
    assert [len(message) for message in messages(log)] == [10_000, 1, 9_999, 10_000, 5_000, 5_000, 5_000]


async def test_too_many_waiting_sends_overflow_at_once(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000, max_queued_sends=3)
    log = EventLog(theirs)
    waiting = await clog(mine, 3)
    with pytest.raises(DataChannelOverflowError) as error:
        await mine.send("4")
    assert (error.value.queued, error.value.cap) == (3, 3)
    await asyncio.gather(*waiting)
    await mine.send("end")
    await log.until(DCMessage, data="end")
    assert [str(message)[0] for message in messages(log)] == ["-", "-", "0", "1", "2", "e"]


async def test_a_message_above_the_buffer_is_refused(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10)
    log = EventLog(theirs)
    with pytest.raises(MeteredRealtimeError) as error:
        await mine.send("ä" * 6)
    assert not isinstance(error.value, DataChannelOverflowError)
    await mine.send("ä" * 5)
    await log.until(DCMessage, data="ä" * 5)


@pytest.mark.parametrize("payload", [b"x" * 262_145, "語" * 87_382])
@pytest.mark.every_path
async def test_a_message_above_the_maximum_of_the_other_end_is_refused(room: Room, payload: str | bytes) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    with pytest.raises(MeteredRealtimeError):
        await mine.send(payload)
    await mine.send(b"x" * 262_144)
    await log.until(DCMessage)
    assert len(messages(log)[0]) == 262_144


async def test_an_oversized_message_that_waits_fails_alone(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=300_000)
    log = EventLog(theirs)
    await mine.send(b"0" * 200_000)
    results = await asyncio.gather(mine.send(b"1" * 262_145), mine.send(b"2"), return_exceptions=True)
    assert isinstance(results[0], MeteredRealtimeError)
    assert results[1] is None
    await log.until(DCMessage, 2)
    assert [bytes(message)[:1] for message in messages(log) if isinstance(message, bytes)] == [b"0", b"2"]


async def test_sending_needs_an_open_channel(room: Room) -> None:
    pair = await room.pair()
    mine = DataChannel(pair.to_b.create_data_channel("x"))
    with pytest.raises(MeteredRealtimeError, match="connecting"):
        await mine.send("x")
    mine.close()
    with pytest.raises(MeteredRealtimeError, match="closed"):
        await mine.send("x")


async def test_closing_the_other_end_fails_waiting_calls(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000)
    log = EventLog(mine)
    waiting = await clog(mine, 100)
    theirs.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), ChannelClosedError}
    assert isinstance(results[-1], MeteredRealtimeError)
    await log.until(DCClose)
    assert (mine.ready_state, len(log.of(DCClose))) == ("closed", 1)
    with pytest.raises(MeteredRealtimeError):
        await mine.send("x")


async def test_a_remote_that_leaves_fails_waiting_calls(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair, max_buffered_amount=10_000)
    log = EventLog(mine)

    async def flood() -> None:
        while True:
            await mine.send(b"x" * 10_000)

    floods = [asyncio.ensure_future(flood()) for _ in range(5)]
    await asyncio.sleep(0)
    await pair.b.close()
    results = await asyncio.gather(*floods, return_exceptions=True)
    assert all(isinstance(result, MeteredRealtimeError) for result in results)
    await log.until(DCClose)


async def test_close_is_idempotent_silent_and_ends_streams(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(mine)
    stream = mine.events(DCMessage)
    there = EventLog(theirs)
    mine.close()
    mine.close()
    assert mine.ready_state == "closed"
    assert [event async for event in stream] == []
    await there.until(DCClose)
    assert log.events == []


async def test_closing_fails_waiting_calls(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair, max_buffered_amount=10_000)
    waiting = await clog(mine, 3)
    mine.close()
    for send in waiting:
        with pytest.raises(MeteredRealtimeError):
            await send


async def test_cancelling_a_waiting_send_withdraws_its_message(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000)
    log = EventLog(theirs)
    sends = await clog(mine, 3)
    sends[0].cancel()
    sends[1].cancel()
    await asyncio.gather(*sends, return_exceptions=True)
    assert [send.cancelled() for send in sends] == [True, True, False]
    await mine.send("end")
    await log.until(DCMessage, data="end")
    assert [str(message)[0] for message in messages(log)] == ["-", "-", "2", "e"]


async def test_the_bounds_of_a_wrapper_are_checked(room: Room) -> None:
    pair = await room.pair()
    channel = pair.to_b.create_data_channel("x")
    for options in (
        {"max_buffered_amount": 0},
        {"max_queued_sends": -1},
        {"buffered_amount_low_threshold": -1},
        {"max_buffered_amount": 10, "buffered_amount_low_threshold": 11},
    ):
        with pytest.raises(ValueError, match="must be"):
            DataChannel(channel, **options)


async def test_a_handler_may_answer(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)

    async def echo(event: DCMessage) -> None:
        await theirs.send(event.data)

    theirs.on(DCMessage, echo)
    log = EventLog(mine)
    for number in range(20):
        await mine.send(str(number))
    await log.until(DCMessage, 20)
    assert messages(log) == [str(number) for number in range(20)]


async def test_messages_can_be_iterated_until_the_channel_ends(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    await mine.send("early")
    await eventually(lambda: theirs.stats().messages_received)
    got = []

    async def read() -> None:
        async for message in theirs:
            got.append(message)

    reading = asyncio.ensure_future(read())
    await eventually(lambda: got)
    heard = EventLog(theirs)
    for number in range(5):
        await mine.send(str(number))
    await eventually(lambda: len(got) == 6)
    mine.close()
    async with asyncio.timeout(PATIENCE):
        await reading
    assert got == ["early", "0", "1", "2", "3", "4"]
    assert messages(heard) == got[1:]  # handlers get theirs as well
    await heard.until(DCClose)


async def test_a_channel_can_be_waited_for(room: Room) -> None:
    pair = await room.pair()
    mine = DataChannel(pair.to_b.create_data_channel("x"))
    await mine.wait_open()
    await mine.wait_open()
    assert mine.ready_state == "open"
    waiting = asyncio.ensure_future(DataChannel(pair.to_b.create_data_channel("y")).wait_open())
    await asyncio.sleep(0)
    await pair.b.close()
    mine.close()
    with pytest.raises(ChannelClosedError):
        await mine.wait_open()
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), ChannelClosedError | None)


@pytest.mark.every_path
async def test_drain_returns_when_nothing_waits_and_fails_when_the_channel_closes(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair, max_buffered_amount=10_000)
    await mine.drain()
    waiting = await clog(mine, 5)
    await mine.drain()
    assert all(send.done() for send in waiting)
    assert mine.buffered_amount == 0
    mine, _ = await opened(pair, max_buffered_amount=10_000)
    waiting = await clog(mine, 5)
    draining = asyncio.ensure_future(mine.drain())
    await asyncio.sleep(0)
    mine.close()
    with pytest.raises(ChannelClosedError):
        await draining
    await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(ChannelClosedError):
        await mine.drain()


async def test_many_producers_drain_instead_of_overflowing(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=20_000, max_queued_sends=4)
    log = EventLog(theirs)

    async def produce() -> None:
        for _ in range(10):
            try:
                await mine.send(b"x" * 9_000)
            except DataChannelOverflowError:
                await mine.drain()
                await mine.send(b"x" * 9_000)

    await asyncio.gather(*(produce() for _ in range(4)))
    await log.until(DCMessage, 40)


async def test_send_nowait_sends_at_once_or_fails(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000)
    log = EventLog(theirs)
    mine.send_nowait("first")
    waiting = await clog(mine, 2)
    with pytest.raises(DataChannelOverflowError) as error:
        mine.send_nowait("x")
    assert (error.value.unit, error.value.cap) == ("bytes", 10_000)
    assert error.value.queued > 10_000
    await asyncio.gather(*waiting)
    await mine.drain()
    mine.send_nowait("end")
    await log.until(DCMessage, data="end")
    mine.close()
    with pytest.raises(ChannelClosedError):
        mine.send_nowait("x")


async def test_waiting_sends_are_bounded_in_bytes_as_well(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, max_buffered_amount=10_000, max_queued_bytes=25_000)
    log = EventLog(theirs)
    waiting = await clog(mine, 2)
    with pytest.raises(DataChannelOverflowError) as error:
        await mine.send("-" * 10_000)
    assert (error.value.queued, error.value.cap, error.value.unit) == (30_000, 25_000, "bytes")
    waiting.append(asyncio.ensure_future(mine.send("x" * 5_000)))
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await mine.drain()
    assert mine.stats().queued_sends == 0
    await log.until(DCMessage, data="x" * 5_000)


async def test_the_error_of_a_message_that_is_too_large_has_both_sizes(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair)
    with pytest.raises(MessageTooLargeError) as error:
        await mine.send(b"x" * 262_145)
    assert (error.value.size, error.value.cap) == (262_145, 262_144)
    with pytest.raises(MessageTooLargeError):
        mine.send_nowait(b"x" * 262_145)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (True, None, None)),
        ({"ordered": False}, (False, None, None)),
        ({"ordered": False, "maxRetransmits": 0}, (False, 0, None)),
        ({"maxPacketLifeTime": 50}, (True, None, 50)),
    ],
)
async def test_order_and_reliability_are_those_of_the_options(
    room: Room, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    pair = await room.pair()
    mine = DataChannel(pair.to_b.create_data_channel("x", **options))
    theirs = DataChannel((await pair.log_b.until(DataChannelOpened)).channel)
    await mine.wait_open()
    log = EventLog(theirs)
    for channel in (mine, theirs):
        assert (channel.ordered, channel.max_retransmits, channel.max_packet_life_time) == expected
    for number in range(20):
        await mine.send(str(number))
    await log.until(DCMessage, 20)  # a clean path loses nothing
    assert sorted(messages(log), key=int) == [str(number) for number in range(20)]


async def test_a_channel_counts_what_it_carries(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    await mine.send("äöü")
    await mine.send(b"12")
    await log.until(DCMessage, 2)
    assert (mine.stats().messages_sent, mine.stats().bytes_sent) == (2, 8)
    assert (theirs.stats().messages_received, theirs.stats().bytes_received) == (2, 8)
    assert (mine.stats().label, mine.stats().state, mine.stats().queued_sends) == ("x", "open", 0)


async def test_hundreds_of_channels_share_a_connection(room: Room) -> None:
    pair = await room.pair()
    mine = [DataChannel(pair.to_b.create_data_channel(f"{number}")) for number in range(300)]
    await asyncio.gather(*(channel.wait_open() for channel in mine))
    await pair.log_b.until(DataChannelOpened, 300)
    logs = [EventLog(DataChannel(event.channel)) for event in pair.log_b.of(DataChannelOpened)]
    for channel in mine:
        channel.send_nowait(channel.label)
    for log in logs:
        await log.until(DCMessage)
    assert {messages(log)[0] for log in logs} == {channel.label for channel in mine}
