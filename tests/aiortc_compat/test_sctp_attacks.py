"""What one end of an association can make the other end do: little for each packet, whatever is in it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest
from google_crc32c import value as crc32c

from metered_realtime.aiortc_compat.sctp import FastSctpTransport
from metered_realtime.core.sctp.control import MAX_CONTROL_CHUNKS, is_sound, is_sound_packet
from metered_realtime.core.sctp.inbound import FIRST, LAST, MAX_HELD_CHUNKS, UNORDERED, ChunkReassembly, ReceivedTsns
from metered_realtime.core.sctp.outbound import FairQueue, Outbound
from tests.aiortc_compat.support.sctp_wire import Ends, in_virtual_time

FORWARD_TSN, RECONFIG, HEARTBEAT, COOKIE_ECHO, INIT = 192, 130, 4, 10, 1


def calls(work: Callable[[], Any]) -> int:
    """Return how many calls of Python functions something makes: its cost, whatever the machine is doing."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    return pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def packet(to: Any, *chunks: bytes, tag: int | None = None) -> bytes:
    """Return a packet for an association, with the right checksum."""
    tag = to._local_verification_tag if tag is None else tag
    head, body = pack("!HHL", to._remote_port, to._local_port, tag), b"".join(chunks)
    return head + pack("<L", crc32c(head + bytes(4) + body)) + body


def take(end: FastSctpTransport, data: bytes) -> None:
    end.begin_batch()
    end.receive_packet(data)
    end.end_batch()


# --- FORWARD TSN (RFC 3758)


def test_a_forward_tsn_costs_what_it_names_and_not_what_streams_there_are() -> None:
    reassembly = ChunkReassembly()
    for stream in range(20_000):
        assert reassembly.take(stream + 1, stream, FIRST | LAST, 0, 51, b"x")
    assert calls(lambda: reassembly.skip(20_001, [])) < 50
    assert calls(lambda: reassembly.skip(20_002, [(7, 1), (9, 1)])) < 50


def test_many_small_steps_over_what_is_held_cost_no_more_than_one() -> None:
    reassembly, count = ChunkReassembly(), 2_000
    reassembly.skip(0, [])
    for number in range(count):
        reassembly.take(10_000 + 2 * number, number, FIRST, 0, 51, b"x")
    assert calls(lambda: [reassembly.skip(step, []) for step in range(1, count)]) < 20 * count
    assert reassembly.held_chunks == count
    reassembly.skip(20_000, [])
    assert reassembly.held_chunks == reassembly.held_bytes == 0


def test_naming_one_stream_again_and_again_costs_a_step_each() -> None:
    reassembly, count = ChunkReassembly(), 2_000
    for number in range(count):
        reassembly.take(10 + number, 0, FIRST | LAST, 20_000 + number, 51, b"x")
    assert calls(lambda: reassembly.skip(1, [(0, sequence) for sequence in range(count)])) < 20 * count
    assert reassembly.held_chunks == count
    out = reassembly.skip(2, [(0, 20_000 + count - 1)])
    assert len(out) == count


def test_a_forward_tsn_does_not_walk_through_all_gaps() -> None:
    received = ReceivedTsns(0)
    for place in range(2, 20_000, 2):
        received.add(place)
    assert calls(lambda: [received.skip_to(place) for place in range(1, 2_001, 2)]) < 20_000
    assert received.cumulative == 2_000


def test_what_two_streams_interleave_is_not_mixed_up() -> None:
    reassembly = ChunkReassembly()
    assert list(reassembly.take(1, 1, FIRST | UNORDERED, 0, 51, b"a")) == []
    assert list(reassembly.take(2, 2, LAST | UNORDERED, 0, 51, b"b")) == []
    assert list(reassembly.take(4, 2, LAST | UNORDERED, 0, 51, b"d")) == []
    assert list(reassembly.take(3, 1, FIRST | UNORDERED, 0, 51, b"c")) == []
    assert reassembly.held_chunks == 4


# --- chunks of one packet


def test_a_parameter_without_length_is_not_parsed() -> None:
    assert not is_sound(RECONFIG, pack("!HH", 13, 0) + bytes(20))
    assert not is_sound(HEARTBEAT, pack("!HH", 1, 0))
    assert not is_sound(INIT, bytes(16) + pack("!HH", 1, 3))
    assert not is_sound_packet(bytes(12) + chunk(INIT, bytes(16) + bytes(4)))
    assert is_sound(RECONFIG, pack("!HH", 13, 18) + bytes(14))
    assert is_sound(INIT, bytes(16) + pack("!HH", 0xC000, 4))


@pytest.mark.parametrize(
    "bad",
    [
        chunk(RECONFIG, pack("!HH", 13, 0) + bytes(20)),
        chunk(RECONFIG, pack("!HH", 13, 17) + bytes(13)),
        chunk(RECONFIG, b"".join(pack("!HHLL", 16, 12, 0, 1) for _ in range(40))),
        chunk(HEARTBEAT, bytes(8)),
        chunk(FORWARD_TSN, bytes(7)),
        chunk(FORWARD_TSN, b""),
    ],
    ids=["no length", "odd", "many parameters", "heartbeat", "half a stream", "no TSN"],
)
def test_a_malformed_chunk_is_counted_told_once_and_harms_nothing(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, _, heard = await both.channel()
        sent = len(both.to_a.sent)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                take(both.b, packet(both.b, bad))
        assert both.b.packets_malformed == 3
        assert len([it for it in caplog.records if "malformed" in it.getMessage()]) == 1
        assert len(both.to_a.sent) == sent, "nothing was answered"
        mine.send("still there")
        await asyncio.sleep(0.1)
        assert heard == ["still there"]

    in_virtual_time(program())


def test_a_malformed_init_before_the_association_is_refused() -> None:
    async def program() -> None:
        both = Ends()
        both.b._remote_port = 5000
        take(both.b, packet(both.b, chunk(INIT, bytes(20)), tag=0))
        both.b._association_state = FastSctpTransport.State.COOKIE_WAIT
        take(both.b, packet(both.b, chunk(INIT, bytes(20)), tag=0))
        assert both.b.packets_malformed == 1
        assert both.to_a.sent == []

    in_virtual_time(program())


def test_few_control_chunks_of_a_packet_are_answered() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        before = len(both.to_a.sent)
        take(both.b, packet(both.b, *[chunk(HEARTBEAT, b"")] * 250))
        assert len(both.to_a.sent) - before == MAX_CONTROL_CHUNKS
        assert both.b.packets_malformed == 1

    in_virtual_time(program())


def test_a_cookie_that_comes_again_visits_no_channel() -> None:
    async def program() -> None:
        both = Ends()
        echoes: list[bytes] = []
        both.to_b.passes = lambda data: (echoes.append(data) if data[12] == COOKIE_ECHO else None) is None
        await both.establish()
        for _ in range(200):
            await both.channel()
        assert echoes
        tasks = len(asyncio.all_tasks())
        assert calls(lambda: [take(both.b, echoes[0]) for _ in range(20)]) < 20 * 60
        assert len(asyncio.all_tasks()) == tasks

    in_virtual_time(program())


# --- acknowledgements


def test_overlapping_gap_blocks_are_looked_at_once() -> None:
    outbound = Outbound(1)
    for _ in range(3_000):
        outbound.add(b"x", 100, 0, 0, 51)
        outbound.launch(0.0)
    looked_up = 0

    class Counting(dict[int, Any]):
        def get(self, key: int, default: Any = None) -> Any:
            nonlocal looked_up
            looked_up += 1
            return super().get(key, default)

    outbound.chunks = Counting(outbound.chunks)
    outbound.acknowledge(0, [(first, 65_535) for first in range(2, 290)], 0.1)
    assert looked_up < 10_000
    assert outbound.flight == 1


def test_looking_for_channels_with_messages_does_not_walk_through_the_messages() -> None:
    queue = FairQueue()
    for number in range(1_000):
        queue.append((f"channel {number % 3}", 51, b"x"))
    assert calls(lambda: list(queue.channels())) < 10


def test_a_reset_waits_for_what_its_own_channel_has_queued_only() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        mine, theirs, heard = await both.channel()
        busy, _, heard_too = await both.channel()
        for number in range(2_000):
            busy.send(f"{number}")
        mine.send("last words")
        mine.close()
        await asyncio.sleep(30)
        assert heard == ["last words"]
        assert len(heard_too) == 2_000
        assert (mine.readyState, theirs.readyState, busy.readyState) == ("closed", "closed", "open")

    in_virtual_time(program())


# --- messages without an end


def test_messages_that_never_end_are_bounded_by_their_number() -> None:
    async def program() -> None:
        both = Ends()
        await both.establish()
        received = both.b._received
        assert received is not None
        for number in range(2 * MAX_HELD_CHUNKS + 1):
            both.b._take_data((received.cumulative + 1) & 0xFFFFFFFF, FIRST, number & 0xFFFF, 0, 51, b"x")
        assert both.b._reassembly.held_chunks <= 2 * MAX_HELD_CHUNKS
        assert both.b.state == "closed"

    in_virtual_time(program())


def test_fragments_that_come_backwards_are_moved_little() -> None:
    reassembly, count = ChunkReassembly(), 4_000
    assert list(reassembly.take(count, 0, LAST, 0, 51, b"z")) == []
    last: Any = None
    for place in range(count - 1, 1, -1):
        assert list(reassembly.take(place, 0, 0, 0, 51, b"y")) == []
        parts = next(iter(reassembly._fragments.by_start.values())).parts
        assert last is None or parts is last, "the long list stays"
        last = parts
    assert list(reassembly.take(1, 0, FIRST, 0, 51, b"x")) == [(0, 51, b"x" + b"y" * (count - 2) + b"z")]
