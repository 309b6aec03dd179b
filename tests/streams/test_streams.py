"""Streams between two peers: any length, many at once, ended by either side, and hostile remotes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from metered_realtime import (
    ChannelOpened,
    ConnectionReset,
    DataChannelOpened,
    DCClose,
    DCOpen,
    IceRecoveryExhaustedError,
    ManagedChannel,
    MeteredRealtimeError,
    RemotePeer,
    StreamEndedError,
    StreamOpened,
    StreamReader,
)
from metered_realtime.connection.recovering_connection import RecoveringConnection
from metered_realtime.core.channels.frames import LOSSY_PROTOCOL
from metered_realtime.core.streams import frames as frames
from metered_realtime.core.streams.multiplexer import MAX_STREAMS, WINDOW
from metered_realtime.streams.stream_channel import LABEL, WINDOW_BYTES
from tests.support.inside import channel_entries, connection_of, open_reserved_channel, unread_chunks
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Pair, Room, eventually

OPENING = frames.encode_opening(frames.Opening(topic="x"))


class Inbox:
    """Readers of the streams that arrive at b, in order."""

    def __init__(self, pair: Pair) -> None:
        self.readers: asyncio.Queue[StreamReader] = asyncio.Queue()
        pair.b.on(StreamOpened, lambda event: self.readers.put_nowait(event.reader))

    async def next(self) -> StreamReader:
        async with asyncio.timeout(PATIENCE):
            return await self.readers.get()


@pytest.fixture
async def pair(room: Room) -> Pair:
    return await room.pair()


@pytest.fixture
async def inbox(pair: Pair) -> Inbox:
    return Inbox(pair)


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    """Fail instead of hanging."""
    async with asyncio.timeout(PATIENCE):
        yield


async def test_bytes_arrive_with_their_topic_and_attributes(pair: Pair, inbox: Inbox) -> None:
    reading: asyncio.Task[Any]
    async with pair.to_b.open_stream("photo", {"format": "png", "n": 1}, total=6) as writer:
        await writer.write(b"abc")
        await writer.write(bytearray(b"def"))
        reader = await inbox.next()
        reading = asyncio.ensure_future(reader.readall())
    assert (reader.topic, reader.attributes, reader.kind, reader.total) == (
        "photo",
        {"format": "png", "n": 1},
        "bytes",
        6,
    )
    assert await reading == b"abcdef"
    assert (writer.reason, reader.reason) == (None, None)


async def test_text_arrives_whole_wherever_it_was_cut(pair: Pair, inbox: Inbox) -> None:
    text = "añ€😀" * 20_000
    async with pair.to_b.open_stream("log", kind="text") as writer:
        reading = asyncio.ensure_future((await inbox.next()).readall())
        await writer.write(text)
    assert await reading == text


async def test_an_empty_stream_is_a_stream(pair: Pair, inbox: Inbox) -> None:
    async with pair.to_b.open_stream("nothing"):
        pass
    reader = await inbox.next()
    assert await reader.readall() == b""
    assert [chunk async for chunk in reader] == []


async def test_five_megabytes_go_both_ways_at_once(pair: Pair, inbox: Inbox) -> None:
    data = os.urandom(5_000_000)
    back: asyncio.Queue[StreamReader] = asyncio.Queue()
    pair.a.on(StreamOpened, lambda event: back.put_nowait(event.reader))

    async def send(remote: Any) -> None:
        async with remote.open_stream("x", total=len(data)) as writer:
            await writer.write(data)

    async def receive(queue: asyncio.Queue[StreamReader]) -> Any:
        return await (await queue.get()).readall()

    results = await asyncio.gather(receive(inbox.readers), receive(back), send(pair.to_b), send(pair.to_a))
    assert results[:2] == [data, data]


async def test_an_unread_stream_does_not_delay_fifty_others(pair: Pair, inbox: Inbox) -> None:
    contents = [os.urandom(60_000 + n) for n in range(50)]
    blocked = pair.to_b.open_stream("blocked")
    await blocked.__aenter__()
    stuck = asyncio.ensure_future(blocked.write(bytes(WINDOW * 2)))
    unread = await inbox.next()

    async def send(n: int) -> None:
        async with pair.to_b.open_stream(str(n)) as writer:
            for start in range(0, len(contents[n]), 9_000):
                await writer.write(contents[n][start : start + 9_000])

    async def receive() -> tuple[int, Any]:
        reader = await inbox.next()
        return int(reader.topic), b"".join([bytes(chunk) async for chunk in reader])  # type: ignore[arg-type]

    results = await asyncio.gather(*(receive() for _ in contents), *(send(n) for n in range(50)))
    assert dict(results[:50]) == dict(enumerate(contents))  # type: ignore[arg-type]
    assert not stuck.done()
    unread.cancel("enough")
    with pytest.raises(StreamEndedError, match="cancelled: enough"):
        await stuck


async def test_a_writer_waits_for_its_reader(pair: Pair, inbox: Inbox) -> None:
    async with pair.to_b.open_stream("x") as writer:
        writing = asyncio.ensure_future(writer.write(bytes(WINDOW * 3)))
        reader = await inbox.next()
        await eventually(lambda: sum(unread_chunks(reader)) >= WINDOW)  # its credit is used up
        assert sum(unread_chunks(reader)) == WINDOW
        assert not writing.done()
        size = 0
        while size < WINDOW * 3:
            size += len(await reader.read(50_000))
        await writing
    with pytest.raises(ValueError, match="n must"):
        await reader.read(0)
    assert await reader.read(1) == b""


async def test_a_writer_can_abort_and_what_arrived_is_read_first(pair: Pair, inbox: Inbox) -> None:
    writer = await pair.to_b.open_stream("x").__aenter__()
    await writer.write(b"first")
    reader = await inbox.next()
    await eventually(lambda: unread_chunks(reader))
    await writer.__aexit__(RuntimeError, RuntimeError(), None)
    assert writer.reason == "aborted"
    await eventually(lambda: reader.reason)
    assert await reader.read(100) == b"first"
    with pytest.raises(StreamEndedError, match="aborted: RuntimeError") as info:
        await reader.read(1)
    assert info.value.reason == "aborted"


async def test_a_reader_can_cancel_while_the_writer_waits(pair: Pair, inbox: Inbox) -> None:
    sending = asyncio.ensure_future(send_more_than_fits(pair))
    (await inbox.next()).cancel("no, thanks")
    with pytest.raises(StreamEndedError) as info:
        await sending
    assert (info.value.reason, info.value.detail) == ("cancelled", "no, thanks")


async def test_a_stream_without_a_handler_is_refused(pair: Pair) -> None:
    with pytest.raises(StreamEndedError) as info:
        async with pair.to_b.open_stream("x") as writer:
            await writer.wait_ended()
    assert info.value.reason == "not_taken"


async def test_content_above_the_limit_of_readall_cancels_the_stream(pair: Pair, inbox: Inbox) -> None:
    async def send() -> None:
        async with pair.to_b.open_stream("x") as writer:
            await writer.write(bytes(200_000))

    sending = asyncio.ensure_future(send())
    with pytest.raises(StreamEndedError, match="too_large"):
        await (await inbox.next()).readall(limit=100_000)
    with pytest.raises(StreamEndedError, match="cancelled"):
        await sending


async def test_a_remote_that_leaves_ends_the_streams_of_both_ends(pair: Pair, inbox: Inbox) -> None:
    sending = asyncio.ensure_future(send_more_than_fits(pair))
    reader = await inbox.next()
    await pair.a.close()
    for waiting in (sending, reader.readall()):
        with pytest.raises(StreamEndedError) as info:
            await waiting
        assert info.value.reason == "peer_left"
    with pytest.raises(MeteredRealtimeError, match="has left"):
        await pair.to_b.open_stream("x").__aenter__()


# --- connections that are replaced


async def send_more_than_fits(pair: Pair) -> None:
    async with pair.to_b.open_stream("x") as writer:
        await writer.write(bytes(WINDOW * 2))


async def lose_for_good(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose the connection, and let nobody make another one."""
    monkeypatch.setattr(RecoveringConnection, "is_repair_due", False)
    await pair.to_b.pc.close()
    await eventually(lambda: not connection_of(pair.to_a).is_connected)


@pytest.mark.parametrize("end", ["a", "b"])
async def test_streams_continue_on_a_replaced_connection(pair: Pair, inbox: Inbox, end: str) -> None:
    data, text = os.urandom(3_000_000), "añ€😀" * 100_000
    back: asyncio.Queue[StreamReader] = asyncio.Queue()
    pair.a.on(StreamOpened, lambda event: back.put_nowait(event.reader))
    remote, got = pair.to_b if end == "a" else pair.to_a, 0

    async def send(to: RemotePeer, content: Any, kind: Any) -> None:
        async with to.open_stream(kind, kind=kind) as writer:
            await writer.write(content)

    async def receive(reader: StreamReader) -> Any:
        nonlocal got
        pieces: list[Any] = []
        async for chunk in reader:
            got += len(chunk)
            pieces.append(chunk)
        return (b"" if reader.kind == "bytes" else "").join(pieces)  # type: ignore[attr-defined]

    sends = [(pair.to_b, data, "bytes"), (pair.to_b, text, "text"), (pair.to_a, data, "bytes")]
    sending = asyncio.gather(*(send(*it) for it in sends))
    receiving = asyncio.gather(*[receive(it) for it in (await inbox.next(), await inbox.next(), await back.get())])
    for threshold, resets in ((500_000, 1), (2_000_000, 2)):
        await eventually(lambda threshold=threshold: got > threshold)
        await remote.pc.close()
        for log in (pair.log_a, pair.log_b):
            await log.until(ConnectionReset, resets)
    await sending
    assert sorted(await receiving, key=str) == sorted([data, text, data], key=str)


async def test_a_stream_that_is_opened_while_the_connection_is_replaced_opens_on_the_next(
    pair: Pair, inbox: Inbox
) -> None:
    async with pair.to_b.open_stream("first"):
        await inbox.next()
    await pair.to_b.pc.close()
    async with pair.to_b.open_stream("x") as writer:
        await writer.write(b"x")
        assert await (await inbox.next()).read(1) == b"x"
    assert pair.log_a.of(ConnectionReset)


async def test_without_a_connection_a_writer_waits_and_queues_little(
    pair: Pair, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = [await pair.to_b.open_stream(str(n)).__aenter__() for n in range(MAX_STREAMS)]
    await lose_for_good(pair, monkeypatch)
    writing = [asyncio.ensure_future(writer.write(bytes(WINDOW))) for writer in writers]
    done, _ = await asyncio.wait(writing, timeout=0.2)
    assert not done
    channel = open_reserved_channel(pair.to_b, LABEL)
    assert channel.ready_state == "reconnecting"
    assert channel.buffered_amount <= WINDOW_BYTES
    await pair.a.close()
    for task in writing:
        with pytest.raises(StreamEndedError, match="peer_left"):
            await task


async def test_a_remote_that_leaves_without_a_connection_ends_its_streams_at_once(
    pair: Pair, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = asyncio.ensure_future(send_more_than_fits(pair))
    reader = await inbox.next()
    await lose_for_good(pair, monkeypatch)
    await pair.a.leave()
    with pytest.raises(StreamEndedError, match="peer_left"):
        await reader.readall()
    with pytest.raises(StreamEndedError, match="peer_left"):
        await sending


async def test_a_connection_that_is_given_up_ends_its_streams(
    pair: Pair, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = asyncio.ensure_future(send_more_than_fits(pair))
    await inbox.next()
    await lose_for_good(pair, monkeypatch)
    pair.to_b._reports.negotiation_failed(IceRecoveryExhaustedError(9, 120.0))
    with pytest.raises(StreamEndedError, match="connection_lost: gave up after 9 attempts"):
        await sending


async def test_a_restarted_program_gets_no_content_of_its_predecessor(pair: Pair, inbox: Inbox) -> None:
    sending = asyncio.ensure_future(send_more_than_fits(pair))
    first = await inbox.next()
    back: asyncio.Queue[StreamReader] = asyncio.Queue()
    pair.a.on(StreamOpened, lambda event: back.put_nowait(event.reader))
    old = await pair.to_a.open_stream("old").__aenter__()
    await old.write(b"old")
    mine = await back.get()
    # The other program dies without a word, and another one comes before anybody has noticed.
    channel_entries(pair.to_a).pop(LABEL).channel.unbind()
    pair.to_a._exchange._streams._current = None
    await pair.to_a.pc.close()
    with pytest.raises(StreamEndedError, match="connection_lost: the other end has begun anew"):
        await sending
    assert await mine.read(10) == b"old"
    with pytest.raises(StreamEndedError, match="begun anew"):
        await mine.read(1)
    new = await pair.to_a.open_stream("new").__aenter__()  # which has the same number as the old one
    await new.write(b"new")
    mine.cancel()
    again = await back.get()
    assert await again.read(10) == b"new"
    await asyncio.gather(new.finish(), again.readall())
    async with pair.to_b.open_stream("again") as writer:
        await writer.write(b"x")
        assert await (await inbox.next()).read(1) == b"x"
    assert first.reason is None


async def test_the_label_of_streams_is_reserved(pair: Pair, inbox: Inbox) -> None:
    with pytest.raises(ValueError, match=r"metered\.streams\.1"):
        pair.to_b.open_channel(LABEL)
    raw = pair.to_b.create_data_channel(LABEL, protocol=LOSSY_PROTOCOL)
    await eventually(lambda: raw.readyState == "closed")
    async with pair.to_b.open_stream("x") as writer:
        await writer.write(b"x")
        assert await (await inbox.next()).read(1) == b"x"
    assert not pair.log_b.of(ChannelOpened)


async def test_both_ends_may_open_their_first_stream_at_once(pair: Pair) -> None:
    got: list[Any] = []
    for peer in (pair.a, pair.b):

        @peer.on(StreamOpened)
        async def _(event: StreamOpened) -> None:
            got.append(await event.reader.readall())

    async def send(remote: Any) -> None:
        async with remote.open_stream("x") as writer:
            await writer.write(remote.id.encode())

    await asyncio.gather(*(send(remote) for remote in (pair.to_b, pair.to_a) for _ in range(3)))
    assert sorted(got) == [b"a"] * 3 + [b"b"] * 3
    for log in (pair.log_a, pair.log_b):
        assert not log.of(DataChannelOpened)


async def test_misuse_is_refused(pair: Pair, inbox: Inbox) -> None:
    with pytest.raises(ValueError, match="not the opening"):
        pair.to_b.open_stream("")
    with pytest.raises(ValueError, match="async with"):
        await pair.to_b.open_stream("x").write(b"")
    writer = await pair.to_b.open_stream("x", total=2).__aenter__()
    for wrong in ("text", 5, [1]):
        with pytest.raises(TypeError, match="carries bytes"):
            await writer.write(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="already"):
        await writer.__aenter__()
    with pytest.raises(ValueError, match="announced"):
        await writer.write(b"123")
    writer.abort()
    with pytest.raises(StreamEndedError, match="aborted"):
        await writer.write(b"1")
    reader = await inbox.next()
    with pytest.raises(ValueError, match=r"limit must .* -1"):
        await reader.readall(-1)


async def test_a_writer_must_be_opened_before_use(pair: Pair, inbox: Inbox) -> None:
    writer = pair.to_b.open_stream("x")
    for wait in (writer.finish, writer.wait_ended):
        with pytest.raises(ValueError, match="not been opened"):
            await wait()
    opening = asyncio.ensure_future(writer.__aenter__())
    await asyncio.sleep(0)
    writer.abort("no")
    with pytest.raises(StreamEndedError, match="aborted: no"):
        await opening
    async with pair.to_b.open_stream("y"):
        assert (await inbox.next()).topic == "y"
    assert inbox.readers.empty()


# --- a remote that breaks the rules


async def hostile_channel(pair: Pair) -> tuple[ManagedChannel, EventLog]:
    """Open the channel of the streams by hand, from a to b."""
    channel = open_reserved_channel(pair.to_b, LABEL)
    log = EventLog(channel)
    await log.until(DCOpen)
    return channel, log


@pytest.mark.parametrize(
    "hostile",
    [
        frames.encode(frames.DATA, 7, b"never opened"),
        frames.encode(frames.CREDIT, 1, b"\xff\xff\xff\xff"),
        frames.encode(frames.DATA, 1),
        b"\x02",
        "text",
    ],
)
async def test_a_protocol_violation_ends_all_streams(pair: Pair, inbox: Inbox, hostile: Any) -> None:
    channel, log = await hostile_channel(pair)
    await channel.send(frames.encode(frames.OPEN, 1, OPENING))
    reader = await inbox.next()
    await channel.send(hostile)
    with pytest.raises(StreamEndedError) as info:
        await reader.read(1)
    assert info.value.reason == "protocol_error"
    await log.until(DCClose)
    async with pair.to_b.open_stream("a good one") as writer:
        await writer.write(b"x")
        assert await (await inbox.next()).read(1) == b"x"


async def test_exceeding_the_credit_ends_all_streams(pair: Pair, inbox: Inbox) -> None:
    channel, log = await hostile_channel(pair)
    await channel.send(frames.encode(frames.OPEN, 1, OPENING))
    for _ in range(WINDOW // frames.MAX_CHUNK + 1):
        await channel.send(frames.encode(frames.DATA, 1, bytes(frames.MAX_CHUNK)))
    await log.until(DCClose)
    assert (await inbox.next()).reason == "protocol_error"


async def test_streams_beyond_the_maximum_are_refused(pair: Pair, inbox: Inbox) -> None:
    channel, _ = await hostile_channel(pair)
    for id in range(1, MAX_STREAMS + 20):
        await channel.send(frames.encode(frames.OPEN, id, OPENING))
    await channel.send(frames.encode(frames.DATA, 1, b"x"))
    assert await (await inbox.next()).read(1) == b"x"
    assert inbox.readers.qsize() == MAX_STREAMS - 1
    channel.close()


async def test_invalid_text_ends_only_its_stream(pair: Pair, inbox: Inbox) -> None:
    channel, _ = await hostile_channel(pair)
    opening = frames.encode_opening(frames.Opening(topic="x", kind="text"))
    for id in (1, 2):
        await channel.send(frames.encode(frames.OPEN, id, opening))
    await channel.send(frames.encode(frames.DATA, 1, b"\xff"))
    await channel.send(frames.encode(frames.DATA, 2, "é".encode()))
    with pytest.raises(StreamEndedError, match="not UTF-8"):
        await (await inbox.next()).read(1)
    assert await (await inbox.next()).read(1) == "é"
    channel.close()


async def test_single_bytes_are_joined(pair: Pair, inbox: Inbox) -> None:
    channel, _ = await hostile_channel(pair)
    await channel.send(frames.encode(frames.OPEN, 1, OPENING))
    for n in range(5_000):
        await channel.send(frames.encode(frames.DATA, 1, bytes((n % 256,))))
    reader = await inbox.next()
    await eventually(lambda: sum(unread_chunks(reader)) == 5_000)
    assert len(unread_chunks(reader)) == 2
    assert await reader.read(5_000) == bytes(n % 256 for n in range(5_000))
    channel.close()
