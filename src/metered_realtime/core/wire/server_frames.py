"""Frames of a server, as a client decodes them."""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from .frames import (
    DEFAULT_RETRY_AFTER_MS,
    MAX_RETRY_AFTER_MS,
    Ack,
    DirectFrame,
    ErrorFrame,
    GoingAwayFrame,
    LostFrame,
    MalformedServerFrameError,
    MessageFrame,
    Pong,
    PresenceEntry,
    PresenceFrame,
    Resume,
    ServerFrame,
    UnknownServerFrameError,
    Welcome,
    is_resume_token,
)
from .message_cost import json_fault
from .surrogates import decode_json

MAX_OFFSET = 2**53
"""Maximum offset and count: what JavaScript counts exactly, and more than any channel has."""

_EPOCH = re.compile("[A-Za-z0-9_-]{1,32}")


class _LooseServerFrame(msgspec.Struct, rename="camel"):
    type: Any = UNSET
    peer_id: Any = UNSET
    expires_at: Any = None
    server_time: Any = UNSET
    max_message_size: Any = UNSET
    metadata: Any = None
    resume_token: Any = None
    request_id: Any = UNSET
    code: Any = UNSET
    message: Any = None
    channel: Any = UNSET
    from_: Any = msgspec.field(default=UNSET, name="from")
    data: Any = UNSET
    from_metadata: Any = None
    joined: Any = UNSET
    left: Any = UNSET
    retry_after_ms: Any = None
    epoch: Any = None
    offset: Any = None
    count: Any = None


_server_decoder = msgspec.json.Decoder(_LooseServerFrame)


def decode_server_frame(text: str | bytes) -> ServerFrame:
    """Decode and check a frame from a server. Metadata that is not an object is treated as absent, and so is a position
    that is none.

    Raises:
        UnknownServerFrameError: the type is not known.
        MalformedServerFrameError: the frame is invalid in any other way.
    """
    if fault := json_fault(text):
        raise MalformedServerFrameError(fault)
    try:
        loose = decode_json(_server_decoder, text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise MalformedServerFrameError("not a JSON object") from None
    kind = _want(loose.type, str, "type")
    match kind:
        case "welcome":
            return _welcome(loose)
        case "ack":
            return _ack(loose)
        case "error":
            return _error(loose)
        case "message":
            return MessageFrame(
                channel=_want(loose.channel, str, "channel"),
                from_=_want(loose.from_, str, "from"),
                data=_present(loose.data, "data"),
                from_metadata=_object(loose.from_metadata),
                offset=_offset(loose.offset),
            )
        case "direct":
            return DirectFrame(
                from_=_want(loose.from_, str, "from"),
                data=_present(loose.data, "data"),
                from_metadata=_object(loose.from_metadata),
                offset=_offset(loose.offset),
            )
        case "presence":
            return PresenceFrame(
                _want(loose.channel, str, "channel"), _entries(loose.joined, "joined"), _entries(loose.left, "left")
            )
        case "going_away":
            return GoingAwayFrame(_retry_after(loose.retry_after_ms))
        case "pong":
            return Pong(loose.request_id if isinstance(loose.request_id, str) else None)
        case "resume":
            return _resume(loose)
        case "lost":
            return _lost(loose)
    raise UnknownServerFrameError(f"unknown type {kind[:64]!r}")


T = TypeVar("T")


def _want(value: Any, kind: type[T], field: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise MalformedServerFrameError(f"'{field}' is missing or no {kind.__name__}")
    return value


def _present(value: Any, field: str) -> Any:
    if isinstance(value, UnsetType):
        raise MalformedServerFrameError(f"'{field}' is missing")
    return value


def _number(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedServerFrameError(f"'{field}' is missing or no number")
    return int(value)


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _welcome(loose: _LooseServerFrame) -> Welcome:
    size = _number(loose.max_message_size, "maxMessageSize")
    if size <= 0:
        raise MalformedServerFrameError(f"'maxMessageSize' must be above 0, not {size}")
    expires_at = None if loose.expires_at is None else _number(loose.expires_at, "expiresAt")
    epoch, offset = _position(loose)
    return Welcome(
        peer_id=_want(loose.peer_id, str, "peerId"),
        expires_at=expires_at,
        server_time=_number(loose.server_time, "serverTime"),
        max_message_size=size,
        metadata=_object(loose.metadata),
        resume_token=loose.resume_token if is_resume_token(loose.resume_token) else None,
        epoch=epoch,
        offset=offset,
    )


def _resume(loose: _LooseServerFrame) -> Resume:
    if not is_resume_token(loose.resume_token):
        raise MalformedServerFrameError("'resumeToken' is missing or unusable")
    return Resume(loose.resume_token)


def _ack(loose: _LooseServerFrame) -> Ack:
    # An ack only settles requests of this client, so unexpected fields are no reason to refuse it.
    request_id = _want(loose.request_id, str, "requestId")
    expires_at = loose.expires_at
    if expires_at is None and loose.metadata is None and loose.epoch is None:
        return Ack(request_id)
    known = isinstance(expires_at, int | float) and not isinstance(expires_at, bool)
    return Ack(request_id, int(expires_at) if known else None, _object(loose.metadata), *_position(loose))


def _lost(loose: _LooseServerFrame) -> LostFrame:
    epoch, offset = _position(loose)
    if epoch is None or offset is None:
        raise MalformedServerFrameError("'epoch' or 'offset' is missing or unusable")
    channel = None if isinstance(loose.channel, UnsetType) else _want(loose.channel, str, "channel")
    return LostFrame(epoch, offset, channel, _offset(loose.count) or None)


def _position(loose: _LooseServerFrame) -> tuple[str, int] | tuple[None, None]:
    """Return the epoch and the offset of a frame, if both can be used."""
    epoch, offset = loose.epoch, _offset(loose.offset)
    if not isinstance(epoch, str) or _EPOCH.fullmatch(epoch) is None or offset is None:
        return None, None
    return epoch, offset


def _offset(value: Any) -> int | None:
    is_offset = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_OFFSET
    return value if is_offset else None


def _error(loose: _LooseServerFrame) -> ErrorFrame:
    code = _want(loose.code, str, "code")
    if not code:
        raise MalformedServerFrameError("'code' is empty")
    return ErrorFrame(
        code,
        loose.message if isinstance(loose.message, str) else None,
        loose.request_id if isinstance(loose.request_id, str) else None,
    )


def _entries(value: Any, field: str) -> tuple[PresenceEntry, ...]:
    entries = []
    for item in _want(value, list, field):
        entry = _want(item, dict, field)
        peer_id, metadata = _want(entry.get("peerId"), str, "peerId"), _object(entry.get("metadata"))
        entries.append(PresenceEntry(peer_id, metadata, entry.get("expelled") is True))
    return tuple(entries)


def _retry_after(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return DEFAULT_RETRY_AFTER_MS
    return math.ceil(min(value, MAX_RETRY_AFTER_MS))
