"""Managed channels between real peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from metered_realtime import (
    ChannelClosedError,
    ChannelError,
    ChannelMessage,
    ChannelOpened,
    ChannelOptions,
    ChannelProtocolError,
    ChannelResumed,
    ConnectionReset,
    DataChannelOpened,
    DataChannelOverflowError,
    DCClose,
    DCError,
    DCMessage,
    DCOpen,
    ManagedChannel,
    MessagesMissedError,
    MessageTooLargeError,
    MeteredPeer,
    MeteredRealtimeError,
    PeerChannel,
    PeerJoined,
    RemotePeer,
    ReplayOverflowError,
)
from metered_realtime.channels import managed_channel, registry, replay_transport
from metered_realtime.channels.send_queue import MAX_QUEUED_SENDS
from metered_realtime.core.channels.frames import LOSSY_PROTOCOL, PROTOCOL, HelloFrame, encode_hello, encode_message
from tests.support.inside import channel_entries, start_over
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually, state_of


def messages(log: EventLog) -> list[str | bytes]:
    return [event.data for event in log.of(DCMessage)]


async def replace_connection(remote: RemotePeer) -> None:
    """Replace the connection under a remote, as after a failure of it."""
    log = EventLog(remote)
    start_over(remote)
    await log.until(ConnectionReset)


async def opened(pair: Pair, **options: Any) -> tuple[ManagedChannel, ManagedChannel]:
    """Open a channel at both ends and return them, a's first."""
    mine, theirs = pair.to_b.open_channel("x", **options), pair.to_a.open_channel("x", **options)
    await asyncio.gather(mine.wait_open(), theirs.wait_open())
    return mine, theirs


@pytest.mark.parametrize("opener", ["a", "b"])
async def test_a_channel_opened_by_the_other_end_is_announced_before_its_messages(room: Room, opener: str) -> None:
    pair = await room.pair()
    remote, log = (pair.to_b, pair.log_b) if opener == "a" else (pair.to_a, pair.log_a)
    mine = remote.open_channel("chat")
    await mine.send("before it is open")
    await mine.send(b"\x00\x01")
    await mine.drain()
    theirs = (await log.until(ChannelOpened)).channel
    assert (theirs.label, theirs.ready_state, theirs.reliable) == ("chat", "open", True)
    heard = EventLog(theirs)
    await heard.until(DCMessage, 2)
    assert messages(heard) == ["before it is open", b"\x00\x01"]
    answers = EventLog(mine)
    await theirs.send("grüße")
    await answers.until(DCMessage, data="grüße")
    assert log.of(DataChannelOpened) == []
    assert remote.open_channel("chat") is mine


async def test_both_ends_may_open_the_same_label_at_once(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = pair.to_b.open_channel("x"), pair.to_a.open_channel("x")
    logs = EventLog(mine), EventLog(theirs)
    for number in range(100):
        await mine.send(f"a{number}")
        await theirs.send(f"b{number}")
    for channel, log in zip((mine, theirs), logs, strict=True):
        await channel.drain()
        await log.until(DCMessage, 100)
        await log.until(DCOpen)
    assert messages(logs[0]) == [f"b{number}" for number in range(100)]
    assert messages(logs[1]) == [f"a{number}" for number in range(100)]
    assert pair.log_a.of(ChannelOpened) == pair.log_b.of(ChannelOpened) == []
    await eventually(lambda: len(pair.to_b.stats().data.channels) == 1)


@pytest.mark.parametrize("broken_end", ["a", "b"])
@pytest.mark.every_path
async def test_a_replaced_connection_in_mid_stream_loses_nothing(room: Room, broken_end: str) -> None:
    pair = await room.pair()
    ends = await opened(pair)
    logs = [EventLog(channel) for channel in ends]

    async def talk(channel: ManagedChannel) -> None:
        for number in range(400):
            await channel.send(f"{number:04d}" + "x" * (number % 5) * 5_000)
            if number % 10 == 0:
                await asyncio.sleep(0.005)

    talks = [asyncio.ensure_future(talk(channel)) for channel in ends]
    remote = pair.to_b if broken_end == "a" else pair.to_a
    for _ in range(2):
        await asyncio.sleep(0.05)
        await replace_connection(remote)
        await asyncio.gather(*(channel.wait_open() for channel in ends))
    await asyncio.gather(*talks)
    for channel, log in zip(ends, reversed(logs), strict=True):
        await channel.drain()
        await log.until(DCMessage, 400)
        assert [int(str(message)[:4]) for message in messages(log)] == list(range(400))
    for log in logs:
        assert len(log.of(ChannelResumed)) >= 2
        assert not any(event.restarted for event in log.of(ChannelResumed))
        assert log.of(DCOpen) == log.of(DCClose) == log.of(DCError) == []
    assert ends[0].stats().connections >= 3
    assert ends[0].stats().messages_sent == ends[1].stats().messages_received == 400


async def test_a_large_message_crosses_a_replaced_connection(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    message = bytes(range(256)) * 20_000
    await mine.send(message)
    await eventually(lambda: theirs._endpoint._incoming.offset > 300_000)
    await replace_connection(pair.to_a)
    await mine.send("語" * 100_000)
    await log.until(DCMessage, 2)
    assert messages(log) == [message, "語" * 100_000]
    await mine.drain()
    assert mine.stats().messages_resent >= 1


async def test_what_is_sent_while_there_is_no_connection_arrives(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    pair.to_b._reports.connection_reset()  # as if the new connection were still being made
    assert mine.ready_state == "reconnecting"
    for number in range(10):
        mine.send_nowait(str(number))
    assert (mine.stats().window_messages, mine.buffered_amount) == (10, 10)
    await replace_connection(pair.to_b)
    await log.until(DCMessage, 10)
    assert messages(log) == [str(number) for number in range(10)]


async def test_a_restarted_program_is_sent_what_its_predecessor_has_not_acknowledged(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log, before = EventLog(mine), EventLog(theirs)
    await mine.send("first")
    await before.until(DCMessage)
    await mine.drain()
    # The other program dies without a word, and another one comes before anybody has noticed.
    theirs.unbind()
    channel_entries(pair.to_a).clear()
    await mine.send("second")
    again = pair.to_a.open_channel("x")
    heard = EventLog(again)
    await replace_connection(pair.to_a)
    await mine.send("third")
    await heard.until(DCMessage, 2)
    assert messages(heard) == ["second", "third"]
    await log.until(ChannelResumed, restarted=True)
    await again.send("back")
    await log.until(DCMessage, data="back")


async def test_a_full_window_makes_sends_wait_or_fail_with_its_state(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, window_messages=4, window_bytes=1_000)
    pair.to_b._reports.connection_reset()
    for _ in range(4):
        mine.send_nowait("x" * 100)
    with pytest.raises(ReplayOverflowError) as error:
        mine.send_nowait("x")
    caps = error.value.messages, error.value.bytes, error.value.max_messages, error.value.max_bytes
    assert caps == (4, 400, 4, 1_000)
    waiting = [asyncio.ensure_future(mine.send(str(number))) for number in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    assert not waiting[0].done()
    log = EventLog(theirs)
    await replace_connection(pair.to_b)
    await asyncio.gather(*waiting, return_exceptions=True)
    await mine.drain()
    await log.until(DCMessage, 6)
    assert messages(log) == ["x" * 100] * 4 + ["0", "2"]


async def test_too_many_waiting_sends_overflow(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair, window_messages=1)
    pair.to_b._reports.connection_reset()
    mine.send_nowait("x")
    waiting = [asyncio.ensure_future(mine.send("x")) for _ in range(MAX_QUEUED_SENDS)]
    await asyncio.sleep(0)
    with pytest.raises(DataChannelOverflowError):
        await mine.send("x")
    mine.close()
    for send in waiting:
        with pytest.raises(ChannelClosedError):
            await send


async def test_a_slow_reader_makes_the_sender_wait(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed_channel, "HELD_MESSAGES", 10)
    pair = await room.pair()
    mine, theirs = await opened(pair, window_messages=20)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for number in range(200):
            await mine.send(str(number))
            sent = number + 1

    flooding = asyncio.ensure_future(flood())

    def is_held_back() -> bool:
        here, there = mine.stats(), theirs.stats()
        return here.queued_sends == 1 and here.messages_sent == there.unread_messages

    await eventually(is_held_back)  # every accepted message is unread, and none is acknowledged any more
    assert 20 <= sent <= 60
    got = []
    async with asyncio.timeout(PATIENCE):
        async for message in theirs:
            got.append(message)
            if len(got) == 200:
                break
    await flooding
    assert got == [str(number) for number in range(200)]


async def test_flooding_an_end_that_does_not_read_closes_the_channel(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MAX_UNREAD_BYTES", 100_000)
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log, errors = EventLog(mine), []
    theirs.on(DCError, lambda event: errors.append(event.err))
    for _ in range(3):
        await mine.send(b"x" * 50_000)
    assert isinstance((await log.until(DCError)).err, ChannelProtocolError)
    await log.until(DCClose)
    assert isinstance(errors[0], DataChannelOverflowError)


async def test_a_message_above_the_maximum_of_either_end_is_refused(room: Room) -> None:
    pair = await room.pair()
    mine = pair.to_b.open_channel("x", max_message_size=200_000)
    theirs = pair.to_a.open_channel("x", max_message_size=100_000)
    log = EventLog(mine)
    with pytest.raises(MessageTooLargeError) as error:
        await mine.send(b"x" * 200_001)
    assert (error.value.size, error.value.cap) == (200_001, 200_000)
    await mine.send(b"x" * 150_000)  # what the other end takes is not known yet
    await mine.send("fits")
    heard = EventLog(theirs)
    await heard.until(DCMessage, data="fits")
    refused = (await log.until(DCError)).err
    assert isinstance(refused, MessageTooLargeError)
    assert (refused.size, refused.cap) == (150_000, 100_000)
    with pytest.raises(MessageTooLargeError):
        await mine.send(b"x" * 150_000)


async def test_a_lossy_channel_drops_and_counts_unsent_messages(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair, reliable=False, ordered=False, max_retransmits=0, window_messages=50)
    assert (mine.reliable, theirs.reliable) == (False, False)
    log, sender = EventLog(theirs), EventLog(mine)
    await mine.send("first")
    await mine.send(b"y" * 200_000)
    await log.until(DCMessage, 2)
    pair.to_b._reports.connection_reset()
    for number in range(60):
        await mine.send(str(number))  # the oldest ones make room
    await replace_connection(pair.to_b)
    await asyncio.gather(mine.wait_open(), theirs.wait_open())
    await mine.send("last")
    await log.until(DCMessage, data="last")
    assert mine.stats().messages_dropped >= 10
    assert (await sender.until(ChannelResumed)).resent == 0
    assert mine.stats().messages_resent == 0


async def test_ends_that_disagree_about_reliability_both_get_an_error(room: Room) -> None:
    pair = await room.pair()
    mine = pair.to_b.open_channel("x")
    theirs = pair.to_a.open_channel("x", reliable=False)
    logs = EventLog(mine), EventLog(theirs)
    for log in logs:
        await log.until(DCClose)
        assert any(isinstance(event.err, ChannelProtocolError) for event in log.of(DCError))
    with pytest.raises(ChannelClosedError):
        await mine.send("x")


async def test_opening_a_label_again_with_another_reliability_is_refused(room: Room) -> None:
    pair = await room.pair()
    pair.to_b.open_channel("x")
    with pytest.raises(ValueError, match="reliable"):
        pair.to_b.open_channel("x", reliable=False)
    for options in ({"ordered": False}, {"window_bytes": 0}, {"max_retransmits": 1}, {"max_message_size": 2**32}):
        with pytest.raises(ValueError, match=r"must be|ordered"):
            pair.to_b.open_channel("y", **options)


@pytest.mark.every_path
async def test_closing_ends_both_ends_after_the_delivered_messages(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(mine)
    await mine.send("last words")
    await mine.drain()
    mine.close()
    mine.close()
    assert mine.ready_state == "closed"
    assert [message async for message in theirs] == ["last words"]
    assert theirs.ready_state == "closed"
    assert log.events == []
    for channel in (mine, theirs):
        with pytest.raises(ChannelClosedError):
            await channel.send("x")
        with pytest.raises(ChannelClosedError):
            await channel.drain()
        with pytest.raises(ChannelClosedError):
            await channel.wait_open()
    again, there = await opened(pair)
    assert again is not mine
    heard = EventLog(there)
    await again.send("anew")
    await heard.until(DCMessage, data="anew")


async def test_closing_while_the_other_end_is_away_closes_it_later(room: Room) -> None:
    pair = await room.pair()
    mine, theirs = await opened(pair)
    log = EventLog(theirs)
    pair.to_b._reports.connection_reset()
    channel_entries(pair.to_b)["x"].channel.unbind()
    mine.close()
    await replace_connection(pair.to_b)
    await log.until(DCClose)
    assert pair.log_a.of(ChannelOpened) == []


async def test_a_remote_that_leaves_ends_its_channels_and_waiting_sends(room: Room) -> None:
    pair = await room.pair()
    mine, _ = await opened(pair, window_bytes=1_000)
    other = pair.to_b.open_channel("other")
    logs = EventLog(mine), EventLog(other)
    pair.to_b._reports.connection_reset()
    await mine.send(b"x" * 1_000)
    waiting = [asyncio.ensure_future(it) for it in (mine.send("x"), mine.drain())]
    await asyncio.sleep(0)
    await pair.b.close()
    for wait in waiting:
        with pytest.raises(ChannelClosedError):
            await wait
    for log in logs:
        await log.until(DCClose)
        assert len(log.of(DCClose)) == 1
    with pytest.raises(MeteredRealtimeError):
        pair.to_b.open_channel("late")


async def test_hundreds_of_channels_survive_their_shared_connection(room: Room) -> None:
    pair = await room.pair()
    count = 300
    mine = [pair.to_b.open_channel(f"channel {number}") for number in range(count)]
    for channel in mine:
        await channel.send(f"to {channel.label}")
    await pair.log_b.until(ChannelOpened, count)
    await replace_connection(pair.to_b)
    logs = {event.channel.label: EventLog(event.channel) for event in pair.log_b.of(ChannelOpened)}
    for channel in mine:
        await channel.send("again")
    await asyncio.gather(*(channel.drain() for channel in mine))
    for channel in mine:
        await logs[channel.label].until(DCMessage, 2)
        assert messages(logs[channel.label]) == [f"to {channel.label}", "again"]


async def test_the_number_of_channels_of_a_remote_is_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_CHANNELS", 2)
    pair = await room.pair()
    await opened(pair)
    pair.to_b.open_channel("y")
    with pytest.raises(MeteredRealtimeError):
        pair.to_b.open_channel("z")
    with pytest.raises(ValueError, match="label"):
        pair.to_a.open_channel("z" * 2_000)


@pytest.mark.parametrize("frame", ["text", b"", b"\x07abc", encode_message(5, 0, b"before a hello")])
async def test_a_protocol_violation_closes_the_channel_at_both_ends(room: Room, frame: str | bytes) -> None:
    pair = await room.pair()
    raw = pair.to_b.create_data_channel("x", protocol=PROTOCOL)
    theirs = pair.to_a.open_channel("x") if pair.to_a.polite else None
    closed = asyncio.Event()
    raw.on("close", closed.set)
    raw.on("open", lambda: raw.send(frame))
    async with asyncio.timeout(PATIENCE):
        await closed.wait()
    assert theirs is None
    assert channel_entries(pair.to_a) == {}


class Crowd:
    """Peers that all broadcast numbers, and the numbers that each received from each other."""

    def __init__(self, room: Room, count: int) -> None:
        self.peers = [room.peer(f"peer-{number}") for number in range(count)]
        self.channels: list[PeerChannel] = []
        self.got: list[dict[str, list[int]]] = [{} for _ in self.peers]
        self.errors: list[Exception] = []

    async def join(self, room: Room) -> None:
        logs = [EventLog(peer) for peer in self.peers]
        await room.join(*self.peers)
        for log in logs:
            await log.until(PeerJoined, len(self.peers) - 1)
        for peer, got in zip(self.peers, self.got, strict=True):
            channel = peer.open_channel("numbers")
            channel.on(ChannelMessage, self._collector(got))
            channel.on(ChannelError, lambda event: self.errors.append(event.err))
            self.channels.append(channel)
        for peer in self.peers:
            for remote in peer.remote_peers:
                await state_of(remote, "connected")

    def _collector(self, got: dict[str, list[int]]) -> Callable[[ChannelMessage], None]:
        return lambda event: got.setdefault(event.remote.id, []).append(int(event.data))

    async def broadcast(self, count: int, rate: float) -> None:
        async def talk(channel: PeerChannel) -> None:
            start = asyncio.get_running_loop().time()
            for number in range(count):
                await channel.send(str(number))
                await asyncio.sleep(start + (number + 1) / rate - asyncio.get_running_loop().time())

        await asyncio.gather(*(talk(channel) for channel in self.channels))
        await asyncio.gather(*(channel.drain() for channel in self.channels))

    async def replace_connections(self, interval: float) -> None:
        turn = 0
        while True:
            await asyncio.sleep(interval)
            remotes = self.peers[turn % len(self.peers)].remote_peers
            await replace_connection(remotes[turn % len(remotes)])
            turn += 1


async def test_broadcasts_survive_replaced_connections_without_loss(room: Room) -> None:
    crowd = Crowd(room, 5)
    await crowd.join(room)
    breaking = asyncio.ensure_future(crowd.replace_connections(1.0))
    await crowd.broadcast(250, 50)
    breaking.cancel()
    for peer, got in zip(crowd.peers, crowd.got, strict=True):
        assert set(got) == {other.peer_id for other in crowd.peers} - {peer.peer_id}
        assert all(numbers == list(range(250)) for numbers in got.values())
    assert crowd.errors == []


async def test_a_later_remote_is_sent_later_messages_and_one_that_leaves_is_removed(room: Room) -> None:
    pair = await room.pair()
    channel = pair.a.open_channel("news")
    await channel.send("early")
    theirs = pair.b.open_channel("news")
    async with asyncio.timeout(PATIENCE):
        assert await anext(theirs) == ChannelMessage(pair.to_a, "early")
    late = room.peer("late")
    heard = late.open_channel("news")
    log = EventLog(heard)
    await room.join(late)
    await eventually(lambda: len(channel.channels) == 2)
    await channel.send("later")
    assert (await log.until(ChannelMessage)).data == "later"
    await late.close()
    await eventually(lambda: len(channel.channels) == 1)
    await channel.send(b"end")
    async with asyncio.timeout(PATIENCE):
        assert [(await anext(theirs)).data, (await anext(theirs)).data] == ["later", b"end"]
    assert pair.a.open_channel("news") is channel
    channel.close()
    with pytest.raises(ChannelClosedError):
        await channel.send("x")
    assert [event async for event in channel] == []


async def test_a_remote_that_is_too_slow_misses_messages_and_continues(room: Room) -> None:
    pair = await room.pair()
    channel = pair.a.open_channel("x", window_messages=5, patience=0.1)
    errors = EventLog(channel)
    theirs = pair.to_a.open_channel("x")
    problems = EventLog(theirs)
    await theirs.wait_open()
    await channel.channels[pair.to_b].wait_open()
    theirs._endpoint.holds_acks = True
    theirs._note_read = lambda: True  # type: ignore[method-assign]
    for number in range(6):
        await channel.send(str(number))
    event = await errors.until(ChannelError)
    assert event.remote is pair.to_b
    assert isinstance(event.err, ReplayOverflowError)
    assert event.err.messages == 5
    await problems.until(DCMessage, data="5")
    assert messages(problems) == ["0", "1", "2", "3", "4", "5"]  # they had arrived: nothing is missed
    pair.to_b._reports.connection_reset()
    for number in range(6, 13):
        channel.send_nowait(str(number))
    await replace_connection(pair.to_b)
    await problems.until(DCMessage, data="12")
    assert any(isinstance(it.err, MessagesMissedError) for it in problems.of(DCError))


async def test_a_remote_without_a_connection_does_not_delay_the_others(room: Room) -> None:
    pair = await room.pair()
    third = room.peer("c")
    await room.join(third)
    channel = pair.a.open_channel("x", window_messages=10, patience=3_600)
    logs = {peer: EventLog(peer.open_channel("x")) for peer in (pair.b, third)}
    await eventually(lambda: all(it.ready_state == "open" for it in channel.channels.values()))
    pair.to_b._reports.connection_reset()
    async with asyncio.timeout(PATIENCE):
        for number in range(30):
            await channel.send(str(number))
    await logs[third].until(ChannelMessage, 30)
    assert [event.data for event in logs[third].of(ChannelMessage)] == [str(number) for number in range(30)]


async def test_closing_a_peer_closes_its_channels(room: Room) -> None:
    peer: MeteredPeer = room.peer("a")
    channel = peer.open_channel("x")
    await room.join(peer)
    await channel.send("to nobody")
    await channel.drain()
    await peer.close()
    with pytest.raises(ChannelClosedError):
        channel.send_nowait("x")
    with pytest.raises(MeteredRealtimeError):
        peer.open_channel("x")


async def test_a_channel_to_all_remotes_continues_after_joining_another_room(room: Room) -> None:
    pair = await room.pair()
    channel, theirs = pair.a.open_channel("x"), pair.b.open_channel("x")
    log = EventLog(theirs)
    await channel.send("first")
    await log.until(ChannelMessage, data="first")
    await pair.a.leave()
    assert channel.channels == {}
    await channel.send("to nobody")
    await pair.a.join("room")
    await eventually(lambda: channel.channels)
    await channel.send("second")
    await log.until(ChannelMessage, data="second")
    assert [event.data for event in log.of(ChannelMessage)] == ["first", "second"]


async def test_foreign_channels_without_a_hello_leave_nothing_behind(room: Room) -> None:
    pair = await room.pair()
    raws = [pair.to_b.create_data_channel(str(number), protocol=PROTOCOL) for number in range(20)]
    await eventually(lambda: len(channel_entries(pair.to_a)) == 20)
    for raw in raws:
        raw.close()
    await eventually(lambda: not channel_entries(pair.to_a))
    assert pair.log_b.of(ChannelOpened) == []


async def test_an_end_that_accepts_less_than_a_frame_ends_the_channel(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await room.pair()
    monkeypatch.setattr(replay_transport, "MIN_FRAME", 300_000)
    mine = pair.to_b.open_channel("x")
    log = EventLog(mine)
    assert isinstance((await log.until(DCError)).err, ChannelProtocolError)
    await log.until(DCClose)


async def test_a_remote_may_request_any_reliability_of_the_protocol(room: Room) -> None:
    pair = await room.pair()
    raw = pair.to_b.create_data_channel("x", protocol=LOSSY_PROTOCOL, maxRetransmits=2**32 - 1)
    raw.on("open", lambda: raw.send(encode_hello(HelloFrame(1, 0, 0, 0, 0, 1_000))))
    assert (await pair.log_b.until(ChannelOpened)).channel.label == "x"
    raw.close()


# --- what programs may not ask for


@pytest.mark.parametrize(
    "options",
    [
        {"window_bytes": "1"},
        {"window_bytes": float("nan")},
        {"window_messages": 0},
        {"max_message_size": 10.5},
        {"max_message_size": 2**32},
        {"max_retransmits": -1, "reliable": False},
        {"max_packet_life_time": 2**32, "reliable": False},
        {"reliable": "no"},
        {"max_packet_life_time": 1.5, "reliable": False},
        {"max_retransmits": 1, "reliable": True},
    ],
)
def test_invalid_options_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must be|reliable"):
        ChannelOptions(**options)


@pytest.mark.parametrize("label", [5, "x" * 1025, "metered.streams.1", "\ud800"])
async def test_invalid_labels_are_refused_without_any_remote(room: Room, label: Any) -> None:
    pair = await room.pair()
    alone = room.peer("alone")
    for opener in (pair.to_b, pair.a, alone):
        with pytest.raises((TypeError, ValueError), match=r"label|surrogates"):
            opener.open_channel(label)
