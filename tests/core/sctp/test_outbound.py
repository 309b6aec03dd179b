"""What an association has sent: what is in flight is counted right, whatever is acknowledged, lost or given up."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from aiortc.rtcsctptransport import DataChunk, ForwardTsnChunk
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.sctp.outbound import (
    FLYING,
    LOST,
    TSN_MASK,
    FairQueue,
    Outbound,
    PartialReliability,
    data_chunk,
)


@given(
    tsn=st.integers(0, 2 * TSN_MASK),
    flags=st.integers(0, 15),
    stream=st.integers(0, 65_535),
    sequence=st.integers(0, 65_535),
    data=st.binary(min_size=1, max_size=9),
)
def test_a_data_chunk_is_as_aiortc_writes_it(tsn: int, flags: int, stream: int, sequence: int, data: bytes) -> None:
    chunk = DataChunk(flags=flags)
    chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol = tsn & TSN_MASK, stream, sequence, 53
    chunk.user_data = data
    assert data_chunk(tsn, flags, stream, sequence, 53, data) == bytes(chunk)


@given(initial=st.sampled_from([5, TSN_MASK - 30]), seed=st.integers(0, 10**6), partial=st.booleans())
def test_what_is_in_flight_is_counted_right(initial: int, seed: int, partial: bool) -> None:
    """A remote that receives what it likes, repeats itself and tells nonsense at times."""
    chance = random.Random(seed)
    outbound, there, told = Outbound(initial), set[int](), initial - 1
    now = 0.0
    for _ in range(60):
        now += 0.01
        reliability = PartialReliability(chance.randrange(2), None) if partial and chance.random() < 0.5 else None
        outbound.add(bytes(chance.randrange(1, 400)), 100, 1, chance.choice((None, 7)), 53, reliability)
        while outbound.queue and chance.random() < 0.9:
            there |= {outbound.queue[0].tsn} if chance.random() < 0.8 else set()
            outbound.launch(now)
        while (chunk := outbound.next_lost()) is not None and chance.random() < 0.8:
            there |= {chunk.tsn} if chance.random() < 0.8 else set()
            outbound.launch_again(chunk, now)
        if outbound.skipped > told:
            there |= set(range(told + 1, outbound.skipped + 1))
        while told + 1 in there:
            told += 1
        gaps = [(it - told, it - told) for it in sorted(there) if it > told]
        if chance.random() < 0.9:
            outbound.acknowledge(told & TSN_MASK, gaps, now)
        outbound.acknowledge((told - 3) & TSN_MASK, [(1, 2)], now)
        outbound.acknowledge((outbound.highest_sent + 2) & TSN_MASK, [(9, 4), (0, 0), (1, 65_535)], now)
        if chance.random() < 0.1:
            outbound.expire(now)
        flying = [it for it in outbound.chunks.values() if it.state == FLYING]
        assert outbound.flight == sum(it.size for it in flying)
        assert all(tsn > outbound.sacked for tsn in outbound.chunks)
        lost = [it.tsn for it in outbound.chunks.values() if it.state == LOST]
        next_lost = outbound.next_lost()
        assert (next_lost.tsn if next_lost else None) == min(lost, default=None)
    while outbound.queue:
        outbound.launch(now)
    outbound.acknowledge(outbound.highest_sent & TSN_MASK, [], now)
    assert (outbound.flight, outbound.chunks, outbound.outstanding) == (0, {}, False)


def sent(count: int) -> Outbound:
    """Return a state with so many chunks in flight, from TSN 1 on."""
    outbound = Outbound(1)
    for _ in range(count):
        outbound.add(b"x", 100, 0, 0, 53)
        outbound.launch(0.0)
    return outbound


def test_a_chunk_is_lost_when_three_acknowledgements_skip_it() -> None:
    outbound = sent(10)
    assert [outbound.acknowledge(1, [(2, last)], 0.0).lost for last in (2, 3, 4)] == [  # type: ignore[union-attr]
        False,
        False,
        True,
    ]
    lost = outbound.next_lost()
    assert lost is not None
    assert lost.tsn == 2
    assert outbound.flight == 5, "10 without two that arrived at first, two later, and the lost one"


def test_a_chunk_that_was_sent_again_is_lost_by_what_was_sent_later_only() -> None:
    outbound = sent(10)
    for last in (2, 3, 4):
        outbound.acknowledge(1, [(2, last)], 0.0)
    lost = outbound.next_lost()
    assert lost is not None
    outbound.launch_again(lost, 1.0)
    for last in (5, 6, 7, 8, 9):
        assert not outbound.acknowledge(1, [(2, last)], 1.0).lost  # type: ignore[union-attr]
    for _ in range(3):
        outbound.add(b"x", 100, 0, 0, 53)
        outbound.launch(1.0)
    results: list[Any] = [outbound.acknowledge(1, [(2, last)], 1.0) for last in (10, 11, 12)]
    assert [it.lost for it in results] == [False, False, True]


def test_a_round_trip_is_not_timed_by_what_was_sent_twice() -> None:
    outbound = sent(2)
    outbound.expire(1.0)
    for _ in range(2):
        chunk = outbound.next_lost()
        assert chunk is not None
        outbound.launch_again(chunk, 1.0)
    result = outbound.acknowledge(2, [], 2.0)
    assert result is not None
    assert result.sent_at is None


def test_all_of_a_message_is_given_up_with_one_chunk() -> None:
    outbound = Outbound(1)
    outbound.add(bytes(500), 100, 3, 9, 53, PartialReliability(0, None))
    outbound.add(b"y", 100, 3, 10, 53)
    for _ in range(3):
        outbound.launch(0.0)
    outbound.expire(1.0)
    assert (outbound.skipped, outbound.flight, len(outbound.queue)) == (5, 0, 1)
    skip = outbound.skip_chunk()
    assert skip is not None
    chunk = ForwardTsnChunk(flags=skip[1], body=skip[4:])
    assert (chunk.cumulative_tsn, chunk.streams) == (5, [(3, 9)])
    outbound.acknowledge(5, [], 2.0)
    assert outbound.skip_chunk() is None
    assert outbound.skipped_streams == {}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=40))
def test_channels_take_turns_and_keep_their_order(items: list[tuple[str, int]]) -> None:
    queue = FairQueue()
    for channel, number in items:
        queue.append((channel, number, b""))
    assert sorted(queue) == sorted((channel, number, b"") for channel, number in items)
    out = []
    while queue:
        out.append(queue.popleft())
    for channel in "abc":
        assert [it[1] for it in out if it[0] == channel] == [number for name, number in items if name == channel]
    waiting = {channel: sum(name == channel for name, _ in items) for channel in "abc"}
    for earlier, later in pairwise(out):
        waiting[earlier[0]] -= 1
        others = any(count for channel, count in waiting.items() if channel != earlier[0])
        assert earlier[0] != later[0] or not others
