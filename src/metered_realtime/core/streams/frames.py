"""The frames of streams between two peers: a header of five bytes, then what the type says.

    byte 0      type
    bytes 1-4   number of the stream, unsigned, big endian, from 1
    bytes 5-    payload

    1 OPEN      JSON object: topic, kind, attributes, total          by the end that writes
    2 DATA      1 to 32,768 bytes of content                         by the end that writes
    3 END       nothing: that was all of it                          by the end that writes
    4 ABORT     one byte of code, then UTF-8 text of 200 at most     by the end that writes
    5 CREDIT    4 bytes: so many more bytes may be sent              by the end that reads
    6 CANCEL    one byte of code, then UTF-8 text of 200 at most     by the end that reads
    7 FINISHED  nothing: everything has been read                    by the end that reads

Each end numbers the streams that it writes, upwards and never the same number twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

StreamKind = Literal["bytes", "text"]
Attributes = dict[str, str | int | float | bool | None]

HEADER_BYTES = 5

MAX_CHUNK = 32_768
"""Bytes of content in a frame: every browser and aiortc take messages of 64 KiB, and a small frame lets others by."""

MAX_OPEN_BYTES = 16_384
"""Topic and attributes as JSON: a description of what follows, not a way to carry it."""

MAX_TOPIC = 128
MAX_DETAIL = 200
"""Characters of a topic, and bytes of what an end says about why it stops: text for a log."""

MAX_CREDIT = 2**31 - 1
"""What a stream may be given ahead in all. Whoever gives more does so to make a counter overflow."""

MAX_ID = 2**32 - 1

MAX_TOTAL = 2**53 - 1
"""The largest size that every implementation can count: a browser's numbers end there."""

OPEN, DATA, END, ABORT, CREDIT, CANCEL, FINISHED = range(1, 8)

CODES: tuple[Literal["application", "too_many_streams", "not_taken", "protocol_error"], ...] = (
    "application",
    "too_many_streams",
    "not_taken",
    "protocol_error",
)
"""Why an end stops, by the number on the wire. An unknown number counts as `application`."""

Code = Literal["application", "too_many_streams", "not_taken", "protocol_error"]


class StreamProtocolError(ValueError):
    """The other end broke the protocol: nothing that it sends can be trusted to mean what it says."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it came: `payload` is what follows the header."""

    type: int
    id: int
    payload: bytes


class Opening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an OPEN frame says. `total` is the number of bytes to come, None if it is not known before."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOPIC)]
    kind: StreamKind = "bytes"
    attributes: Attributes = msgspec.field(default_factory=dict)
    total: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Opening)


def encode(type: int, id: int, payload: bytes | memoryview = b"") -> bytes:
    """Return a frame."""
    return b"".join((bytes((type,)), id.to_bytes(4, "big"), payload))


def encode_opening(opening: Opening) -> bytes:
    """Return the payload of an OPEN frame, checked like one that arrives.

    Raises:
        ValueError: the topic is empty or too long, an attribute is no flat JSON value, or all of it is too large.
    """
    try:
        payload = _encoder.encode(opening)
    except (TypeError, msgspec.MsgspecError) as error:
        raise ValueError(f"the attributes of a stream are JSON: {error}") from None
    if decode_opening(payload) != opening:  # JSON has no NaN, and no keys but text
        raise ValueError(f"the attributes of a stream are JSON, and these would not arrive as they are: {opening}")
    return payload


def decode_opening(payload: bytes) -> Opening:
    """Read the payload of an OPEN frame.

    Raises:
        StreamProtocolError: it is not one.
    """
    if len(payload) > MAX_OPEN_BYTES:
        raise StreamProtocolError(f"topic and attributes of {len(payload)} bytes exceed {MAX_OPEN_BYTES}")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StreamProtocolError(f"not the opening of a stream: {error}") from None


def encode_stop(code: Code, detail: str) -> bytes:
    """Return the payload of an ABORT or CANCEL frame. Text beyond the bound is cut off."""
    return bytes((CODES.index(code),)) + detail.encode(errors="replace")[:MAX_DETAIL]


def decode_stop(payload: bytes) -> tuple[Code, str]:
    """Read the payload of an ABORT or CANCEL frame: who stops may say why, and need not."""
    if len(payload) > 1 + MAX_DETAIL:
        raise StreamProtocolError(f"{len(payload)} bytes of reason exceed {1 + MAX_DETAIL}")
    code = CODES[payload[0]] if payload and payload[0] < len(CODES) else "application"
    detail = payload[1:].decode(errors="ignore")
    return code, "".join(letter for letter in detail if letter.isprintable())


def parse(message: bytes | str) -> Frame:
    """Take a message apart.

    Raises:
        StreamProtocolError: it is no frame, or larger than its type allows.
    """
    if isinstance(message, str) or len(message) < HEADER_BYTES:
        raise StreamProtocolError("not a frame")
    frame = Frame(message[0], int.from_bytes(message[1:HEADER_BYTES], "big"), message[HEADER_BYTES:])
    if not OPEN <= frame.type <= FINISHED:
        raise StreamProtocolError(f"unknown type {frame.type}")
    if frame.id == 0:
        raise StreamProtocolError("streams are numbered from 1")
    if frame.type == DATA and not 1 <= len(frame.payload) <= MAX_CHUNK:
        raise StreamProtocolError(f"{len(frame.payload)} bytes of data in a frame")
    if frame.type in (END, FINISHED) and frame.payload:
        raise StreamProtocolError("a frame that says nothing more has no payload")
    if frame.type == CREDIT and len(frame.payload) != 4:
        raise StreamProtocolError("credit is a number of four bytes")
    return frame
