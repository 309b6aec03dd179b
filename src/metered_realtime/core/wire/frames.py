"""The wire format, protocol version 1: JSON text to typed frames and back, in both directions.

Client and server share this module. Decoding is one pass at C speed into a loose record, followed by the checks that
give each fault its own error. On the server `data` stays raw bytes: a payload is forwarded, never decoded.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeGuard

import msgspec
from msgspec import Raw

from .names import MAX_REQUEST_ID_LENGTH, channel_fault, is_request_id, peer_id_fault
from .surrogates import mend_json

MAX_MESSAGE_SIZE = 65_536
"""Maximum payload size in bytes, unless the server's welcome gives another one."""

ENVELOPE_ALLOWANCE = 1_024
"""Maximum size in bytes of a client frame without its payload: the longest names, ids and keys fit."""

MAX_SERVER_FRAME = 1_048_576
"""Maximum size in bytes of a server frame, presence snapshots included."""

MAX_RESUME_TOKEN = 1_024
"""Maximum length of a resume token in characters. Those of this server have about 200; a longer one would only burden
the request line."""

MAX_EPOCH = 32
"""Maximum length of the name of a count of messages, in characters of `A-Z a-z 0-9 - _`."""

MAX_OFFSET = 2**53 - 1
"""Maximum offset: the largest whole number that JavaScript has."""

DEFAULT_RETRY_AFTER_MS = 1_000
MAX_RETRY_AFTER_MS = 300_000


class _Frame(msgspec.Struct, frozen=True, tag_field="type", rename="camel", omit_defaults=True):
    """Base of frames. Fields with their default value are omitted when encoded, required fields never."""


# --- client to server


class Subscribe(_Frame, frozen=True, tag="subscribe"):
    """Subscribe to a channel.

    `recover` asks for offsets in the messages of the channel. With `epoch` and `offset`, where the client has read to,
    the messages after that follow the snapshot.
    """

    channel: str
    include_sender_metadata: bool = False
    request_id: str | None = None
    recover: bool = False
    epoch: str | None = None
    offset: int | None = None


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
    epoch: str | None = None
    """With `offset`, how far the directs to this peer are: for connections that asked to recover."""
    offset: int | None = None

    def __repr__(self) -> str:
        return f"Welcome(peer_id={self.peer_id!r})"


class Resume(_Frame, frozen=True, tag="resume"):
    """A new resume token, which replaces the one before."""

    resume_token: str

    def __repr__(self) -> str:
        return "Resume()"


class Ack(_Frame, frozen=True, tag="ack"):
    """The answer to a request.

    `expires_at` and `metadata` are for a refresh, with their meaning in a welcome. `epoch` and `offset` are for a
    subscribe that asked to recover: how far the messages of the channel are.
    """

    request_id: str
    expires_at: int | None = None
    metadata: Any = None
    epoch: str | None = None
    offset: int | None = None


class ErrorFrame(_Frame, frozen=True, tag="error"):
    code: str
    message: str | None = None
    request_id: str | None = None


class MessageFrame(_Frame, frozen=True, tag="message"):
    channel: str
    from_: str = msgspec.field(name="from")
    data: Any
    from_metadata: Any = None
    offset: int | None = None


class DirectFrame(_Frame, frozen=True, tag="direct"):
    from_: str = msgspec.field(name="from")
    data: Any
    from_metadata: Any = None
    offset: int | None = None


class LostFrame(_Frame, frozen=True, tag="lost"):
    """Messages of a channel, or directs if there is no channel, cannot be delivered any more.

    It comes before anything newer. `count` is None if nobody knows how many. `epoch` and `offset` are where the client
    is now: after the lost ones.
    """

    epoch: str
    offset: int
    channel: str | None = None
    count: int | None = None


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


ServerFrame = (
    Welcome | Resume | Ack | ErrorFrame | MessageFrame | DirectFrame | PresenceFrame | GoingAwayFrame | Pong | LostFrame
)


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


def is_epoch(value: object) -> TypeGuard[str]:
    """Return whether a value can name a count of messages: 1 to `MAX_EPOCH` letters, digits, - or _, in ASCII."""
    return isinstance(value, str) and _EPOCH.fullmatch(value) is not None


_EPOCH = re.compile(f"[A-Za-z0-9_-]{{1,{MAX_EPOCH}}}")
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
    recover: Raw = _ABSENT
    epoch: Raw = _ABSENT
    offset: Raw = _ABSENT


_client_decoder = msgspec.json.Decoder(_LooseClientFrame)
_text_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool)
_offset_decoder = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)])


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
            return _subscribe(loose, request_id)
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
        names = (loose.type, loose.channel, loose.to, loose.request_id, loose.token, loose.epoch)
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


def _subscribe(loose: _LooseClientFrame, request_id: str | None) -> Subscribe:
    channel = _channel(loose, request_id)
    includes = _flag(loose.include_sender_metadata, "includeSenderMetadata", request_id)
    if loose.recover is _ABSENT and loose.epoch is _ABSENT and loose.offset is _ABSENT:
        return Subscribe(channel, includes, request_id)
    recover = _flag(loose.recover, "recover", request_id)
    if loose.epoch is _ABSENT and loose.offset is _ABSENT:
        return Subscribe(channel, includes, request_id, recover)
    epoch, offset = _text(loose.epoch), _offset(loose.offset)
    if not recover or not is_epoch(epoch) or offset is None:
        reason = "'epoch' and 'offset' are no position, or 'recover' is not true"
        raise FrameError("malformed_message", reason, request_id)
    return Subscribe(channel, includes, request_id, True, epoch, offset)


def _flag(raw: Raw, name: str, request_id: str | None) -> bool:
    if raw is _ABSENT:
        return False
    try:
        return _flag_decoder.decode(raw)
    except msgspec.DecodeError:
        raise FrameError("malformed_message", f"'{name}' is no boolean", request_id) from None


def _offset(raw: Raw) -> int | None:
    """Return an offset. None if the field is absent or something else."""
    try:
        return _offset_decoder.decode(raw)
    except msgspec.DecodeError:
        return None
