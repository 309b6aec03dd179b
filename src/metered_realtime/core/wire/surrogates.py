r"""Lone surrogates in JSON: `"\ud83d"` without its second half.

The grammar of JSON allows them (RFC 8259, section 8.2), and `JSON.stringify` writes them for text that was cut within
an emoji. They are not valid Unicode: they have no UTF-8 encoding, and msgspec rejects the whole frame.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

MAX_LONE_HALVES = 1_000
"""Maximum number of lone surrogates replaced in one text, about 0.3 ms. Text that was cut has one at each end."""

_LONE_HALF = re.compile(
    r"\\u[dD](?:"
    r"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)

# An escaped backslash begins no escape. JSON text contains no NUL, so that a NUL can replace each pair of backslashes
# for the time being; a substitution with a callback for every escape would take ten times as long.
_PAIR, _STAND_IN = "\\\\", "\0\0"


def mend_json(text: str | bytes) -> str | None:
    """Return JSON with the replacement character (U+FFFD, escaped) for each lone surrogate.

    None if there are none, or more than `MAX_LONE_HALVES`.

    Raises:
        UnicodeError: the text is not UTF-8.
    """
    whole = text.decode() if isinstance(text, bytes) else text
    if "\0" in whole:
        return None
    mended, count = _LONE_HALF.subn(r"\\ufffd", whole.replace(_PAIR, _STAND_IN), MAX_LONE_HALVES + 1)
    return mended.replace(_STAND_IN, _PAIR) if 0 < count <= MAX_LONE_HALVES else None


def decode_json(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    """Decode JSON, with the replacement character for each lone surrogate, as browsers do where they need Unicode.

    Raises:
        msgspec.DecodeError: the text is not JSON, or not of the decoder's type.
        UnicodeError: the text is not UTF-8.
    """
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        mended = mend_json(text)
        if mended is None:
            raise
        return decoder.decode(mended)
