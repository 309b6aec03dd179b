"""Rules for channel names, peer ids and request ids, and the pattern language of keys and tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

MAX_CHANNEL_BYTES = 256
MAX_PEER_ID_LENGTH = 128
MAX_REQUEST_ID_LENGTH = 128
RESERVED_PREFIXES = ("_metered/", "_internal/", "_system/")

NameFault = Literal["type", "empty", "too_long", "control_character", "not_printable_ascii", "encoding"]


def channel_fault(name: object) -> NameFault | None:
    """Return what is wrong with a channel name, or None: 1 to 256 bytes of UTF-8 without control characters."""
    if not isinstance(name, str):
        return "type"
    if not name:
        return "empty"
    # Four bytes per character at the most: longer text need not be encoded to know.
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
    """Tell whether a channel belongs to the service: the prefix counts, its case does not."""
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
    """Return what is wrong with a peer id that a token claims, or None: printable ASCII, 1 to 128."""
    fault = peer_id_fault(peer_id)
    if fault is None and not (isinstance(peer_id, str) and peer_id.isascii() and peer_id.isprintable()):
        return "not_printable_ascii"
    return fault


def is_request_id(value: object) -> bool:
    """Tell whether a value may be a request id: a string of 1 to 128 characters."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_REQUEST_ID_LENGTH


def is_pattern(name: str) -> bool:
    """Tell whether a channel name contains an unescaped `*`."""
    return any(isinstance(token, _Star) for token in _tokens(name))


def pattern_matches(pattern: str, channel: str) -> bool:
    r"""Match a whole channel name, case-sensitively, in time proportional to pattern times name.

    `*` stands for any run of characters except `/`, `**` for any run, `\*` and `\\` for the characters.
    """
    tokens = _tokens(pattern)
    states = _closure({0}, tokens)
    for character in channel:
        following: set[int] = set()
        for state in states:
            if state == len(tokens):
                continue
            token = tokens[state]
            if isinstance(token, str):
                if token == character:
                    following.add(state + 1)
            elif token.crosses_slash or character != "/":
                following.add(state)
        states = _closure(following, tokens)
        if not states:
            return False
    return len(tokens) in states


class _Star:
    __slots__ = ("crosses_slash",)

    def __init__(self, crosses_slash: bool) -> None:
        self.crosses_slash = crosses_slash


_STAR, _DOUBLE_STAR = _Star(False), _Star(True)


@lru_cache(maxsize=4096)
def _tokens(pattern: str) -> tuple[str | _Star, ...]:
    tokens: list[str | _Star] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        following = pattern[index + 1 : index + 2]
        if character == "\\" and following in ("*", "\\"):
            tokens.append(following)
            index += 2
        elif character == "*" and following == "*":
            tokens.append(_DOUBLE_STAR)
            index += 2
        else:
            tokens.append(_STAR if character == "*" else character)
            index += 1
    return tuple(tokens)


def _closure(states: set[int], tokens: tuple[str | _Star, ...]) -> set[int]:
    """Add the states reached by letting stars stand for nothing."""
    reached = set(states)
    for state in states:
        while state < len(tokens) and isinstance(tokens[state], _Star):
            state += 1
            reached.add(state)
    return reached


def _has_control_character(text: str) -> bool:
    return any(character <= "\x1f" or "\x7f" <= character <= "\x9f" for character in text)
