"""The codecs of JSON-RPC 2.0 and MessagePack-RPC: every rule of the formats, and garbage."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.core.rpc.messages import (
    BadReply,
    BadRequest,
    ErrorObject,
    Failure,
    Inbound,
    Notification,
    Request,
    Success,
)
from metered_realtime.rpc.codec import codec_of, format_of, is_foreign

JSON = codec_of("jsonrpc-2.0")
MSGPACK = codec_of("msgpack-rpc")

LONE_SURROGATE = "\ud800"


def of_json(text: str) -> Inbound:
    return JSON.decode(text)


def of_msgpack(value: Any) -> Any:
    (item,) = MSGPACK.decode(msgpack.packb(value)).items
    return item


def test_json_requests_have_their_members_and_no_others() -> None:
    assert json.loads(JSON.encode_request(1, "m", [1])) == {"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1]}
    assert json.loads(JSON.encode_request("x", "m", None)) == {"jsonrpc": "2.0", "id": "x", "method": "m"}
    assert json.loads(JSON.encode_notification("m", {"a": 1})) == {"jsonrpc": "2.0", "method": "m", "params": {"a": 1}}


def test_json_answers_have_their_members_and_no_others() -> None:
    assert json.loads(JSON.encode_result(0, None)) == {"jsonrpc": "2.0", "id": 0, "result": None}
    bare = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}}
    assert json.loads(JSON.encode_error(None, ErrorObject(-32700, "Parse error"))) == bare
    full = json.loads(JSON.encode_error(1, ErrorObject(1, "m", {"a": None})))
    assert full["error"] == {"code": 1, "message": "m", "data": {"a": None}}


# The examples of the specification, section 7.
@pytest.mark.parametrize(
    ("text", "items"),
    [
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
            (Request(1, "subtract", [42, 23]),),
        ),
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
            (Request(3, "subtract", {"subtrahend": 23, "minuend": 42}),),
        ),
        ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', (Notification("update", [1, 2, 3, 4, 5]),)),
        ('{"jsonrpc": "2.0", "method": "foobar"}', (Notification("foobar"),)),
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', (BadRequest(None, -32700),)),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', (BadRequest(None, -32600),)),
        ('[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},', (BadRequest(None, -32700),)),
        ("[]", (BadRequest(None, -32600),)),
        ("[1]", (BadRequest(None, -32600),)),
        ("[1,2,3]", (BadRequest(None, -32600),) * 3),
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"foo": "boo"},'
            ' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
            (Request("1", "sum", [1, 2, 4]), BadRequest(None, -32600), Notification("notify_hello", [7])),
        ),
        ('{"jsonrpc": "2.0", "result": 19, "id": 1}', (Success(1, 19),)),
        (
            '{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}',
            (Failure("1", ErrorObject(-32601, "Method not found")),),
        ),
    ],
)
def test_json_reads_the_examples_of_its_specification(text: str, items: tuple[Any, ...]) -> None:
    inbound = of_json(text)
    assert inbound.items == items
    assert inbound.is_batch == (text.startswith("[") and text.endswith("]") and len(text) > 2)
    assert JSON.decode(text.encode()) == inbound


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ('{"jsonrpc":"2.0","id":0,"method":"m"}', Request(0, "m")),
        ('{"jsonrpc":"2.0","id":"","method":"","extra":1}', Request("", "")),
        ('{"jsonrpc":"2.0","id":null,"method":"m"}', BadRequest(None, -32600)),
        ('{"jsonrpc":"2.0","id":1.5,"method":"m"}', BadRequest(None, -32600)),
        ('{"jsonrpc":"2.0","id":true,"method":"m"}', BadRequest(None, -32600)),
        ('{"jsonrpc":"2.0","id":[1],"method":"m"}', BadRequest(None, -32600)),
        ('{"jsonrpc":"2.0","id":5,"method":"m","params":null}', BadRequest(5, -32600)),
        ('{"jsonrpc":"2.0","id":5,"method":"m","params":"x"}', BadRequest(5, -32600)),
        ('{"jsonrpc":"1.0","id":5,"method":"m"}', BadRequest(5, -32600)),
        ('{"id":5,"method":"m"}', BadRequest(5, -32600)),
        ("null", BadRequest(None, -32600)),
        ('"x"', BadRequest(None, -32600)),
        ('{"jsonrpc":"2.0","id":1,"result":null}', Success(1, None)),
        ('{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m","data":null}}', Failure(1, ErrorObject(1, "m"))),
        (
            '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}',
            Failure(None, ErrorObject(-32700, "m")),
        ),
    ],
)
def test_json_borders(text: str, item: Any) -> None:
    assert of_json(text).items == (item,)


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":"m"}}',
        '{"jsonrpc":"2.0","id":1,"error":null}',
        '{"jsonrpc":"2.0","id":1,"error":"x"}',
        '{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"m"}}',
        '{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"m"}}',
        '{"jsonrpc":"2.0","id":1,"error":{"code":1}}',
        '{"jsonrpc":"2.0","id":null,"result":1}',
        '{"jsonrpc":"2.0","id":{},"result":1}',
        '{"id":1,"result":1}',
        '{"id":1,"result":1,"error":null}',
    ],
)
def test_json_answers_that_break_the_rules_are_bad_replies(text: str) -> None:
    (item,) = of_json(text).items
    assert isinstance(item, BadReply)
    assert item.is_other_version == ("jsonrpc" not in text)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", object(), {(1,): 2}, [10**5_000], LONE_SURROGATE])
def test_json_refuses_what_it_cannot_carry(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        JSON.encode_result(1, value)


def test_json_keeps_integers_of_any_size() -> None:
    assert of_json('{"jsonrpc":"2.0","id":1,"result":123456789012345678901234567890}').items == (
        Success(1, 123456789012345678901234567890),
    )


def test_json_joins_batches() -> None:
    batch = JSON.join([JSON.encode_result(1, 2), JSON.encode_result(2, 3)])
    assert JSON.decode(batch) == Inbound((Success(1, 2), Success(2, 3)), is_batch=True)


def test_msgpack_messages_are_those_of_the_specification() -> None:
    assert msgpack.unpackb(MSGPACK.encode_request(0, "m", [1])) == [0, 0, "m", [1]]
    assert msgpack.unpackb(MSGPACK.encode_request(1, "m", None)) == [0, 1, "m", []]
    assert msgpack.unpackb(MSGPACK.encode_notification("m", None)) == [2, "m", []]
    assert msgpack.unpackb(MSGPACK.encode_result(0, None)) == [1, 0, None, None]
    assert msgpack.unpackb(MSGPACK.encode_error(0, ErrorObject(7, "m", b"x"))) == [1, 0, [7, "m", b"x"], None]
    assert msgpack.unpackb(MSGPACK.encode_error(0, ErrorObject(7, "m"))) == [1, 0, [7, "m", None], None]


@pytest.mark.parametrize(
    ("value", "item"),
    [
        ([0, 0, "m", []], Request(0, "m", [])),
        ([0, 2**32 - 1, "m", [1]], Request(2**32 - 1, "m", [1])),
        ([2, "m", []], Notification("m", [])),
        ([1, 0, None, None], Success(0, None)),
        ([1, 0, None, {"a": b"x"}], Success(0, {"a": b"x"})),
        ([1, 1, [7, "m", 8], None], Failure(1, ErrorObject(7, "m", 8))),
        ([1, 1, [7, "m"], None], Failure(1, ErrorObject(7, "m"))),
        ([1, 1, "went wrong", None], Failure(1, ErrorObject(-32000, "went wrong"))),
        ([1, 1, {"code": 7, "message": "m"}, None], Failure(1, ErrorObject(7, "m"))),
        ([1, 1, ["odd", 1], None], Failure(1, ErrorObject(-32000, "Server error", ["odd", 1]))),
        ([1, 1, False, None], Failure(1, ErrorObject(-32000, "Server error", False))),
        ([1, None, [-32700, "Parse error"], None], Failure(None, ErrorObject(-32700, "Parse error"))),
        ([1, 1, [1, "m"], 2], BadReply(1, "both a result and an error")),
        ([1, 1, None], BadReply(None, "not four elements, or no id")),
        ([1, "x", None, 1], BadReply(None, "not four elements, or no id")),
        ([1, None, None, 1], BadReply(None, "a result without an id")),
        ([0, 1, "m"], BadRequest(1, -32600)),
        ([0, 1, 5, []], BadRequest(1, -32600)),
        ([0, 1, "m", {}], BadRequest(1, -32602)),
        ([0, -1, "m", []], BadRequest(None, -32600)),
        ([0, True, "m", []], BadRequest(None, -32600)),
        ([2, "m"], BadRequest(None, -32600)),
        ([2, "m", None], BadRequest(None, -32600)),
        ([3, 1, 2], BadRequest(None, -32600)),
        ([False, 1, "m", []], BadRequest(None, -32600)),
        ([], BadRequest(None, -32600)),
        ({}, BadRequest(None, -32600)),
        (7, BadRequest(None, -32600)),
    ],
)
def test_msgpack_borders(value: Any, item: Any) -> None:
    assert of_msgpack(value) == item


@pytest.mark.parametrize("message", ["text", b"", b"\xc1", b"\x94\x00", b"\x91" * 5_000, b"\x81\x92\x80\x01\x01"])
def test_invalid_msgpack_is_a_bad_request(message: Any) -> None:
    assert MSGPACK.decode(message).items == (BadRequest(None, -32700),)


@pytest.mark.parametrize("value", [object(), 10**30, LONE_SURROGATE])
def test_msgpack_refuses_what_it_cannot_carry(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        MSGPACK.encode_result(1, value)


def test_msgpack_has_no_names_and_no_batches() -> None:
    with pytest.raises(TypeError, match="by name"):
        MSGPACK.encode_request(1, "m", {"a": 1})
    with pytest.raises(ValueError, match="batches"):
        MSGPACK.join([b"", b""])


@pytest.mark.parametrize(
    ("label", "protocol", "found", "foreign"),
    [
        ("rpc", "jsonrpc-2.0", "jsonrpc-2.0", False),
        ("rpc", "msgpack-rpc", "msgpack-rpc", False),
        ("chat", "jsonrpc-2.0", "jsonrpc-2.0", False),
        ("rpc", "", "jsonrpc-2.0", False),
        ("rpc", "cbor-rpc", None, True),
        ("chat", "", None, False),
        ("chat", "json", None, False),
    ],
)
def test_the_protocol_of_a_channel_names_the_format(label: str, protocol: str, found: Any, foreign: bool) -> None:
    assert (format_of(label, protocol), is_foreign(label, protocol)) == (found, foreign)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="xml-rpc"):
        codec_of("xml-rpc")


SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
MEMBERS = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "code", "message", "data", "x"])
NEAR_JSON = st.dictionaries(MEMBERS, VALUES | st.just("2.0") | st.dictionaries(MEMBERS, VALUES, max_size=3))


def check(inbound: Inbound) -> None:
    assert inbound.items
    for item in inbound.items:
        assert isinstance(item, Request | Notification | Success | Failure | BadRequest | BadReply)


@given(st.text() | st.binary())
def test_garbage_is_answered_by_json_with_an_error_or_not_at_all(message: Any) -> None:
    check(JSON.decode(message))


@given(VALUES | NEAR_JSON | st.lists(NEAR_JSON, max_size=3))
@settings(max_examples=300)
def test_nearly_json_rpc_is_read_without_any_exception(value: Any) -> None:
    check(JSON.decode(json.dumps(value)))


@given(st.binary())
def test_garbage_is_answered_by_msgpack_with_an_error_or_not_at_all(message: bytes) -> None:
    check(MSGPACK.decode(message))


@given(VALUES | st.lists(st.integers(0, 3) | VALUES | st.binary(max_size=5), max_size=5))
@settings(max_examples=300)
def test_nearly_msgpack_rpc_is_read_without_any_exception(value: Any) -> None:
    check(MSGPACK.decode(msgpack.packb(value)))
