"""Limits on the cost of decoding a message. None is measured in seconds: messages are refused before they are
decoded."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.wire.message_cost import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NUMBER_KEYS,
    MAX_VALUES,
    json_fault,
    msgpack_fault,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def array(count: int, content: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + content


def mapping(count: int, content: bytes) -> bytes:
    return b"\xdf" + count.to_bytes(4, "big") + content


@settings(max_examples=25)
@given(VALUES | st.binary() | st.lists(st.binary()) | st.dictionaries(st.integers(-(2**63), 2**64 - 1), st.binary()))
def test_ordinary_messagepack_is_taken_and_followed_to_its_end(value: Any) -> None:
    message = msgpack.packb(value)
    assert msgpack_fault(message) is None
    # The forbidden key behind the value is found, so that the value was skipped exactly.
    assert msgpack_fault(array(3, message + b"\x81\x90\x01" + b"\xc4\xff" + bytes(255))) is not None


@settings(max_examples=25)
@given(VALUES)
def test_ordinary_json_is_taken(value: Any) -> None:
    assert json_fault(json.dumps(value)) is None
    assert json_fault(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) is None


@pytest.mark.parametrize(
    "key",
    [b"\x90", b"\x91\x01", b"\x80", b"\xc0", b"\xc2", b"\xc3", b"\xca\0\0\0\0", b"\xcb" + bytes(8), b"\xd4\x01\x01"],
    ids=["list", "filled list", "map", "nil", "false", "true", "float", "double", "extension"],
)
@pytest.mark.parametrize("head", [b"\x82", b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02"], ids=["fix", "16", "32"])
def test_keys_are_text_bytes_or_integers(key: bytes, head: bytes) -> None:
    assert msgpack_fault(head + b"\xa1a\x01" + key + b"\x01") is not None
    for fine in (b"\xa1a", b"\xd9\x01a", b"\xc4\x01a", b"\x07", b"\xff", b"\xcf" + b"\xff" * 8):
        assert msgpack_fault(head + fine + key + b"\xa1b" + key) is None  # as a value it may be anything


def test_many_integers_are_no_keys() -> None:
    """Python's hash of an integer is the integer itself, so that colliding keys are easy to choose."""
    keys = [index * 2**40 for index in range(MAX_NUMBER_KEYS + 1)]
    packed = [msgpack.packb(key) + b"\x01" for key in keys]
    assert msgpack_fault(mapping(len(keys), b"".join(packed))) is not None
    assert msgpack_fault(mapping(len(keys) - 1, b"".join(packed[1:]))) is None
    text = [msgpack.packb(str(key)) + b"\x01" for key in keys]
    assert msgpack_fault(mapping(len(keys), b"".join(text))) is None


def test_lists_and_values_are_counted_before_they_are_made() -> None:
    for filler in (b"\x90", b"\x80"):
        assert msgpack_fault(array(MAX_CONTAINERS, filler * MAX_CONTAINERS)) is not None
        assert msgpack_fault(array(MAX_CONTAINERS - 1, filler * MAX_CONTAINERS)) is None
    assert msgpack_fault(array(MAX_VALUES, bytes(200))) is None  # truncated: left to the decoder
    assert msgpack_fault(array(MAX_VALUES + 1, bytes(200))) is not None  # though few of them are there
    assert msgpack_fault(mapping(MAX_VALUES // 2 + 1, b"")) is not None
    assert msgpack_fault(array(3, array(MAX_VALUES // 2, bytes(MAX_VALUES // 2)) * 3)) is not None


@pytest.mark.parametrize("piece", ["[]", "{}", '{"a":1}', "[1]"])
def test_lists_and_values_of_json_are_counted_before_they_are_made(piece: str) -> None:
    assert json_fault(f"[{','.join([piece] * MAX_CONTAINERS)}]") is not None
    assert json_fault(f"[{','.join([piece] * (MAX_CONTAINERS - 1))}]") is None


@pytest.mark.parametrize("piece", ["1", '""', '"\\""', '"a,b"', "null"])
def test_values_of_json_are_counted_before_they_are_made(piece: str) -> None:
    assert json_fault(f"[{','.join([piece] * (MAX_VALUES + 1))}]") is not None
    assert json_fault(f"[{','.join([piece] * (MAX_VALUES - 2))}]") is None


def test_what_stands_in_a_string_is_no_value() -> None:
    for text in ("[{,:" * 200_000, '"[{,' * 50_000, "\\[" * 200_000, '\\"],' * 50_000, "7" * 5_000):
        assert json_fault(json.dumps({"text": text, "more": [text, {}]})) is None


def test_depth_is_bounded() -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * MAX_DEPTH + "1" + closing * MAX_DEPTH
        assert json_fault(deep) is None
        assert json_fault(f"[{deep}]") is not None
        assert json_fault(f'["]]]",{deep}]') is not None
        packed = msgspec.msgpack.encode(json.loads(deep))
        assert msgpack_fault(packed) is None
        assert msgpack_fault(b"\x91" + packed) is not None
    wide = "[" + ",".join(["[[]]"] * 1_000) + "]"
    assert json_fault(wide) is None


def test_digits_in_a_row_are_bounded() -> None:
    filler = "x" * MAX_CONTAINERS
    assert json_fault(f'["{filler}",{"1" * MAX_DIGITS}]') is None
    assert json_fault(f'["{filler}",{"1" * (MAX_DIGITS + 1)}]') is not None


@pytest.mark.parametrize(
    "raw", ['"' + '\\"' * 500_000, '\\"' * 500_000, '"\\', "\\", '\\"\\\\"' * 200_000, '"' * 2_000_000, "]" * 200_000]
)
def test_what_is_no_json_is_looked_at_and_left_to_the_decoder(raw: str) -> None:
    json_fault(raw)


@given(st.binary(max_size=400))
def test_no_bytes_break_it(raw: bytes) -> None:
    json_fault(raw)
    msgpack_fault(raw)
    msgpack_fault(b"\xdd\x00\x00\x01\x00" + raw)
