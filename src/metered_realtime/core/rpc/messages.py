"""What RPC messages mean, whatever their format: requests, notifications, answers, and what is wrong with the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

RequestId = int | str

Params = list[Any] | dict[str, Any] | None
"""By position, by name, or none."""

MAX_ID_LENGTH = 256
"""Characters of a request id that is text. Longer ones would only make this end remember them."""

ID_NUMBERS = range(-(2**63), 2**64)
"""Request ids that are numbers: what 64 bits hold. MessagePack-RPC's have 32."""

MAX_METHOD_LENGTH = 256
"""Characters of a method's name. It is remembered with the ids of requests, and stands in log lines."""

MAX_BATCH = 256
"""Items of a batch: what may wait at an end. A longer one could never be served whole."""

RESERVED_PREFIXES = ("$/", "rpc.")
"""Methods of the protocol itself: ours, and those that JSON-RPC 2.0 keeps for itself."""

CANCEL = "$/cancelRequest"
TIMEOUT = "$/timeout"
HELLO = "$/hello"
"""Notifications between ends that know them. Others ignore notifications that they do not know."""


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """An error as it stands on the wire. Without `data` it is None."""

    code: int
    message: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Request:
    """A call that wants an answer."""

    id: RequestId
    method: str
    params: Params = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A call that gets no answer."""

    method: str
    params: Params = None


@dataclass(frozen=True, slots=True)
class Success:
    """The result of a request; null is one."""

    id: RequestId
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a request ended with. Without an id it could not be read at the other end."""

    id: RequestId | None
    error: ErrorObject


@dataclass(frozen=True, slots=True)
class BadRequest:
    """What is answered with an error because no request could be made of it."""

    id: RequestId | None
    code: int


@dataclass(frozen=True, slots=True)
class BadReply:
    """An answer that breaks the rules of its format. Answering it could go on for ever, so nobody does."""

    id: RequestId | None
    reason: str
    is_other_version: bool = False


Message = Request | Notification | Success | Failure | BadRequest | BadReply


@dataclass(frozen=True, slots=True)
class Inbound:
    """One whole message: a batch, or exactly one item."""

    items: tuple[Message, ...]
    is_batch: bool = False
    fault: str | None = None
    """Why the message was not even decoded, for a log."""


def is_request_id(value: object) -> TypeGuard[RequestId]:
    """Tell whether a value may be the id of a request: text, or an integer. True and False are neither."""
    if isinstance(value, str):
        return len(value) <= MAX_ID_LENGTH
    return isinstance(value, int) and not isinstance(value, bool) and value in ID_NUMBERS


def is_method(value: object) -> TypeGuard[str]:
    """Tell whether a value may be the name of a method. Whether there is one of that name is another question."""
    return isinstance(value, str) and len(value) <= MAX_METHOD_LENGTH


def is_reserved(method: str) -> bool:
    """Tell whether a method belongs to the protocol."""
    return method.startswith(RESERVED_PREFIXES)


def argument(params: Params, index: int, name: str) -> Any:
    """Return one argument of a notification of ours, by position or by name, or None."""
    if isinstance(params, dict):
        return params.get(name)
    if isinstance(params, list) and index < len(params):
        return params[index]
    return None
