"""The wire format, protocol version 1: JSON text to typed frames and back, in both directions.

Client and server share this module. Decoding is one pass at C speed into a loose record, followed by the checks that
give each fault its own error. On the server `data` stays raw bytes: a payload is forwarded, never decoded.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeGuard, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .message_cost import json_fault
from .names import MAX_REQUEST_ID_LENGTH, channel_fault, is_request_id, peer_id_fault
from .surrogates import decode_json, mend_json

MAX_MESSAGE_SIZE = 65_536
"""Maximum payload size in bytes, unless the server's welcome gives another one."""

ENVELOPE_ALLOWANCE = 1_024
"""Maximum size in bytes of a client frame without its payload: the longest names, ids and keys fit."""

MAX_SERVER_FRAME = 1_048_576
"""Maximum size in bytes of a server frame, presence snapshots included."""

MAX_RESUME_TOKEN = 1_024
"""Maximum length of a resume token in characters. Those of this server have about 200; a longer one would only burden
the request line."""

DEFAULT_RETRY_AFTER_MS = 1_000
MAX_RETRY_AFTER_MS = 300_000


class _Frame(msgspec.Struct, frozen=True, tag_field="type", rename="camel", omit_defaults=True):
    """Base of frames. Fields with their default value are omitted when encoded, required fields never."""


# --- client to server


class Subscribe(_Frame, frozen=True, tag="subscribe"):
    channel: str
    include_sender_metadata: bool = False
    request_id: str | None = None


class Unsubscribe(_Frame, frozen=True, tag="unsubscribe"):
    channel: str
    request_id: str | None = None


class Publish(_Frame, frozen=True, tag="publish"):
    channel: str
    data: Raw
    request_id: str | None = None


class Send(_Frame, frozen=True, tag="send"):
    to: str
    data: Raw
    request_id: str | None = None


class Ping(_Frame, frozen=True, tag="ping"):
    request_id: str | None = None


class Refresh(_Frame, frozen=True, tag="refresh"):
    """Replace the token of the connection."""

    token: str
    request_id: str | None = None

    def __repr__(self) -> str:
        return f"Refresh(request_id={self.request_id!r})"


ClientFrame = Subscribe | Unsubscribe | Publish | Send | Ping | Refresh


# --- server to client


class Welcome(_Frame, frozen=True, tag="welcome"):
    peer_id: str
    expires_at: int | None
    server_time: int
    max_message_size: int
    metadata: Any = None
    resume_token: str | None = None
    """The resume token, for connections by publishable key: a reconnect with it gets the same peer id."""

    def __repr__(self) -> str:
        return f"Welcome(peer_id={self.peer_id!r})"


class Resume(_Frame, frozen=True, tag="resume"):
    """A new resume token, which replaces the one before."""

    resume_token: str

    def __repr__(self) -> str:
        return "Resume()"


class Ack(_Frame, frozen=True, tag="ack"):
    """The answer to a request. The other fields are for a refresh only, with their meaning in a welcome."""

    request_id: str
    expires_at: int | None = None
    metadata: Any = None


class ErrorFrame(_Frame, frozen=True, tag="error"):
    code: str
    message: str | None = None
    request_id: str | None = None


class MessageFrame(_Frame, frozen=True, tag="message"):
    channel: str
    from_: str = msgspec.field(name="from")
    data: Any
    from_metadata: Any = None


class DirectFrame(_Frame, frozen=True, tag="direct"):
    from_: str = msgspec.field(name="from")
    data: Any
    from_metadata: Any = None


class PresenceEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A peer in a presence frame.

    `expelled`, in `left`: the server disconnected it for good. The hosted service does not send it."""

    peer_id: str
    metadata: Any = None
    expelled: bool = False


class PresenceFrame(_Frame, frozen=True, tag="presence"):
    channel: str
    joined: tuple[PresenceEntry, ...]
    left: tuple[PresenceEntry, ...]


class GoingAwayFrame(_Frame, frozen=True, tag="going_away"):
    retry_after_ms: int


class Pong(_Frame, frozen=True, tag="pong"):
    request_id: str | None = None


ServerFrame = Welcome | Resume | Ack | ErrorFrame | MessageFrame | DirectFrame | PresenceFrame | GoingAwayFrame | Pong


class FrameError(Exception):
    """A client frame is invalid; the server answers with an error frame of this code."""

    def __init__(self, code: str, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


class MalformedServerFrameError(Exception):
    """A server frame is malformed; the client skips it."""


class UnknownServerFrameError(MalformedServerFrameError):
    """A server frame has a type that this client does not know. Newer servers may send such frames."""


def is_resume_token(value: object) -> TypeGuard[str]:
    """Return whether a value can be a resume token: 1 to `MAX_RESUME_TOKEN` characters of printable ASCII."""
    return isinstance(value, str) and 0 < len(value) <= MAX_RESUME_TOKEN and value.isascii() and value.isprintable()


_ABSENT = Raw(b"")
_encoder = msgspec.json.Encoder()
# Not msgspec, which writes NaN as null. One encoder for all, since building one costs as much as a small payload.
_encode_payload = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(frame: ClientFrame | ServerFrame) -> bytes:
    """Encode a frame as compact UTF-8 JSON."""
    return _encoder.encode(frame)


def encode_payload(data: Any) -> Raw:
    """Encode application data as compact UTF-8 JSON without ASCII escaping.

    Raises:
        TypeError: the data is not JSON-serialisable.
        ValueError: it holds NaN or an infinity, a lone surrogate, a cycle, or is nested too deeply.
    """
    try:
        text = _encode_payload(data)
    except RecursionError:
        raise ValueError("data is nested too deeply") from None
    return Raw(text.encode())


class _LooseClientFrame(msgspec.Struct, rename="camel"):
    """The fields of a client frame, undecoded. Fields that a frame does not use are skipped."""

    type: Raw = _ABSENT
    channel: Raw = _ABSENT
    to: Raw = _ABSENT
    data: Raw = _ABSENT
    request_id: Raw = _ABSENT
    include_sender_metadata: Raw = _ABSENT
    token: Raw = _ABSENT


_client_decoder = msgspec.json.Decoder(_LooseClientFrame)
_text_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool)


def decode_client_frame(text: str | bytes) -> ClientFrame:
    """Decode and check a frame from a client. Bytes must be valid UTF-8.

    Raises:
        FrameError: the frame is invalid. Holds the error code for the answer and the request id, if it is readable.
    """
    try:
        loose = _decode_loose(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise FrameError("malformed_message", "the frame is not a JSON object") from None
    kind = _text(loose.type)
    if kind is None:
        raise FrameError("malformed_message", "the frame has no string 'type'")
    request_id = _request_id(loose)
    match kind:
        case "subscribe":
            return Subscribe(_channel(loose, request_id), _include(loose, request_id), request_id)
        case "unsubscribe":
            return Unsubscribe(_channel(loose, request_id), request_id)
        case "publish":
            return Publish(_channel(loose, request_id), _data(loose, request_id), request_id)
        case "send":
            return Send(_target(loose, request_id), _data(loose, request_id), request_id)
        case "ping":
            return Ping(request_id)
        case "refresh":
            return Refresh(_token(loose, request_id), request_id)
    raise FrameError("unknown_type", f"unknown type {kind[:64]!r}", request_id)


def _decode_loose(text: str | bytes) -> _LooseClientFrame:
    try:
        return _client_decoder.decode(text)
    except msgspec.DecodeError:
        mended = mend_json(text)
        if mended is None:
            raise
        loose = _client_decoder.decode(mended)
        # Two different names must not become the same.
        names = (loose.type, loose.channel, loose.to, loose.request_id, loose.token)
        if any(rb"\ufffd" in bytes(name) for name in names):
            raise
        return loose


def _text(raw: Raw) -> str | None:
    """Return a text field. None if it is absent or, by its first byte, something else than text."""
    try:
        return _text_decoder.decode(raw)
    except msgspec.DecodeError:
        return None


def _request_id(loose: _LooseClientFrame) -> str | None:
    if loose.request_id is _ABSENT:
        return None
    request_id = _text(loose.request_id)
    if not is_request_id(request_id):
        raise FrameError("malformed_message", f"'requestId' is no string of 1 to {MAX_REQUEST_ID_LENGTH} characters")
    return request_id


def _channel(loose: _LooseClientFrame, request_id: str | None) -> str:
    channel = _text(loose.channel)
    fault = channel_fault(channel)
    if channel is None or fault is not None:
        raise FrameError("invalid_channel", f"'channel' is not a channel name ({fault})", request_id)
    return channel


def _target(loose: _LooseClientFrame, request_id: str | None) -> str:
    target = _text(loose.to)
    fault = peer_id_fault(target)
    if target is None or fault is not None:
        raise FrameError("invalid_peer_id", f"'to' is not a peer id ({fault})", request_id)
    return target


def _data(loose: _LooseClientFrame, request_id: str | None) -> Raw:
    if loose.data is _ABSENT:
        raise FrameError("missing_data", "'data' is missing", request_id)
    return loose.data


def _token(loose: _LooseClientFrame, request_id: str | None) -> str:
    token = _text(loose.token)
    if not token:
        raise FrameError("malformed_message", "'token' is missing or no text", request_id)
    return token


def _include(loose: _LooseClientFrame, request_id: str | None) -> bool:
    if loose.include_sender_metadata is _ABSENT:
        return False
    try:
        return _flag_decoder.decode(loose.include_sender_metadata)
    except msgspec.DecodeError:
        raise FrameError("malformed_message", "'includeSenderMetadata' is no boolean", request_id) from None


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


_server_decoder = msgspec.json.Decoder(_LooseServerFrame)


def decode_server_frame(text: str | bytes) -> ServerFrame:
    """Decode and check a frame from a server. Metadata that is not an object is treated as absent.

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
            )
        case "direct":
            return DirectFrame(
                from_=_want(loose.from_, str, "from"),
                data=_present(loose.data, "data"),
                from_metadata=_object(loose.from_metadata),
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
    return Welcome(
        peer_id=_want(loose.peer_id, str, "peerId"),
        expires_at=expires_at,
        server_time=_number(loose.server_time, "serverTime"),
        max_message_size=size,
        metadata=_object(loose.metadata),
        resume_token=loose.resume_token if is_resume_token(loose.resume_token) else None,
    )


def _resume(loose: _LooseServerFrame) -> Resume:
    if not is_resume_token(loose.resume_token):
        raise MalformedServerFrameError("'resumeToken' is missing or unusable")
    return Resume(loose.resume_token)


def _ack(loose: _LooseServerFrame) -> Ack:
    # An ack only settles requests of this client, so unexpected fields are no reason to refuse it.
    request_id = _want(loose.request_id, str, "requestId")
    expires_at = loose.expires_at
    if expires_at is None and loose.metadata is None:
        return Ack(request_id)
    known = isinstance(expires_at, int | float) and not isinstance(expires_at, bool)
    return Ack(request_id, int(expires_at) if known else None, _object(loose.metadata))


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
