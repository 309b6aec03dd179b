"""Rules for channel names, peer ids and request ids."""

from __future__ import annotations

import re
from typing import Literal

from .patterns import is_pattern, pattern_matches

__all__ = [
    "MAX_CHANNEL_BYTES",
    "MAX_PEER_ID_LENGTH",
    "MAX_REQUEST_ID_LENGTH",
    "RESERVED_PREFIXES",
    "NameFault",
    "channel_fault",
    "identity_fault",
    "is_pattern",
    "is_request_id",
    "is_reserved_channel",
    "pattern_matches",
    "peer_id_fault",
]

MAX_CHANNEL_BYTES = 256
MAX_PEER_ID_LENGTH = 128
MAX_REQUEST_ID_LENGTH = 128
RESERVED_PREFIXES = ("_metered/", "_internal/", "_system/")

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")

NameFault = Literal["type", "empty", "too_long", "control_character", "not_printable_ascii", "encoding"]


def channel_fault(name: object) -> NameFault | None:
    """Return what is wrong with a channel name, or None. It is 1 to 256 bytes of UTF-8 without control characters."""
    if not isinstance(name, str):
        return "type"
    if not name:
        return "empty"
    # UTF-8 has at most four bytes per character, so that longer text need not be encoded.
    if len(name) > MAX_CHANNEL_BYTES:
        return "too_long"
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return "encoding"
    if size > MAX_CHANNEL_BYTES:
        return "too_long"
    return "control_character" if _has_control_character(name) else None


def is_reserved_channel(name: str) -> bool:
    """Return whether a channel has a reserved prefix, in upper or lower case."""
    return name.lower().startswith(RESERVED_PREFIXES)


def peer_id_fault(peer_id: object) -> NameFault | None:
    """Return what is wrong with a peer id as the target of a message, or None."""
    if not isinstance(peer_id, str):
        return "type"
    if not peer_id:
        return "empty"
    if len(peer_id) > MAX_PEER_ID_LENGTH:
        return "too_long"
    return "control_character" if _has_control_character(peer_id) else None


def identity_fault(peer_id: object) -> NameFault | None:
    """Return what is wrong with a peer id in a token, or None. It is 1 to 128 characters of printable ASCII."""
    fault = peer_id_fault(peer_id)
    if fault is None and not (isinstance(peer_id, str) and peer_id.isascii() and peer_id.isprintable()):
        return "not_printable_ascii"
    return fault


def is_request_id(value: object) -> bool:
    """Return whether a value is a valid request id: a string of 1 to 128 characters."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_REQUEST_ID_LENGTH


def _has_control_character(text: str) -> bool:
    return _CONTROL_CHARACTER.search(text) is not None
