"""RPC messages independent of their format: requests, notifications, answers, and malformed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

RequestId = int | str

Params = list[Any] | dict[str, Any] | None
"""Parameters by position, by name, or none."""

MAX_ID_LENGTH = 256
"""Characters of a request id that is text. This end remembers ids, so they are bounded."""

ID_NUMBERS = range(-(2**63), 2**64)
"""Request ids that are numbers: signed and unsigned 64 bits. Those of MessagePack-RPC have 32 bits."""

MAX_METHOD_LENGTH = 256
"""Characters of a method name. It is remembered with request ids and written to logs."""

MAX_BATCH = 256
"""Items of a batch: as many as may wait at one end. A longer batch could never be served whole."""

RESERVED_PREFIXES = ("$/", "rpc.")
"""Prefixes of protocol methods: those of this implementation, and those that JSON-RPC 2.0 reserves."""

CANCEL = "$/cancelRequest"
TIMEOUT = "$/timeout"
HELLO = "$/hello"
"""Notifications between native ends. Foreign ends ignore them, as they do any unknown notification."""


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """An error as sent on the wire. `data` is None if there is none."""

    code: int
    message: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Request:
    """A call that is answered."""

    id: RequestId
    method: str
    params: Params = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A call that is not answered."""

    method: str
    params: Params = None


@dataclass(frozen=True, slots=True)
class Success:
    """The result of a request, which may be None."""

    id: RequestId
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a request. `id` is None if the remote could not read it."""

    id: RequestId | None
    error: ErrorObject


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A malformed request, answered with the error `code`."""

    id: RequestId | None
    code: int


@dataclass(frozen=True, slots=True)
class BadReply:
    """An answer that violates its format. It is not answered: two ends could go on like that for ever."""

    id: RequestId | None
    reason: str
    is_other_version: bool = False


Message = Request | Notification | Success | Failure | BadRequest | BadReply


@dataclass(frozen=True, slots=True)
class Inbound:
    """One decoded message: a batch, or exactly one item."""

    items: tuple[Message, ...]
    is_batch: bool = False
    fault: str | None = None
    """Why the message was not decoded, for the log."""


def is_request_id(value: object) -> TypeGuard[RequestId]:
    """Return whether a value is a valid request id: text, or an integer other than True and False."""
    if isinstance(value, str):
        return len(value) <= MAX_ID_LENGTH
    return isinstance(value, int) and not isinstance(value, bool) and value in ID_NUMBERS


def is_method(value: object) -> TypeGuard[str]:
    """Return whether a value is a valid method name, registered or not."""
    return isinstance(value, str) and len(value) <= MAX_METHOD_LENGTH


def is_reserved(method: str) -> bool:
    """Return whether a method name belongs to the protocol."""
    return method.startswith(RESERVED_PREFIXES)


def argument(params: Params, index: int, name: str) -> Any:
    """Return one argument of a native notification, by position or by name; None if it is missing."""
    if isinstance(params, dict):
        return params.get(name)
    if isinstance(params, list) and index < len(params):
        return params[index]
    return None
