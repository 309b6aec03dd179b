"""Limits on the cost of decoding a message, read from its bytes before any object is created.

Decoders create an object for every value. An empty list, one byte on the wire, takes 56 bytes of memory and is tracked
by the garbage collector. Keys of a map are hashed, and hashes of lists and numbers are predictable, so a sender can
choose keys that all collide. Both are bounded here, by the number of values and by the kinds of keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

MAX_CONTAINERS = 65_536
"""Maximum number of lists and objects in one message: 20 ms of decoding and 15 MB."""

MAX_VALUES = 262_144
"""Maximum number of values in one message, keys included: 40 ms to count them. More numbers should be sent as bytes."""

MAX_DEPTH = 128
"""Maximum nesting depth of lists and objects. Programs walk decoded data with recursive functions."""

MAX_DIGITS = 1_024
"""Maximum number of consecutive digits in JSON. The time to read an integer grows with their square."""

MAX_NUMBER_KEYS = 1_024
"""Maximum number of entries of a map with integer keys. Hashes of integers are predictable: chosen keys all collide,
and the time to store them grows with the square of their number."""

_STEPS = bytes({ord("["): 1, ord("{"): 1}.get(byte, 255) for byte in range(256))
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))


def json_fault(text: str | bytes) -> str | None:
    """Return why a JSON text must not be decoded, or None."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(raw) <= MAX_CONTAINERS and raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return None
    flat = raw.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quotation mark begins or ends a string
    if flat.count(b'"') > 2 * MAX_VALUES:
        return _too_much(0)
    bare = b"".join(flat.split(b'"')[::2])
    containers = bare.count(b"[") + bare.count(b"{")
    if containers > MAX_CONTAINERS or containers + bare.count(b",") + bare.count(b":") > MAX_VALUES:
        return _too_much(containers)
    if containers > MAX_DEPTH and _depth(bare) > MAX_DEPTH:
        return _TOO_DEEP
    if b"0" * (MAX_DIGITS + 1) in bare.translate(_DIGITS):
        return f"a number of more than {MAX_DIGITS} digits"
    return None


def _depth(bare: bytes) -> int:
    steps: Iterable[int] = memoryview(bare.translate(_STEPS, _NOT_BRACKETS)).cast("b")  # 255 is -1
    return max(accumulate(steps))


def _too_much(containers: int) -> str:
    if containers > MAX_CONTAINERS:
        return f"more than {MAX_CONTAINERS} lists and objects"
    return f"more than {MAX_VALUES} values"


_TOO_DEEP = f"nested deeper than {MAX_DEPTH}"


def _sizes() -> list[int]:
    """Return the size in bytes of a MessagePack value by its first byte, or 0 if that does not tell."""
    fixed = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
    fixed |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
    fixed |= dict.fromkeys((*range(128), *range(224, 256)), 1)
    fixed |= {byte: 1 + (byte & 0x1F) for byte in range(0xA0, 0xC0)}
    return [fixed.get(byte, 0) for byte in range(256)]


_SIZES = _sizes()
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
"""Size of the length field of bytes, text and extensions, by their first byte."""

_EXTENSIONS = (0xC7, 0xC8, 0xC9)

_TEXT_KEYS = frozenset((*range(0xA0, 0xC0), 0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB))
_NUMBER_KEYS = frozenset((*range(0x80), *range(0xE0, 0x100), *range(0xCC, 0xD4)))
_KEYS = _TEXT_KEYS | _NUMBER_KEYS
_NO_KEYS: frozenset[int] = frozenset()
_NEVER_USED = 0xC1
_MAPS = bytes((*range(0x80, 0x90), 0xDE, 0xDF))

_RUN = 64
_OF_SIZE = {size: bytes(byte for byte in range(256) if _SIZES[byte] == size) for size in set(_SIZES)}


def msgpack_fault(message: bytes) -> str | None:
    """Return why a MessagePack message must not be decoded, or None. A truncated message is left to the decoder."""
    if len(message) <= MAX_DEPTH and len(message.translate(None, _MAPS)) == len(message):
        return None
    place, end, sizes = 0, len(message), _SIZES
    left, keys = 1, _NO_KEYS  # remaining values at this level, and the permitted first bytes of keys if it is a map
    levels: list[tuple[int, frozenset[int]]] = []
    values = containers = 0
    while place < end:
        head = message[place]
        if keys and not left & 1 and head not in keys:
            return "a map has a key that is neither text, bytes nor, in small maps, an integer"
        left -= 1
        if size := sizes[head]:
            place += size
        elif head in _LENGTHS:
            place = _after(message, place, head)
        elif head == _NEVER_USED:
            return None  # the decoder reports it
        else:
            levels.append((left, keys))
            left, keys, place = _inside(message, place, head)
            containers, values = containers + 1, values + left
            if containers > MAX_CONTAINERS or values > MAX_VALUES:
                return _too_much(containers)
            if len(levels) > MAX_DEPTH:
                return _TOO_DEEP
            if not keys:
                left, place = _after_run(message, place, left)
        while not left:
            if not levels:
                return None
            left, keys = levels.pop()
    return None


def _after_run(message: bytes, place: int, left: int) -> tuple[int, int]:
    """Skip values of the same size at the beginning of a list, all in one step."""
    while left > _RUN and place < len(message):
        size = _SIZES[message[place]]
        heads = message[place : place + size * _RUN : size or 1]
        if not size or len(heads) < _RUN or heads.translate(None, _OF_SIZE[size]):
            break
        left, place = left - _RUN, place + size * _RUN
    return left, place


def _after(message: bytes, place: int, head: int) -> int:
    """Return where bytes, text or an extension end."""
    start = place + 1 + _LENGTHS[head]
    length = int.from_bytes(message[place + 1 : start], "big")
    return start + length + (head in _EXTENSIONS)


def _inside(message: bytes, place: int, head: int) -> tuple[int, frozenset[int], int]:
    """Return how many values a list or map has, the permitted kinds of keys, and the offset of the first value."""
    if head < 0xA0:
        count, start, is_map = head & 0xF, place + 1, head < 0x90
    else:
        start = place + (3 if head in (0xDC, 0xDE) else 5)
        count, is_map = int.from_bytes(message[place + 1 : start], "big"), head >= 0xDE
    if not is_map:
        return count, _NO_KEYS, start
    return 2 * count, _KEYS if count <= MAX_NUMBER_KEYS else _TEXT_KEYS, start
