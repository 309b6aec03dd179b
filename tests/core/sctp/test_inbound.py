"""What an association has received: acknowledgements tell the truth, and messages come out whole, once, in order."""

from __future__ import annotations

import random
from itertools import pairwise
from struct import unpack_from

import pytest
from aiortc.rtcsctptransport import SackChunk
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.sctp.inbound import (
    FIRST,
    LAST,
    MAX_BLOCKS,
    TSN_MASK,
    UNORDERED,
    ChunkReassembly,
    Message,
    ReceivedTsns,
)

INITIALS = st.sampled_from([0, 1, 1000, TSN_MASK - 20, TSN_MASK])


@given(initial=INITIALS, steps=st.lists(st.integers(1, 40), max_size=80))
def test_acknowledgements_say_what_arrived(initial: int, steps: list[int]) -> None:
    received, model = ReceivedTsns(initial), set[int]()
    for step in steps:
        place = initial + step
        assert received.add(place & TSN_MASK) == (None if place in model else place)
        model.add(place)
    cumulative = initial
    while cumulative + 1 in model:
        cumulative += 1
    assert received.cumulative == cumulative
    reported = {cumulative + it for first, last in received.gaps() for it in range(first, last + 1)}
    assert reported == {place for place in model if place > cumulative}
    gaps = received.gaps()
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(gaps)), "apart and sorted"


@given(initial=INITIALS, steps=st.lists(st.integers(1, 40), max_size=40), skip=st.integers(0, 45))
def test_what_is_skipped_counts_as_received(initial: int, steps: list[int], skip: int) -> None:
    received, model = ReceivedTsns(initial), set(range(1, skip + 1)) | set(steps)
    for step in steps:
        received.add((initial + step) & TSN_MASK)
    received.skip_to((initial + skip) & TSN_MASK)
    cumulative = 0
    while cumulative + 1 in model:
        cumulative += 1
    assert received.cumulative == initial + cumulative
    reported = {cumulative + it for first, last in received.gaps() for it in range(first, last + 1)}
    assert reported == {it for it in model if it > cumulative}


@given(steps=st.lists(st.integers(1, 2_000), max_size=700), window=st.integers(0, TSN_MASK))
def test_an_acknowledgement_is_a_sack_chunk_that_fits_a_packet(steps: list[int], window: int) -> None:
    received = ReceivedTsns(7)
    for step in steps:
        received.add(7 + step)
    gaps, duplicates = received.gaps(), list(received.duplicates)
    data = received.acknowledgement(window)
    chunk = SackChunk(flags=data[1], body=data[4:])
    assert (data[0], unpack_from("!H", data, 2)[0]) == (3, len(data))
    assert (chunk.cumulative_tsn, chunk.advertised_rwnd, chunk.gaps) == (received.cumulative, window, gaps)
    assert chunk.duplicates == duplicates[: MAX_BLOCKS - len(gaps)]
    assert len(data) <= 1_100
    assert received.duplicates == []


def fragments(seed: int) -> tuple[list[tuple[int, int, int, int, int, bytes]], list[Message]]:
    """Return chunks as `take` takes them, in the order of their TSNs, and the messages that they make."""
    chance = random.Random(seed)
    chunks, messages, sequences = [], [], [0, 0, 0]
    place = 100
    for number in range(30):
        stream, ordered = chance.randrange(3), chance.random() < 0.7
        parts = [chance.randbytes(chance.randrange(1, 9)) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        for index, part in enumerate(parts):
            flags = (FIRST if index == 0 else 0) | (LAST if index == len(parts) - 1 else 0)
            sequence = sequences[stream] if ordered else 0
            chunks.append((place, stream, flags | (0 if ordered else UNORDERED), sequence, number, part))
            place += 1
        sequences[stream] += ordered
        messages.append((stream, number, b"".join(parts)))
    return chunks, messages


@pytest.mark.parametrize("seed", range(40))
def test_messages_come_out_whole_whatever_the_order_of_arrival(seed: int) -> None:
    chunks, messages = fragments(seed)
    arriving = sorted(chunks, key=lambda chunk: chunk[0] + random.Random(seed * 1000 + chunk[0]).random() * seed)
    reassembly, out = ChunkReassembly(), []
    for chunk in arriving:
        out += reassembly.take(*chunk)
    assert sorted(out) == sorted(messages)
    ordered = {chunk[4] for chunk in chunks if not chunk[2] & UNORDERED}
    for stream in range(3):
        numbers = [number for where, number, _ in out if where == stream and number in ordered]
        assert numbers == sorted(numbers)
    assert (reassembly.held_bytes, reassembly.held_chunks) == (0, 0)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_given_up_leaves_nothing_behind_and_blocks_nobody(seed: int) -> None:
    chunks, messages = fragments(seed)
    chance = random.Random(seed)
    given_up = {number for _, number, _ in messages if chance.random() < 0.3}
    reassembly, received, out = ChunkReassembly(), ReceivedTsns(99), []
    for chunk in chunks:
        if chunk[4] not in given_up or chance.random() < 0.5:
            received.add(chunk[0])
            out += reassembly.take(*chunk)
    last = chunks[-1][0]
    received.skip_to(last)
    highest = {it[1]: it[3] for it in chunks if it[4] in given_up and not it[2] & UNORDERED}
    out += reassembly.skip(received.cumulative, highest.items())
    arrived = {number for _, number, _ in out}
    assert arrived >= {number for _, number, _ in messages} - given_up
    assert len(out) == len(arrived)
    assert (reassembly.held_bytes, reassembly.held_chunks) == (0, 0)


def test_what_continues_a_message_that_was_given_up_is_not_kept() -> None:
    reassembly = ChunkReassembly()
    assert list(reassembly.take(10, 0, FIRST, 0, 51, b"a")) == []
    assert list(reassembly.take(12, 0, 0, 0, 51, b"c")) == []
    reassembly.skip(12, [(0, 0)])
    assert reassembly.held_bytes == 0
    for place, flags in ((14, LAST), (13, 0)):
        assert list(reassembly.take(place, 0, flags, 0, 51, b"x")) == []
    assert reassembly.held_bytes == 0
    assert list(reassembly.take(15, 0, FIRST | LAST, 1, 51, b"y")) == [(0, 51, b"y")]


def test_sequence_numbers_wrap() -> None:
    reassembly = ChunkReassembly()
    reassembly.skip(0, [(0, 32_000)])
    reassembly.skip(0, [(0, 64_000)])
    reassembly.skip(0, [(0, 65_533)])
    out = []
    for place, sequence in ((4, 1), (2, 65_535), (1, 65_534), (3, 0)):
        out += reassembly.take(place, 0, FIRST | LAST, sequence, 51, b"%d" % sequence)
    assert [data for _, _, data in out] == [b"65534", b"65535", b"0", b"1"]


def test_a_stream_that_is_reset_is_forgotten() -> None:
    reassembly = ChunkReassembly()
    list(reassembly.take(2, 5, FIRST, 0, 51, b"abc"))
    list(reassembly.take(7, 5, FIRST | LAST, 3, 51, b"abc"))
    reassembly.pop(5)
    reassembly.pop(5)
    assert (reassembly.held_bytes, reassembly.held_chunks) == (0, 0)
