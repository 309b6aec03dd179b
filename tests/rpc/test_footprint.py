"""The memory of a decoded message, compared with its size on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.rpc.footprint import CONTAINER_SIZE, SMALL, VALUE_SIZE, footprint

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(("kind", "each"), [(list, VALUE_SIZE + CONTAINER_SIZE), (dict, VALUE_SIZE)])
def test_empty_containers_take_their_size_in_memory(kind: type[Any], each: int) -> None:
    values = [kind() for _ in range(10_000)]
    wire_size = len(msgspec.msgpack.encode(values))
    assert wire_size < 10_010
    assert footprint(wire_size, [values]) >= 10_000 * each


@pytest.mark.parametrize("value", [b"x" * 1_000_000, "x" * 1_000_000])
def test_bytes_and_text_take_no_more_than_their_size(value: Any) -> None:
    assert footprint(1_000_005, [[value]]) < 1_001_000


def test_small_messages_are_not_inspected() -> None:
    assert footprint(SMALL, [[[]] * SMALL]) == SMALL


@given(PLAIN)
def test_the_estimate_of_any_value_is_proportional_to_its_wire_size(value: Any) -> None:
    wire_size = SMALL + len(msgspec.msgpack.encode(value))
    assert wire_size < footprint(wire_size, [value]) <= wire_size * (1 + VALUE_SIZE + CONTAINER_SIZE)


def test_text_takes_four_bytes_a_character_if_one_of_them_needs_them() -> None:
    text = "x" * 1_000_000 + "\N{GRINNING FACE}"
    assert footprint(len(text.encode()), [[text]]) >= 4_000_000
