"""Streams over a channel whose connections come and go: nothing lost, twice, out of order or stuck."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.channels.replay import Deliver, ReplayEndpoint, Resumed
from metered_realtime.core.streams.frames import HEADER_BYTES, MAX_CHUNK, Opening
from metered_realtime.core.streams.multiplexer import WINDOW, Arrived, Ended, Finished, Opened, StreamMultiplexer

PATTERN = bytes(range(251)) * 4000
MAX_MESSAGE = HEADER_BYTES + MAX_CHUNK
CHANNEL_WINDOW = 8 * MAX_MESSAGE
"""Smaller than a stream's own, so that it fills."""


class End:
    """A program at one end: its channel, its streams, what it has written and what it has read, by number of stream."""

    def __init__(self, instance_id: int) -> None:
        self.channel = ReplayEndpoint(
            instance_id, max_bytes=CHANNEL_WINDOW, max_message=MAX_MESSAGE, serves_successors=False
        )
        self.begin()

    def begin(self) -> None:
        self.mux = StreamMultiplexer()
        self.written: dict[int, int] = {}
        self.finished: set[int] = set()
        self.unread: dict[int, int] = {}
        self.content: dict[int, bytearray] = {}
        self.ended: set[int] = set()

    def next_frame(self, max_frame: int) -> bytes | None:
        """Pull from the streams as a managed channel does."""
        frame = self.channel.next_frame(max_frame)
        if frame is None and self.channel.greeted and self.channel.window.fits(MAX_MESSAGE):
            message = self.mux.next_frame()
            if message is not None:
                self.channel.accept(message, is_text=False)
                frame = self.channel.next_frame(max_frame)
        assert self.channel.window.bytes <= CHANNEL_WINDOW
        return frame

    def receive(self, frame: bytes) -> None:
        effect = self.channel.receive(frame)
        if isinstance(effect, Resumed) and effect.restarted:
            self.begin()
        elif isinstance(effect, Deliver):
            assert isinstance(effect.data, bytes)
            for it in self.mux.receive(effect.data):
                self.perform(it)

    def perform(self, effect: object) -> None:
        match effect:
            case Opened(id):
                self.unread[id], self.content[id] = 0, bytearray()
            case Arrived(id, data):
                self.unread[id] += len(data)
                self.content[id] += data
                assert self.unread[id] <= WINDOW
            case Ended(id):
                self.ended.add(id)
            case Finished(id):
                self.finished.add(id)

    def read(self, id: int, count: int) -> None:
        count = min(count, self.unread[id])
        self.unread[id] -= count
        self.mux.consumed(id, count)


class World:
    """Two ends and the connection between them, which loses what is under way when it is replaced."""

    def __init__(self) -> None:
        self.sessions = 0
        self.ends = [self.program(), self.program()]
        self.connect()

    def program(self) -> End:
        self.sessions += 1
        return End(self.sessions)

    def connect(self) -> None:
        self.wires: list[deque[bytes]] = [deque(), deque()]
        for end in self.ends:
            end.channel.disconnected()
            end.channel.connected()

    def greet(self) -> None:
        """Let the hellos of a new connection arrive."""
        self.send(1, 65_536)
        self.deliver(1)

    def act(self, number: int, what: str, amount: int) -> None:
        end = self.ends[number]
        ids = sorted(end.written)
        if what == "write" and len(ids) < 3:
            end.written[end.mux.open(Opening(topic="x"))] = 0
        elif what == "write":
            id = ids[amount % len(ids)]
            if not end.mux._outbound[id].ending:
                start = end.written[id]
                end.mux.write(id, PATTERN[start : start + amount])
                end.written[id] += amount
        elif what == "read" and end.content:
            ids = sorted(end.content)
            end.read(ids[amount % len(ids)], amount)

    def send(self, count: int, max_frame: int) -> bool:
        """Let up to so many frames of each end go out. Return whether there were any."""
        moved = False
        for end, wire in zip(self.ends, self.wires, strict=True):
            for _ in range(count):
                frame = end.next_frame(max_frame)
                if frame is None:
                    break
                wire.append(frame)
                moved = True
        return moved

    def deliver(self, count: int) -> bool:
        """Let up to so many frames come in at each end. Return whether there were any."""
        moved = False
        for wire, other in zip(self.wires, reversed(self.ends), strict=True):
            for _ in range(min(count, len(wire))):
                other.receive(wire.popleft())
                moved = True
        return moved

    def settle(self) -> None:
        """End every stream, read everything, and go on until nothing moves."""
        for end in self.ends:
            for id in end.written:
                if not end.mux._outbound[id].ending:
                    end.mux.end(id)
        moving = True
        while moving:
            moving = self.send(50, 65_536) or any(self.wires)
            self.deliver(50)
            for end in self.ends:
                end.channel.acknowledge()
                for id, unread in end.unread.items():
                    moving = moving or unread > 0
                    end.read(id, unread)


sides = st.sampled_from([0, 1])
steps = st.one_of(
    st.tuples(sides, st.just("write"), st.integers(1, 200_000)),
    st.tuples(sides, st.just("read"), st.integers(1, 200_000)),
    st.tuples(sides, st.sampled_from(["send", "deliver", "carry", "acknowledge"]), st.integers(1, 30)),
    st.tuples(sides, st.sampled_from(["cut", "cut early", "restart"]), st.just(0)),
)


def perform(world: World, number: int, what: str, amount: int, max_frame: int) -> None:
    """Do one thing."""
    match what:
        case "send":
            world.send(amount, max_frame)
        case "deliver":
            world.deliver(amount)
        case "carry":
            world.send(amount, max_frame)
            world.deliver(amount)
        case "acknowledge":
            world.ends[number].channel.acknowledge()
        case "cut early":
            world.connect()
        case "cut":
            world.connect()
            world.greet()
        case "restart":
            world.ends[number] = world.program()
            world.connect()
            world.greet()
        case _:
            world.act(number, what, amount)


@settings(max_examples=300)
@given(st.lists(steps, min_size=5, max_size=60), st.sampled_from([1_100, 9_000, 65_536]))
def test_streams_outlive_their_connections_and_end_with_their_program(
    history: list[tuple[int, str, int]], max_frame: int
) -> None:
    world = World()
    world.greet()
    for number, what, amount in history:
        perform(world, number, what, amount, max_frame)
    world.connect()
    while world.send(1, max_frame) or any(world.wires):  # at the latest here both know whom they are talking to
        world.deliver(1)
    world.settle()
    for end, other in zip(world.ends, reversed(world.ends), strict=True):
        assert end.finished == set(end.written) == other.ended
        assert {id: bytes(content) for id, content in other.content.items()} == {
            id: PATTERN[:count] for id, count in end.written.items()
        }
        assert not end.channel.window
