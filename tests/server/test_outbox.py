"""The frames on their way to a client: order, joining, the bound, and the end of a connection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.server import outbox as outbox_module
from metered_realtime.server.outbox import BUSY_TIME, LoopTurn, Outbox
from tests.support.patience import PATIENCE

LIMIT = 1_000


class RecordingTransport(asyncio.Transport):
    """Holds what is written until `drain`, except what fits into `room` at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.taken: list[bytes] = []
        self.held = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.held += bytes(data)
        if len(self.held) <= self.room:
            self.drain()

    def drain(self) -> None:
        self.taken.append(self.held)
        self.held = b""

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def is_closing(self) -> bool:
        return self.closing


class LoopTurnByHand(LoopTurn):
    """A turn that a test ends."""

    def end_soon(self) -> None:
        pass


@dataclass
class Bench:
    """An outbox whose transport is no socket."""

    room: int = 1 << 20
    turn: LoopTurnByHand = field(default_factory=LoopTurnByHand)
    full: int = 0

    def __post_init__(self) -> None:
        self.transport = RecordingTransport(self.room)
        self.outbox = Outbox(self.transport, self.turn, LIMIT, self._fill)

    def _fill(self) -> None:
        self.full += 1


class TestQueue:
    def test_frames_of_one_turn_are_one_write(self) -> None:
        bench = Bench()
        for frame in (b"a", b"b", b"c"):
            bench.outbox.write(frame)
        assert bench.transport.taken == []
        bench.turn.end()
        assert bench.transport.taken == [b"abc"]

    def test_nothing_is_written_once_the_transport_is_closing(self) -> None:
        bench = Bench()
        bench.outbox.write(b"a")
        bench.transport.closing = True
        bench.outbox.write(b"b")
        bench.turn.end()
        assert bench.transport.taken == []
        assert bench.outbox.unsent_bytes == 0

    def test_a_queue_beyond_the_limit_is_written_before_anybody_is_dropped(self) -> None:
        bench = Bench()
        for _ in range(30):
            bench.outbox.write(b"x" * 100)
        assert bench.full == 0, "the system takes everything"
        bench.turn.end()
        assert len(b"".join(bench.transport.taken)) == 3_000

    def test_a_client_that_takes_nothing_is_dropped_at_the_limit(self) -> None:
        bench = Bench(room=0)
        for _ in range(10):
            bench.outbox.write(b"x" * 100)
        assert bench.full == 0
        assert bench.outbox.unsent_bytes == LIMIT
        bench.outbox.write(b"y")
        assert bench.full == 1
        bench.turn.end()
        assert b"y" not in bench.transport.held

    def test_one_frame_may_exceed_the_limit_if_nothing_waits(self) -> None:
        bench = Bench(room=0)
        bench.outbox.write(b"x" * 2 * LIMIT)
        assert bench.full == 0
        bench.outbox.write(b"y")
        assert bench.full == 1

    @given(
        steps=st.lists(st.one_of(st.integers(1, 400), st.sampled_from(["end", "drain"])), max_size=60),
        room=st.sampled_from([0, 500, 10_000]),
    )
    def test_what_is_taken_is_what_was_written_in_order_and_within_the_limit(
        self, steps: list[int | str], room: int
    ) -> None:
        bench, written = Bench(room=room), b""
        for number, step in enumerate(steps):
            if step == "end":
                bench.turn.end()
            elif step == "drain":
                bench.transport.drain()
            elif isinstance(step, int):
                frame = bytes([number]) * step
                before = bench.full
                bench.outbox.write(frame)
                if bench.full == before:
                    written += frame
                assert bench.outbox.unsent_bytes <= LIMIT
        bench.turn.end()
        bench.transport.drain()
        assert b"".join(bench.transport.taken) == written


class TestTurns:
    def test_the_first_frame_of_a_turn_is_not_joined_the_others_are(self) -> None:
        turn = LoopTurnByHand()
        turn.count_cause(0.0)
        assert not turn.joins
        turn.count_cause(0.0)
        assert turn.joins
        turn.end()
        assert not turn.joins

    def test_after_a_turn_with_several_frames_the_first_one_is_joined_for_a_while(self) -> None:
        turn = LoopTurnByHand()
        for now, joins in ((0.0, False), (BUSY_TIME / 2, True), (BUSY_TIME + 0.001, False)):
            turn.count_cause(now)
            assert turn.joins is joins
            if now == 0.0:
                turn.count_cause(now)
            turn.end()


LOOPS = [None, "uvloop"]


@contextmanager
def counted_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Note what is written to descriptors."""
    direct: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        direct.append(data)
        return os_write(fd, data)

    os_write = os.write
    monkeypatch.setattr(outbox_module.os, "write", write)
    yield direct
    monkeypatch.undo()


class Ends(asyncio.Protocol):
    """Ends an outbox before the transport closes its socket."""

    def __init__(self) -> None:
        self.outbox: Outbox | None = None
        self.descriptor = -1
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.outbox is not None
        self.outbox.end()
        os.fstat(self.descriptor)  # raises if it is closed already
        self.lost.set_result(None)


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
class TestSockets:
    """Real sockets: what is written to the descriptor and what goes by the transport is one stream."""

    def run(self, loop: str | None, main: Callable[[Outbox, LoopTurn, socket.socket, Ends], object]) -> None:
        factory = None if loop is None else pytest.importorskip("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._with_pair(main))

    async def _with_pair(self, main: Callable[[Outbox, LoopTurn, socket.socket, Ends], object]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with theirs:
            transport, protocol = await asyncio.get_running_loop().create_connection(Ends, sock=ours)
            turn = LoopTurn()
            outbox = Outbox(transport, turn, 1 << 22, transport.abort)
            protocol.outbox, protocol.descriptor = outbox, ours.fileno()
            await main(outbox, turn, theirs, protocol)  # type: ignore[misc]
            transport.abort()
            await asyncio.wait_for(protocol.lost, PATIENCE)

    def test_single_frames_are_written_at_once(self, loop: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main(outbox: Outbox, turn: LoopTurn, theirs: socket.socket, _: Ends) -> None:
            with counted_writes(monkeypatch) as direct:
                outbox.write(b"first")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                outbox.write(b"second")
                assert direct == [b"first", b"second"]
                assert theirs.recv(100) == b"firstsecond"

        self.run(loop, main)

    def test_a_backlog_stays_in_order_and_direct_writes_return_after_it(
        self, loop: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main(outbox: Outbox, turn: LoopTurn, theirs: socket.socket, _: Ends) -> None:
            frames = [bytes([number]) * 100_000 for number in range(20)]
            with counted_writes(monkeypatch) as direct:
                for frame in frames:
                    outbox.write(frame)
                    await asyncio.sleep(0)
                assert outbox.unsent_bytes
                got = theirs.recv(1 << 20)  # the socket has room before the transport knows
                frames.append(b"z" * 1_000)
                outbox.write(frames[-1])
                outbox.flush()
                size = sum(map(len, frames))
                async with asyncio.timeout(PATIENCE):
                    while len(got) < size:
                        got += await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
                    while outbox.unsent_bytes:  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0)
                assert got == b"".join(frames)
                direct.clear()
                outbox.write(b"a")
                await asyncio.sleep(0)
                outbox.write(b"b")
                assert direct == [b"a", b"b"]

        self.run(loop, main)

    def test_nothing_is_written_to_a_descriptor_after_the_end(
        self, loop: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main(outbox: Outbox, turn: LoopTurn, theirs: socket.socket, protocol: Ends) -> None:
            outbox.write(b"a")
            await asyncio.sleep(0)
            theirs.close()
            await asyncio.wait_for(protocol.lost, PATIENCE)
            await asyncio.sleep(0)
            with counted_writes(monkeypatch) as direct:
                outbox.write(b"b")
                await asyncio.sleep(0)
                outbox.write(b"c")
                await asyncio.sleep(0)
                assert direct == []

        self.run(loop, main)

    def test_a_broken_connection_is_left_to_the_transport(self, loop: str | None) -> None:
        async def main(outbox: Outbox, turn: LoopTurn, theirs: socket.socket, protocol: Ends) -> None:
            outbox.write(b"a")
            await asyncio.sleep(0)
            theirs.close()
            outbox.write(b"b")  # in the turn before anybody has seen the end
            await asyncio.wait_for(protocol.lost, PATIENCE)

        self.run(loop, main)
