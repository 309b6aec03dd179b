r"""Halves of surrogate pairs that stand alone in JSON: `"\ud83d"` without the half that follows.

The grammar of JSON allows them (RFC 8259, section 8.2), and `JSON.stringify` writes them for text that was cut within
an emoji. They are no Unicode: they cannot be sent as UTF-8, and the decoder here refuses the whole frame for one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")

_ESCAPE = re.compile(
    r"\\(?:"
    r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    r"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|.)",
    re.DOTALL,
)


def decode_json(decoder: msgspec.json.Decoder[T], text: str | bytes, *, names: Sequence[str] = ()) -> T:
    """Decode JSON, with the replacement character for each lone half, as browsers do where they need Unicode.

    `names` are attributes of what is decoded in which none may stand: two names must not become one.

    Raises:
        msgspec.DecodeError: it is no JSON, or not of the decoder's type, or a name is no Unicode.
        UnicodeError: it is not UTF-8.
    """
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        whole = text.decode() if isinstance(text, bytes) else text
        clean = _ESCAPE.sub(lambda escape: r"\ufffd" if escape["lone"] else escape[0], whole)
        if clean == whole:
            raise
        decoded = decoder.decode(clean)
        if any("\ufffd" in str(getattr(decoded, name)) for name in names):
            raise
        return decoded
