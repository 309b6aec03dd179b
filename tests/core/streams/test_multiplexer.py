"""The multiplexer of streams: nothing is corrupted, nobody waits for ever, no bound is exceeded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.streams import frames as frames
from metered_realtime.core.streams.frames import MAX_CREDIT, Opening, StreamProtocolError, encode
from metered_realtime.core.streams.multiplexer import (
    MAX_REPLIES,
    MAX_STREAMS,
    WINDOW,
    Aborted,
    Arrived,
    Cancelled,
    Ended,
    Finished,
    Opened,
    StreamMultiplexer,
    TooManyStreamsError,
)

PATTERN = bytes(range(251)) * 4000
OPENING = Opening(topic="x")


@dataclass
class Reading:
    """What a reader has: arrived but not read, read, and how it ended."""

    unread: int = 0
    content: bytearray = field(default_factory=bytearray)
    ended: bool = False
    aborted: bool = False


@dataclass
class Writing:
    """What a writer has given."""

    content: bytearray = field(default_factory=bytearray)
    ended: bool = False
    gone: bool = False
    finished: bool = False


class End:
    """One end: a multiplexer, the frames on their way to it, and what it knows."""

    def __init__(self) -> None:
        self.mux = StreamMultiplexer()
        self.wire: deque[bytes] = deque()
        self.reading: dict[int, Reading] = {}
        self.writing: dict[int, Writing] = {}

    def deliver(self) -> None:
        for effect in self.mux.receive(self.wire.popleft()):
            match effect:
                case Opened(id):
                    self.reading[id] = Reading()
                case Arrived(id, data):
                    reading = self.reading[id]
                    reading.unread += len(data)
                    reading.content += data
                    assert reading.unread <= WINDOW
                case Ended(id):
                    self.reading[id].ended = True
                case Aborted(id):
                    self.reading[id].aborted = True
                case Cancelled(id):
                    self.writing[id].gone = True
                case Finished(id):
                    self.writing[id].finished = True

    def read(self, id: int, count: int) -> None:
        reading = self.reading[id]
        count = min(count, reading.unread)
        reading.unread -= count
        self.mux.consumed(id, count)


class Pair:
    """Two ends and the channel between them, which loses nothing as long as it lives."""

    def __init__(self) -> None:
        self.ends = (End(), End())

    def send(self, side: int) -> bool:
        frame = self.ends[side].mux.next_frame()
        if frame is None:
            return False
        self.ends[1 - side].wire.append(frame)
        return True

    def settle(self) -> None:
        """Send, deliver and read until nothing moves any more."""
        moved = True
        while moved:
            moved = False
            for side, end in enumerate(self.ends):
                while self.send(side):
                    moved = True
                while end.wire:
                    end.deliver()
                    moved = True
                for id, reading in end.reading.items():
                    if reading.unread and not reading.aborted:
                        end.read(id, reading.unread)
                        moved = True


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "write", "write", "end", "abort", "cancel", "send", "send", "deliver", "read", "lose"]
        ),
        st.integers(0, 1),
        st.integers(0, 5),
        st.integers(0, 400_000),
    ),
    max_size=80,
)


def act(pair: Pair, what: str, side: int, index: int, size: int) -> None:
    end = pair.ends[side]
    live = [id for id, it in end.writing.items() if not it.gone and not it.ended]
    unread = [id for id, it in end.reading.items() if not it.aborted]
    match what:
        case "open":
            end.writing[end.mux.open(OPENING)] = Writing()
        case "write" if live:
            id = live[index % len(live)]
            end.mux.write(id, PATTERN[index : index + size])
            end.writing[id].content += PATTERN[index : index + size]
        case "end" if live:
            end.mux.end(live[index % len(live)])
            end.writing[live[index % len(live)]].ended = True
        case "abort" if live:
            end.mux.abort(live[index % len(live)], "application", "why not")
            end.writing[live[index % len(live)]].gone = True
        case "cancel" if unread:
            end.mux.cancel(unread[index % len(unread)], "application", "")
            end.reading[unread[index % len(unread)]].aborted = True
        case "send":
            for _ in range(index + 1):
                pair.send(side)
        case "deliver":
            for _ in range(min(index + 1, len(end.wire))):
                end.deliver()
        case "read" if unread:
            end.read(unread[index % len(unread)], size)


def check(pair: Pair) -> None:
    for writer, reader in (pair.ends, pair.ends[::-1]):
        for id, writing in writer.writing.items():
            reading = reader.reading.get(id, Reading())
            assert writing.content.startswith(reading.content)
            if not reading.aborted and not writing.gone:
                assert reading.content == writing.content
                assert (reading.ended, writing.finished) == (writing.ended, writing.ended)


@settings(max_examples=150)
@given(ACTIONS)
def test_content_arrives_in_order_or_its_stream_ends(actions: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for what, side, index, size in actions:
        if what == "lose":  # a connection that is replaced takes its streams and what is on the way with it
            for writer, reader in (pair.ends, pair.ends[::-1]):
                for id, reading in reader.reading.items():
                    assert writer.writing[id].content.startswith(reading.content)
            pair = Pair()
        else:
            act(pair, what, side, index, size)
    pair.settle()
    check(pair)
    for end in pair.ends:
        for id, writing in end.writing.items():
            if not writing.ended and not writing.gone:
                end.mux.end(id)
                writing.ended = True
    pair.settle()
    check(pair)
    assert all(end.mux._inbound == {} == end.mux._outbound for end in pair.ends)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.binary(max_size=12)), max_size=60))
def test_hostile_frames_break_the_channel_or_nothing(hostile: list[tuple[int, int, bytes]]) -> None:
    end = StreamMultiplexer()
    end.open(OPENING)
    opening = frames.encode_opening(OPENING)
    for type, id, payload in hostile:
        try:
            end.receive(encode(type, id, opening if type == frames.OPEN and len(payload) % 2 else payload))
        except StreamProtocolError:
            break
        assert len(end._inbound) <= MAX_STREAMS
        assert all(0 <= it.unread <= WINDOW and it.credit >= 0 for it in end._inbound.values())
    while end.next_frame() is not None:
        pass


def opened(end: StreamMultiplexer, id: int = 1, **fields: Any) -> StreamMultiplexer:
    end.receive(encode(frames.OPEN, id, frames.encode_opening(Opening(topic="x", **fields))))
    return end


@pytest.mark.parametrize(
    "hostile",
    [
        "text",
        b"",
        b"\x02\x00\x00",
        encode(0, 1),
        encode(8, 1),
        encode(frames.OPEN, 0, b"{}"),
        encode(frames.OPEN, 2, b"{}"),
        encode(frames.OPEN, 2, b'{"topic":""}'),
        encode(frames.OPEN, 2, b'{"topic":"x","attributes":{"a":[]}}'),
        encode(frames.OPEN, 2, b'{"topic":"x","total":-1}'),
        encode(frames.OPEN, 2, b'{"topic":"x","kind":"video"}'),
        encode(frames.OPEN, 2, b"[" * 16_000),
        encode(frames.OPEN, 2, b"\xff"),
        encode(frames.OPEN, 2, b'{"topic":"x"}' + b" " * 16_384),
        encode(frames.OPEN, 1, b'{"topic":"again"}'),
        encode(frames.DATA, 9, b"x"),
        encode(frames.DATA, 1, b""),
        encode(frames.DATA, 1, bytes(32_769)),
        encode(frames.END, 1, b"x"),
        encode(frames.ABORT, 1, bytes(202)),
        encode(frames.CREDIT, 9, b"\0\0\0\1"),
        encode(frames.CREDIT, 1, b"\0\0\0\0"),
        encode(frames.CREDIT, 1, b"\xff\xff\xff\xff"),
        encode(frames.CREDIT, 1, b"\0\0\1"),
        encode(frames.FINISHED, 1),
    ],
)
def test_a_frame_that_breaks_the_protocol_is_refused(hostile: Any) -> None:
    end = opened(StreamMultiplexer())
    end.open(OPENING)
    with pytest.raises(StreamProtocolError):
        end.receive(hostile)


def test_more_than_the_credit_is_refused() -> None:
    end = opened(StreamMultiplexer())
    for _ in range(WINDOW // frames.MAX_CHUNK):
        end.receive(encode(frames.DATA, 1, bytes(frames.MAX_CHUNK)))
    with pytest.raises(StreamProtocolError, match="with a credit of 0"):
        end.receive(encode(frames.DATA, 1, b"x"))


@pytest.mark.parametrize("bad", [encode(frames.DATA, 1, b"12345"), encode(frames.END, 1)])
def test_content_must_have_the_announced_length(bad: bytes) -> None:
    with pytest.raises(StreamProtocolError):
        opened(StreamMultiplexer(), total=4).receive(bad)


def test_content_after_the_end_is_refused() -> None:
    end = opened(StreamMultiplexer())
    end.receive(encode(frames.DATA, 1, b"x"))
    end.receive(encode(frames.END, 1))
    with pytest.raises(StreamProtocolError):
        end.receive(encode(frames.DATA, 1, b"x"))


def test_frames_for_an_ended_stream_are_counted_and_ignored() -> None:
    end = opened(StreamMultiplexer())
    end.cancel(1, "application", "")
    assert end.receive(encode(frames.DATA, 1, b"x")) == []
    assert end.ignored == 1


def test_a_stream_above_the_maximum_is_refused_and_the_others_continue() -> None:
    end = StreamMultiplexer()
    for id in range(1, MAX_STREAMS + 1):
        opened(end, id)
    opened(end, MAX_STREAMS + 1)
    frame = end.next_frame()
    assert frame is not None
    assert frames.parse(frame).type == frames.CANCEL
    assert frames.decode_stop(frames.parse(frame).payload) == ("too_many_streams", "")
    assert end.receive(encode(frames.DATA, 1, b"x")) == [Arrived(1, b"x")]


def test_this_end_opens_no_more_streams_than_the_other_accepts() -> None:
    end = StreamMultiplexer()
    for _ in range(MAX_STREAMS):
        end.open(OPENING)
    with pytest.raises(TooManyStreamsError):
        end.open(OPENING)


def test_flooding_without_reading_replies_breaks_the_channel() -> None:
    end = StreamMultiplexer()
    for id in range(1, MAX_REPLIES + 1):
        opened(end, id)
        end.receive(encode(frames.END, id))
    with pytest.raises(StreamProtocolError, match="wait to be taken"):
        opened(end, MAX_REPLIES + 1)


def test_opening_refused_streams_without_reading_replies_breaks_the_channel() -> None:
    end = StreamMultiplexer()
    for id in range(1, MAX_REPLIES + 1):
        opened(end, id)
        end.cancel(id, "not_taken", "")
    with pytest.raises(StreamProtocolError, match="wait to be taken"):
        opened(end, MAX_REPLIES + 1)
    reader = StreamMultiplexer()
    for id in range(1, 2 * MAX_REPLIES):
        opened(reader, id)
        reader.cancel(id, "not_taken", "")
        assert reader.next_frame() is not None  # who takes them may go on


def test_streams_take_turns_and_one_without_credit_delays_no_other() -> None:
    end = StreamMultiplexer()
    ids = [end.open(OPENING) for _ in range(4)]
    end.write(ids[0], bytes(WINDOW + 1))
    while end.next_frame() is not None:
        pass  # the first has no credit any more
    for id in ids[1:]:
        end.write(id, bytes(100_000))
    order = [frames.parse(frame).id for _ in range(9) if (frame := end.next_frame()) is not None]
    assert order == ids[1:] * 3
    assert end.pending(ids[0]) == 1


def test_a_waiting_writer_gets_credit_after_a_quarter_of_the_window() -> None:
    pair = Pair()
    writer, reader = pair.ends
    id = writer.mux.open(OPENING)
    writer.writing[id] = Writing()
    writer.mux.write(id, bytes(WINDOW * 2))
    while pair.send(0):
        reader.deliver()
    assert writer.mux.pending(id) == WINDOW
    reader.read(id, WINDOW // 4)
    assert pair.send(1)
    writer.deliver()
    assert pair.send(0)


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": ""},
        {"topic": "x" * 129},
        {"topic": "x", "attributes": {"a": {}}},
        {"topic": "x", "attributes": {"a": object()}},
        {"topic": "x", "attributes": {"a": "x" * 20_000}},
        {"topic": "x", "total": -1},
        {"topic": "x", "kind": "video"},
    ],
)
def test_an_opening_is_checked_before_it_is_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        frames.encode_opening(Opening(**fields))


def test_the_detail_of_a_stop_is_shortened_and_cleaned() -> None:
    assert frames.decode_stop(b"\x01a\n\x1b[31mb\xff") == ("too_many_streams", "a[31mb")
    assert frames.decode_stop(b"") == ("application", "")
    assert frames.decode_stop(b"\xc8") == ("application", "")
    assert len(frames.encode_stop("application", "é" * 300)) == 201


@pytest.mark.parametrize("count", [-1, 0, MAX_CREDIT])
def test_a_reader_cannot_break_the_credit_of_its_stream(count: int) -> None:
    mux = StreamMultiplexer()
    mux.receive(encode(frames.OPEN, 1, frames.encode_opening(OPENING)))
    with pytest.raises(ValueError, match=rf"count must be from 1 to .*, not {count}"):
        mux.widen(1, count)
    mux.widen(1, MAX_CREDIT - WINDOW)
    assert mux.next_frame() == encode(frames.CREDIT, 1, (MAX_CREDIT - WINDOW).to_bytes(4, "big"))


@pytest.mark.parametrize("attributes", [{"a": float("nan")}, {1: "a"}, {"a": [1]}, {"a": object()}, {"a": "\ud800"}])
def test_attributes_that_json_would_change_are_refused(attributes: Any) -> None:
    with pytest.raises(ValueError, match=r"attributes|opening|surrogates"):
        frames.encode_opening(Opening(topic="x", attributes=attributes))
