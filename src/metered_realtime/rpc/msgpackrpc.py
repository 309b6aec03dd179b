"""The codec of MessagePack-RPC, https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.rpc.messages import (
    BadReply,
    BadRequest,
    ErrorObject,
    Failure,
    Inbound,
    Message,
    Notification,
    Params,
    Request,
    RequestId,
    Success,
    is_method,
)
from ..core.wire.message_cost import msgpack_fault

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
APPLICATION_ERROR = -32000

_REQUEST, _RESPONSE, _NOTIFICATION = 0, 1, 2

_MAX_ID = 0xFFFF_FFFF


class MsgpackRpcCodec:
    """Encodes and decodes MessagePack-RPC as bytes, without names of parameters and without batches.

    The format leaves errors open; this implementation sends `[code, message, data]`.
    """

    is_text = False
    has_batches = False
    has_names = False

    def encode_request(self, request_id: RequestId, method: str, params: Params) -> bytes:
        """Encode a call that is answered."""
        return _encode([_REQUEST, request_id, method, _by_position(params)])

    def encode_notification(self, method: str, params: Params) -> bytes:
        """Encode a call that is not answered."""
        return _encode([_NOTIFICATION, method, _by_position(params)])

    def encode_result(self, request_id: RequestId, result: Any) -> bytes:
        """Encode the result of a call."""
        return _encode([_RESPONSE, request_id, None, result])

    def encode_error(self, request_id: RequestId | None, error: ErrorObject) -> bytes:
        """Encode the error of a call. The id is nil if that of the request was unreadable."""
        return _encode([_RESPONSE, request_id, [error.code, error.message, error.data], None])

    def join(self, items: Sequence[bytes]) -> bytes:
        """Raise ValueError: the format has no batches."""
        raise ValueError("MessagePack-RPC does not support batches")

    def decode(self, message: str | bytes) -> Inbound:
        """Decode a message. Never raises: malformed parts become `BadRequest` and `BadReply` items."""
        if isinstance(message, str):
            return Inbound((BadRequest(None, PARSE_ERROR),))
        if fault := msgpack_fault(message):
            return Inbound((BadRequest(None, PARSE_ERROR),), fault=fault)
        try:
            value = msgspec.msgpack.decode(message)
        except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError):
            return Inbound((BadRequest(None, PARSE_ERROR),))
        return Inbound((_read(value),))


def _encode(message: list[Any]) -> bytes:
    try:
        encoded = msgspec.msgpack.encode(message)
    except (RecursionError, OverflowError) as error:
        raise ValueError("data is nested too deeply, or a number is too large") from error
    if fault := msgpack_fault(encoded):  # the remote would refuse it
        raise ValueError(f"message refused: {fault}")
    return encoded


def _by_position(params: Params) -> list[Any]:
    if isinstance(params, dict):
        raise TypeError("MessagePack-RPC does not support parameters by name")
    return [] if params is None else params


def _read(value: Any) -> Message:
    if not isinstance(value, list) or not value or isinstance(value[0], bool):
        return BadRequest(None, INVALID_REQUEST)
    if value[0] == _RESPONSE:
        return _read_response(value)
    if value[0] == _REQUEST and len(value) >= 2:
        return _read_request(value)
    if value[0] == _NOTIFICATION and len(value) == 3 and is_method(value[1]) and isinstance(value[2], list):
        return Notification(value[1], value[2])
    return BadRequest(None, INVALID_REQUEST)


def _read_request(value: list[Any]) -> Message:
    if not _is_id(value[1]):
        return BadRequest(None, INVALID_REQUEST)
    if len(value) != 4 or not is_method(value[2]):
        return BadRequest(value[1], INVALID_REQUEST)
    if not isinstance(value[3], list):
        return BadRequest(value[1], INVALID_PARAMS)
    return Request(value[1], value[2], value[3])


def _read_response(value: list[Any]) -> Message:
    if len(value) != 4 or not (value[1] is None or _is_id(value[1])):
        return BadReply(None, "not four elements, or no id")
    _, request_id, error, result = value
    if error is not None and result is not None:
        return BadReply(request_id, "both a result and an error")
    if error is not None:
        return Failure(request_id, _read_error(error))
    return BadReply(None, "a result without an id") if request_id is None else Success(request_id, result)


def _read_error(error: Any) -> ErrorObject:
    """Convert the error of any implementation: the format leaves open what it is."""
    match error:
        case [int(code), str(message)] if not isinstance(code, bool):
            return ErrorObject(code, message)
        case [int(code), str(message), data] if not isinstance(code, bool):
            return ErrorObject(code, message, data)
        case {"code": int(code), "message": str(message)} if not isinstance(code, bool):
            return ErrorObject(code, message, error.get("data"))
        case str(message):
            return ErrorObject(APPLICATION_ERROR, message)
    return ErrorObject(APPLICATION_ERROR, "Server error", error)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_ID
