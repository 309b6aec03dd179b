"""The frames of streams between two peers: a header of five bytes, then a payload that depends on the type.

    byte 0      type
    bytes 1-4   number of the stream, unsigned, big endian, from 1
    bytes 5-    payload

    1 OPEN      JSON object: topic, kind, attributes, total          by the end that writes
    2 DATA      1 to 32,768 bytes of content                         by the end that writes
    3 END       nothing: the content is complete                     by the end that writes
    4 ABORT     one byte of code, then UTF-8 text of 200 at most     by the end that writes
    5 CREDIT    4 bytes: number of further bytes that may be sent    by the end that reads
    6 CANCEL    one byte of code, then UTF-8 text of 200 at most     by the end that reads
    7 FINISHED  nothing: everything has been read                    by the end that reads

Each end numbers the streams that it writes in ascending order and never uses a number twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

StreamKind = Literal["bytes", "text"]
Attributes = dict[str, str | int | float | bool | None]

HEADER_BYTES = 5

MAX_CHUNK = 32_768
"""Maximum content of a frame, in bytes: below the 64 KiB that every browser and aiortc accept, and small enough that
other streams do not wait long."""

MAX_OPEN_BYTES = 16_384
"""Maximum size of topic and attributes as JSON, in bytes: they describe the content and do not carry it."""

MAX_TOPIC = 128
MAX_DETAIL = 200
"""Maximum characters of a topic, and UTF-8 bytes of the detail of a stop, which is text for a log."""

MAX_CREDIT = 2**31 - 1
"""Maximum credit of a stream, in bytes. More is an attempt to overflow a counter."""

MAX_ID = 2**32 - 1

MAX_TOTAL = 2**53 - 1
"""Maximum length of a stream, in bytes: JavaScript represents no larger integer exactly."""

OPEN, DATA, END, ABORT, CREDIT, CANCEL, FINISHED = range(1, 8)

CODES: tuple[Literal["application", "too_many_streams", "not_taken", "protocol_error"], ...] = (
    "application",
    "too_many_streams",
    "not_taken",
    "protocol_error",
)
"""Reasons of a stop, by their number on the wire. An unknown number counts as `application`."""

Code = Literal["application", "too_many_streams", "not_taken", "protocol_error"]


class StreamProtocolError(ValueError):
    """The other end violated the protocol of streams. The channel cannot continue."""


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """A frame as it arrived. `payload` follows the header."""

    type: int
    id: int
    payload: bytes


class Opening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of an OPEN frame. `total` is the length of the stream in bytes, None if it is unknown."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOPIC)]
    kind: StreamKind = "bytes"
    attributes: Attributes = msgspec.field(default_factory=dict)
    total: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Opening)


def encode(type: int, id: int, payload: bytes | memoryview = b"") -> bytes:
    """Encode a frame."""
    return b"".join((bytes((type,)), id.to_bytes(4, "big"), payload))


def encode_opening(opening: Opening) -> bytes:
    """Encode the payload of an OPEN frame, checked like one that arrives.

    Raises:
        ValueError: the topic is empty or too long, an attribute is not a flat JSON value, or the payload is too large.
    """
    try:
        payload = _encoder.encode(opening)
    except (TypeError, msgspec.MsgspecError) as error:
        raise ValueError(f"the attributes of a stream must be JSON: {error}") from None
    if decode_opening(payload) != opening:  # JSON has no NaN, and only text keys
        raise ValueError(f"the attributes of a stream must survive encoding as JSON: {opening}")
    return payload


def decode_opening(payload: bytes) -> Opening:
    """Decode the payload of an OPEN frame.

    Raises:
        StreamProtocolError: the payload is invalid or too large.
    """
    if len(payload) > MAX_OPEN_BYTES:
        raise StreamProtocolError(f"topic and attributes of {len(payload)} bytes exceed {MAX_OPEN_BYTES}")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StreamProtocolError(f"not the opening of a stream: {error}") from None


def encode_stop(code: Code, detail: str) -> bytes:
    """Encode the payload of an ABORT or CANCEL frame. Text beyond the maximum is cut off."""
    return bytes((CODES.index(code),)) + detail.encode(errors="replace")[:MAX_DETAIL]


def decode_stop(payload: bytes) -> tuple[Code, str]:
    """Decode the payload of an ABORT or CANCEL frame. Code and detail are optional.

    Raises:
        StreamProtocolError: the detail is too long.
    """
    if len(payload) > 1 + MAX_DETAIL:
        raise StreamProtocolError(f"code and detail of {len(payload)} bytes exceed {1 + MAX_DETAIL}")
    code = CODES[payload[0]] if payload and payload[0] < len(CODES) else "application"
    detail = payload[1:].decode(errors="ignore")
    return code, "".join(letter for letter in detail if letter.isprintable())


def parse(message: bytes | str) -> StreamFrame:
    """Parse a message of the channel.

    Raises:
        StreamProtocolError: the message is not a frame, or its payload has the wrong size for its type.
    """
    if isinstance(message, str) or len(message) < HEADER_BYTES:
        raise StreamProtocolError("not a frame")
    frame = StreamFrame(message[0], int.from_bytes(message[1:HEADER_BYTES], "big"), message[HEADER_BYTES:])
    if not OPEN <= frame.type <= FINISHED:
        raise StreamProtocolError(f"unknown type {frame.type}")
    if frame.id == 0:
        raise StreamProtocolError("streams are numbered from 1")
    if frame.type == DATA and not 1 <= len(frame.payload) <= MAX_CHUNK:
        raise StreamProtocolError(f"{len(frame.payload)} bytes of data in a frame")
    if frame.type in (END, FINISHED) and frame.payload:
        raise StreamProtocolError(f"{len(frame.payload)} bytes of payload in a frame without one")
    if frame.type == CREDIT and len(frame.payload) != 4:
        raise StreamProtocolError("credit must have four bytes")
    return frame
