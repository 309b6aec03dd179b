"""The memory of a decoded message. An empty list takes one byte in MessagePack and 72 in memory; text with a character
beyond the 16-bit plane takes four bytes for each of its characters."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from sys import getsizeof
from typing import Any

SMALL = 4_096
"""Bytes of a message that is not inspected: a full queue of them takes less than 128 MiB, whatever they contain."""

VALUE_SIZE = 24
"""Approximate bytes of a number or a short text, with its place in a list."""

CONTAINER_SIZE = 64
"""Approximate bytes of a list or a dict, without its items."""


def footprint(wire_size: int, values: Iterable[Any]) -> int:
    """Estimate the decoded size of a message from its size on the wire, both in bytes, and its values.

    Takes a fraction of the time of decoding it.
    """
    if wire_size <= SMALL:
        return wire_size
    count = containers = wide = 0
    level = list(values)
    while level and count <= wire_size:  # every value has at least one byte on the wire
        count += len(level)
        wide += sum(getsizeof(it) - len(it) for it in level if it.__class__ is str and not it.isascii())
        inner = list(filter(gc.is_tracked, level))
        containers += len(inner)
        level = gc.get_referents(*inner)
    return wire_size + wide + VALUE_SIZE * count + CONTAINER_SIZE * containers
