"""Channels that survive: whatever is cut, lost or repeated, nothing is corrupted, stuck or over its bound."""

from __future__ import annotations

import contextlib
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metered_realtime.core.channels import frames as frames
from metered_realtime.core.channels.frames import ChannelFrameError, HelloFrame, MessagePart
from metered_realtime.core.channels.reassembly import AtMostOnce, InOrder
from metered_realtime.core.channels.replay import MAX_RESYNCS, Closed, Deliver, Missed, ReplayEndpoint, Resumed

FRAME = 2_048
"""Bytes of a frame in these tests, small enough to have many chunks."""

instance_ids = itertools.count(1)


@dataclass
class End:
    """One end, what it was given to send and what it got."""

    endpoint: ReplayEndpoint
    sent: list[str | bytes] = field(default_factory=list)
    got: list[str | bytes] = field(default_factory=list)
    resumed: list[Resumed] = field(default_factory=list)
    missed: int = 0
    closed: int | None = None
    wire: list[bytes] = field(default_factory=list)

    def send(self, data: str | bytes) -> bool:
        payload = data.encode() if isinstance(data, str) else data
        if not self.endpoint.window.fits(len(payload)):
            return False
        self.endpoint.accept(payload, is_text=isinstance(data, str))
        self.sent.append(data)
        return True

    def pump(self) -> None:
        while (frame := self.endpoint.next_frame(FRAME)) is not None:
            assert len(frame) <= FRAME
            self.wire.append(frame)

    def take(self, frame: bytes) -> None:
        match self.endpoint.receive(frame):
            case Deliver(data):
                self.got.append(data)
            case Resumed() as resumed:
                self.resumed.append(resumed)
                self.missed += resumed.missed
            case Missed(count):
                self.missed += count
            case Closed(reason):
                self.closed = reason


def end(**options: int | bool) -> End:
    return End(ReplayEndpoint(next(instance_ids), **options))  # type: ignore[arg-type]


class Connection:
    """Carries frames between two ends, and loses what is under way when it is cut."""

    def __init__(self, a: End, b: End) -> None:
        self.a, self.b = a, b
        self.up = False

    def connect(self) -> None:
        self.cut()
        self.up = True
        for it in (self.a, self.b):
            it.endpoint.connected()

    def cut(self) -> None:
        for it in (self.a, self.b):
            it.wire.clear()
            if self.up:
                it.endpoint.disconnected()
        self.up = False

    def step(self, sender: End, count: int = 1) -> None:
        """Let some frames of one end arrive."""
        if self.up:
            sender.pump()
            receiver = self.b if sender is self.a else self.a
            for frame in sender.wire[:count]:
                receiver.take(frame)
            del sender.wire[:count]

    def settle(self) -> None:
        """Let everything arrive, acknowledgements included."""
        for _ in range(10_000):
            for it in (self.a, self.b):
                it.endpoint.acknowledge()
                it.pump()
            if not (self.a.wire or self.b.wire):
                return
            self.step(self.a, len(self.a.wire))
            self.step(self.b, len(self.b.wire))
        pytest.fail("never comes to rest")


def connected(**options: int | bool) -> tuple[End, End, Connection]:
    a, b = end(**options), end(**options)
    connection = Connection(a, b)
    connection.connect()
    connection.settle()
    return a, b, connection


messages = st.one_of(st.text(max_size=40), st.binary(max_size=40), st.integers(2_000, 9_000).map(bytes))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.booleans(), messages),
        st.tuples(st.just("step"), st.booleans(), st.integers(1, 6)),
        st.tuples(st.just("ack"), st.booleans(), st.none()),
        st.tuples(st.just("cut"), st.booleans(), st.none()),
        st.tuples(st.just("connect"), st.booleans(), st.none()),
        st.tuples(st.just("lose"), st.booleans(), st.integers(0, 5)),
        st.tuples(st.just("repeat"), st.booleans(), st.integers(0, 5)),
    ),
    max_size=80,
)


def play(connection: Connection, script: list[tuple[str, bool, object]], max_messages: int, max_bytes: int) -> None:
    for action, first, argument in script:
        one = connection.a if first else connection.b
        match action, argument:
            case "send", (str() | bytes()) as data:
                one.send(data)
            case "step", int(count):
                connection.step(one, count)
            case "ack", _:
                one.endpoint.acknowledge()
            case "cut", _:
                connection.cut()
            case "connect", _:
                connection.connect()
            case "lose", int(index):
                one.pump()
                # A hello is what a connection begins with; it is lost with the connection only.
                if index < len(one.wire) and one.wire[index][0] != frames.HELLO:
                    del one.wire[index]
            case "repeat", int(index):
                one.pump()
                if index < len(one.wire) and one.wire[index][0] != frames.HELLO:
                    one.wire.insert(index, one.wire[index])
        for it in (connection.a, connection.b):
            window = it.endpoint.window
            assert len(window) <= max_messages
            assert window.bytes <= max_bytes or len(window) == 1


@given(actions, st.integers(1, 6), st.integers(100, 12_000))
@settings(max_examples=300)
def test_everything_accepted_arrives_once_and_in_order(
    script: list[tuple[str, bool, object]], max_messages: int, max_bytes: int
) -> None:
    bounds = {"max_messages": max_messages, "max_bytes": max_bytes}
    connection = Connection(end(**bounds), end(**bounds))
    with contextlib.suppress(ChannelFrameError):  # a connection on which too much was lost is given up
        play(connection, script, **bounds)
    connection.connect()
    connection.settle()
    for sender, receiver in ((connection.a, connection.b), (connection.b, connection.a)):
        assert receiver.got == sender.sent
        assert len(sender.endpoint.window) == 0
        assert receiver.missed == 0


@given(st.lists(actions, min_size=2, max_size=4))
@settings(max_examples=100)
def test_restarted_programs_get_every_unacknowledged_message(
    lives: list[list[tuple[str, bool, object]]],
) -> None:
    bounds = {"max_messages": 6, "max_bytes": 12_000}
    a = end(**bounds)
    got: list[list[str | bytes]] = []
    count = itertools.count()
    for script in lives:
        connection = Connection(a, end(**bounds))
        numbered = [
            (action, first, f"{next(count):04d}" if action == "send" else argument)
            for action, first, argument in script
        ]
        with contextlib.suppress(ChannelFrameError):
            play(connection, numbered, **bounds)
        connection.cut()
        got.append(connection.b.got)
    connection.connect()
    connection.settle()
    for one in got:
        assert one == sorted(one)  # type: ignore[type-var]
    assert {message for one in got for message in one} == set(a.sent)
    for one, following in itertools.pairwise(got):
        assert len(set(one) & set(following)) <= bounds["max_messages"]


IN_PART = [("send", False, bytes(2_039)), ("connect", False, None), *[("step", it, 1) for it in (False, True, False)]]


@given(actions, st.integers(1, 6), st.booleans())
@example(IN_PART, 1, False)
@settings(max_examples=200)
def test_a_lossy_channel_loses_and_counts_whole_messages_only(
    script: list[tuple[str, bool, object]], max_messages: int, unordered: bool
) -> None:
    bounds = {"max_messages": max_messages, "max_bytes": 12_000}
    connection = Connection(end(reliable=False, **bounds), end(reliable=False, **bounds))
    numbered = [
        (action, first, f"{index:03d}" if isinstance(argument, str) else argument)
        for index, (action, first, argument) in enumerate(script)
        if action not in ("lose", "repeat") or unordered
    ]
    play(connection, numbered, **bounds)
    connection.connect()
    connection.settle()
    for sender, receiver in ((connection.a, connection.b), (connection.b, connection.a)):
        remaining = iter(sender.sent)
        assert all(any(message == it for it in remaining) for message in receiver.got)
        if not unordered:
            assert len(receiver.got) + sender.endpoint.window.dropped == len(sender.sent)


@given(st.lists(st.binary(max_size=80), max_size=30), st.integers(0, 2**32))
@settings(max_examples=200)
def test_hostile_frames_raise_nothing_but_frame_errors(garbage: list[bytes], seed: int) -> None:
    chance = random.Random(seed)
    a, _, _ = connected(max_messages=4, max_bytes=10_000, max_message=5_000)
    a.send(b"x" * 4_000)
    a.pump()
    for frame in garbage:
        kind = bytes([chance.randint(0, 7)])
        try:
            a.endpoint.receive(kind + frame)
            a.endpoint.receive((kind + frame).ljust(chance.choice((9, 10, 18, 42)), b"\0"))
        except ChannelFrameError:
            return


def test_messages_in_flight_are_sent_again_on_the_next_connection() -> None:
    a, b, connection = connected()
    for number in range(10):
        a.send(str(number))
    connection.step(a, 4)
    connection.connect()
    connection.settle()
    assert b.got == [str(number) for number in range(10)]
    assert a.resumed[-1] == Resumed(resent=6, dropped=0, missed=0, restarted=False)
    assert (b.endpoint.duplicates, a.endpoint.window.resent) == (0, 6)


def test_a_large_message_continues_in_its_middle() -> None:
    a, b, connection = connected()
    message = random.Random(1).randbytes(20 * FRAME)
    a.send(message)
    connection.step(a, 15)
    connection.connect()
    connection.step(a, 1)  # the hello
    connection.step(b, 1)
    a.pump()
    assert len(a.wire) < 8
    connection.settle()
    assert b.got == [message]


def test_another_program_gets_what_its_predecessor_has_not_acknowledged() -> None:
    a, b, connection = connected()
    a.send("first")
    connection.settle()
    a.send("second")
    connection.step(a)
    connection.cut()
    another = end()
    connection.b = another
    connection.connect()
    a.send("third")
    connection.settle()
    assert (b.got, another.got) == (["first", "second"], ["second", "third"])
    assert a.resumed[-1] == Resumed(resent=1, dropped=0, missed=0, restarted=True)
    another.send("hello")
    connection.settle()
    assert a.got == ["hello"]


def test_a_window_holds_its_bounds_or_one_large_message() -> None:
    a, b, connection = connected(max_messages=2, max_bytes=100)
    assert [a.send(b"x" * 50), a.send(b"x" * 51), a.send(b"x" * 50), a.send(b"")] == [True, False, True, False]
    connection.settle()
    assert [a.send(b"y" * 500), a.send(b"")] == [True, False]
    connection.settle()
    assert len(b.got) == 3


def test_a_sender_requests_an_acknowledgement_before_its_window_is_full() -> None:
    a, b, connection = connected(max_messages=8)
    for number in range(8):
        a.send(str(number))
    connection.step(a, 100)
    connection.step(b, 100)  # no timer has fired
    assert len(a.endpoint.window) == 0


def test_a_reader_that_holds_acknowledgements_stops_the_sender() -> None:
    a, b, connection = connected(max_messages=8)
    b.endpoint.holds_acks = True
    sent = sum(a.send(str(number)) for number in range(20))
    connection.settle()
    assert (sent, len(a.endpoint.window)) == (8, 8)
    b.endpoint.holds_acks = False
    connection.settle()
    assert len(a.endpoint.window) == 0


def test_dropping_the_window_tells_the_other_end() -> None:
    a, b, connection = connected()
    a.send("arrives")
    connection.settle()
    connection.cut()
    for number in range(5):
        a.send(str(number))
    assert a.endpoint.give_up() == 5
    a.send("after")
    connection.connect()
    connection.settle()
    assert (b.got, b.missed, a.endpoint.window.dropped) == (["arrives", "after"], 5, 5)
    a.send(b"x" * 5 * FRAME)
    connection.step(a, 2)
    a.wire.clear()
    assert a.endpoint.give_up() == 1
    a.send("in the end")
    connection.settle()
    assert (b.got[-1], b.missed) == ("in the end", 6)


def test_messages_above_the_maximum_of_the_other_end_are_dropped_unsent() -> None:
    a, b = end(), end(max_message=100)
    for size in (50, 101, 60):
        a.send(b"x" * size)
    connection = Connection(a, b)
    connection.connect()
    connection.settle()
    assert [len(it) for it in b.got] == [50, 60]
    assert a.resumed[0].dropped == 1
    assert a.endpoint.remote_max_message == 100


def test_a_hello_that_was_lost_is_repeated_on_a_lossy_channel() -> None:
    a, b = end(reliable=False), end(reliable=False)
    connection = Connection(a, b)
    connection.connect()
    for it in (a, b):
        it.pump()
        it.wire.clear()
    a.send("x")
    a.endpoint.remind()
    connection.settle()  # b's own was lost too, and a's makes b repeat nothing yet
    b.endpoint.remind()
    a.endpoint.remind()
    connection.settle()
    assert b.got == ["x"]


def test_closing_reaches_the_other_end() -> None:
    a, b, connection = connected()
    a.endpoint.close(1)
    connection.settle()
    assert b.closed == 1


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x02",
        b"\x07abc",
        b"\x02\x00" + b"\xff" * 8,
        frames.encode_chunk(0, 0, 0, b"x" * 2_000, 10),
        frames.encode_ack(1),
        b"x" * (frames.MAX_FRAME + 1),
        frames.encode_message(0, frames.TEXT, b"\xff"),
        frames.encode_message(0, 0, b"x" * 101),
        frames.encode_hello(HelloFrame(0, 0, 0, 0, 0, 100)),
        frames.encode_hello(HelloFrame(5, 0, 0, 0, 0, 100))[:-1],
    ],
)
def test_protocol_violations_are_detected(frame: bytes) -> None:
    a, _, _ = connected(max_message=100)
    with pytest.raises(ChannelFrameError):
        a.endpoint.receive(frame)


def test_the_number_of_repetitions_is_bounded() -> None:
    a, b, connection = connected()
    a.send(b"x")
    b.endpoint.connected()
    b.pump()
    for _ in range(MAX_RESYNCS):
        a.take(b.wire[0])
    with pytest.raises(ChannelFrameError, match="repetitions"):
        a.take(b.wire[0])
    connection.cut()


def parts(number: int, payload: bytes, size: int) -> list[MessagePart]:
    offsets = range(0, len(payload), size)
    return [MessagePart(number, False, False, it, len(payload), payload[it : it + size]) for it in offsets]


@given(st.lists(st.integers(1, 9_000), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_an_unordered_receiver_joins_chunks_in_any_order(sizes: list[int], chance: random.Random) -> None:
    payloads = [chance.randbytes(size) for size in sizes]
    every = [part for number, payload in enumerate(payloads) for part in parts(number, payload, 1_500)]
    every += chance.sample(every, len(every) // 2)
    chance.shuffle(every)
    receiver = AtMostOnce(100_000)
    got = [message for part in every if (message := receiver.add_part(part)) is not None]
    assert sorted(got) == sorted(payloads)


def test_incomplete_messages_are_bounded() -> None:
    receiver = AtMostOnce(10_000)
    for number in range(1_000):
        receiver.add_part(MessagePart(number, False, False, 0, 9_000, b"x" * 2_000))
    assert receiver._partial_bytes <= 10_000
    assert receiver.add_part(MessagePart(2_000, False, False, 0, 1, b"x")) == b"x"


def test_overlapping_chunks_make_no_message() -> None:
    receiver = AtMostOnce(10_000)
    assert receiver.add_part(MessagePart(0, False, False, 0, 4_000, b"x" * 2_000)) is None
    assert receiver.add_part(MessagePart(0, False, False, 1_500, 4_000, b"x" * 2_000)) is None


def test_a_repeated_chunk_adds_only_its_new_part() -> None:
    receiver = InOrder(10_000)
    payload = bytes(range(200)) * 20
    assert receiver.add_part(MessagePart(0, False, False, 0, 4_000, payload[:2_000])) is None
    assert receiver.add_part(MessagePart(0, False, False, 1_000, 4_000, payload[1_000:])) == payload
