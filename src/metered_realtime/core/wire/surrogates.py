r"""Halves of surrogate pairs that stand alone in JSON: `"\ud83d"` without the half that follows.

The grammar of JSON allows them (RFC 8259, section 8.2), and `JSON.stringify` writes them for text that was cut within
an emoji. They are no Unicode: they cannot be sent as UTF-8, and the decoder here refuses the whole frame for one.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

MAX_LONE_HALVES = 1_000
"""Halves that are mended in one text, some 0.3 ms. Text that was cut has one at each end."""

_LONE_HALF = re.compile(
    r"\\u[dD](?:"
    r"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)

# A backslash that is escaped begins no escape. JSON has no character NUL, so that it can stand in for a pair of them
# and be read back; a substitution that calls back for every escape would take ten times as long.
_PAIR, _STAND_IN = "\\\\", "\0\0"


def mend_json(text: str | bytes) -> str | None:
    """Return JSON with the replacement character (U+FFFD, escaped) for each lone half.

    None if there is nothing to mend, or too much: more than `MAX_LONE_HALVES`.

    Raises:
        UnicodeError: it is not UTF-8.
    """
    whole = text.decode() if isinstance(text, bytes) else text
    if "\0" in whole:
        return None
    mended, count = _LONE_HALF.subn(r"\\ufffd", whole.replace(_PAIR, _STAND_IN), MAX_LONE_HALVES + 1)
    return mended.replace(_STAND_IN, _PAIR) if 0 < count <= MAX_LONE_HALVES else None


def decode_json(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    """Decode JSON, with the replacement character for each lone half, as browsers do where they need Unicode.

    Raises:
        msgspec.DecodeError: it is no JSON, or not of the decoder's type.
        UnicodeError: it is not UTF-8.
    """
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        mended = mend_json(text)
        if mended is None:
            raise
        return decoder.decode(mended)
