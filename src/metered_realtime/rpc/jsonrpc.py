"""The codec of JSON-RPC 2.0, https://www.jsonrpc.org/specification, without extensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.rpc.messages import (
    MAX_BATCH,
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
    is_request_id,
)
from ..core.wire.frames import encode_payload
from ..core.wire.message_cost import json_fault

PARSE_ERROR = -32700
INVALID_REQUEST = -32600

_VERSION = "2.0"


class JsonRpcCodec:
    """Encodes and decodes JSON-RPC 2.0 as text. Decodes UTF-8 bytes too, which is all that some libraries send."""

    is_text = True
    has_batches = True
    has_names = True

    def encode_request(self, request_id: RequestId, method: str, params: Params) -> bytes:
        """Encode a call that is answered."""
        return _encode({"jsonrpc": _VERSION, "id": request_id, "method": method} | _optional(params))

    def encode_notification(self, method: str, params: Params) -> bytes:
        """Encode a call that is not answered."""
        return _encode({"jsonrpc": _VERSION, "method": method} | _optional(params))

    def encode_result(self, request_id: RequestId, result: Any) -> bytes:
        """Encode the result of a call."""
        return _encode({"jsonrpc": _VERSION, "id": request_id, "result": result})

    def encode_error(self, request_id: RequestId | None, error: ErrorObject) -> bytes:
        """Encode the error of a call. The member `data` is omitted if it is None."""
        members = {"code": error.code, "message": error.message}
        if error.data is not None:
            members["data"] = error.data
        return _encode({"jsonrpc": _VERSION, "id": request_id, "error": members})

    def join(self, items: Sequence[bytes]) -> bytes:
        """Join encoded items to a batch."""
        return b"[" + b",".join(items) + b"]"

    def decode(self, message: str | bytes) -> Inbound:
        """Decode a message. Never raises: malformed parts become `BadRequest` and `BadReply` items."""
        if fault := json_fault(message):
            return Inbound((BadRequest(None, PARSE_ERROR),), fault=fault)
        try:
            value = msgspec.json.decode(message)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return Inbound((BadRequest(None, PARSE_ERROR),))
        if isinstance(value, list) and 0 < len(value) <= MAX_BATCH:
            return Inbound(tuple(_read(item) for item in value), is_batch=True)
        return Inbound((_read(value),))


def _encode(message: dict[str, Any]) -> bytes:
    encoded = bytes(encode_payload(message))
    if fault := json_fault(encoded):  # the remote would refuse it
        raise ValueError(f"message refused: {fault}")
    return encoded


def _optional(params: Params) -> dict[str, Any]:
    return {} if params is None else {"params": params}


def _read(value: Any) -> Message:
    if not isinstance(value, dict):
        return BadRequest(None, INVALID_REQUEST)
    if "method" not in value and ("result" in value or "error" in value):
        return _read_reply(value)
    return _read_request(value)


def _read_request(value: dict[str, Any]) -> Message:
    request_id, params = value.get("id"), value.get("params")
    known_id = request_id if is_request_id(request_id) else None
    has_good_params = "params" not in value or isinstance(params, list | dict)
    if value.get("jsonrpc") != _VERSION or not is_method(value.get("method")) or not has_good_params:
        return BadRequest(known_id, INVALID_REQUEST)
    if "id" not in value:
        return Notification(value["method"], params)
    if known_id is None:
        return BadRequest(None, INVALID_REQUEST)
    return Request(known_id, value["method"], params)


def _read_reply(value: dict[str, Any]) -> Message:
    request_id = value.get("id")
    if request_id is not None and not is_request_id(request_id):
        return BadReply(None, "an id that is neither text nor an integer")
    if value.get("jsonrpc") != _VERSION:
        return BadReply(request_id, "not JSON-RPC 2.0", is_other_version=True)
    if "error" in value:
        return _read_failure(value, request_id)
    if request_id is None:
        return BadReply(None, "a result without an id")
    return Success(request_id, value["result"])


def _read_failure(value: dict[str, Any], request_id: RequestId | None) -> Failure | BadReply:
    if "result" in value:
        return BadReply(request_id, "both a result and an error")
    error = value["error"]
    if not isinstance(error, dict):
        return BadReply(request_id, "an error that is not an object")
    code, message = error.get("code"), error.get("message")
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        return BadReply(request_id, "an error without code and message")
    return Failure(request_id, ErrorObject(code, message, error.get("data")))
