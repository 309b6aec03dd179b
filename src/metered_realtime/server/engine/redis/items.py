"""What nodes hear through Redis: items of channels and peers, and lists of strings in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from msgspec import Raw

from ..contract import Envelope, Member

FIELDS = 8
"""Number of fields before the tail. They contain no NUL, since no name does."""

MAX_MEMBERS = 1_000_000
"""Maximum number of peers that an item names: more than a node can hold."""


Presence: TypeAlias = tuple[tuple[Member, ...], tuple[Member, ...]]
"""Who came, and who went. Those who went have no metadata."""

Content: TypeAlias = Envelope | Presence | tuple[str, ...]


class Item(NamedTuple):
    """A change of a channel or a peer, as its nodes hear it.

    `kind` is `m` message, `p` presence, `c` a mark in a channel; `d` direct, `q` a mark of a peer, `r` replaced
    connections, `x` a kick. `node` and `request` name the request that caused it. Messages, directs and presence move
    `seq` on by one; a mark has that of the state in which it stands.
    """

    kind: str
    app: str
    name: str
    epoch: str
    seq: int
    offset: int
    node: str
    request: int
    content: Content


COUNTED = frozenset("mpd")
"""The kinds that move `seq` on."""


def parse_item(raw: bytes) -> Item:
    """Return an item from the text that a script has made.

    Raises:
        ValueError: it is none.
    """
    fields = raw.split(b"\0", FIELDS)
    if len(fields) != FIELDS + 1:
        raise ValueError("an item has too few fields")
    kind, app, name, epoch, seq, offset, node, request, tail = fields
    return Item(
        kind.decode(),
        app.decode(),
        name.decode(),
        epoch.decode(),
        int(seq),
        int(offset),
        node.decode(),
        int(request),
        _content(kind, tail),
    )


def _content(kind: bytes, tail: bytes) -> Content:
    if kind in (b"m", b"d"):
        return unpack_envelope(tail)
    if kind == b"p":
        return unpack_presence(tail)
    return tuple(part.decode() for part in unpack(tail))


def pack(parts: Iterable[bytes]) -> bytes:
    """Return strings as one: each with its length in front."""
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def unpack(raw: bytes) -> list[bytes]:
    """Return the strings of `pack`.

    Raises:
        ValueError: the text is no such list.
    """
    parts, at, end = [], 0, len(raw)
    while at < end:
        colon = raw.index(b":", at)
        length = int(raw[at:colon])
        at = colon + 1 + length
        if length < 0 or at > end:
            raise ValueError("a string is cut off")
        parts.append(raw[colon + 1 : at])
    return parts


def pack_raw(value: Raw | None) -> bytes:
    """Return JSON, or nothing if there is none: no JSON is empty."""
    return b"" if value is None else bytes(memoryview(value))


def unpack_raw(value: bytes) -> Raw | None:
    """Return the argument of `pack_raw`."""
    return Raw(value) if value else None


def pack_envelope(envelope: Envelope) -> bytes:
    """Return a message as it is kept and published."""
    return pack((envelope.sender.encode(), pack_raw(envelope.data), pack_raw(envelope.metadata)))


def unpack_envelope(raw: bytes) -> Envelope:
    """Return the argument of `pack_envelope`.

    Raises:
        ValueError: the text is no message.
    """
    sender, data, metadata = unpack(raw)
    return Envelope(sender.decode(), Raw(data), unpack_raw(metadata))


def unpack_presence(raw: bytes) -> Presence:
    """Return a change of presence from a list: the number of those who came, they, and those who went.

    Raises:
        ValueError: the text is no change of presence.
    """
    count, *parts = unpack(raw)
    joined = int(count)
    if not 0 <= joined <= MAX_MEMBERS or len(parts) % 2 or len(parts) < joined * 2:
        raise ValueError("a change of presence is cut off")
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    return (
        tuple(Member(peer.decode(), unpack_raw(metadata)) for peer, metadata in pairs[:joined]),
        tuple(Member(peer.decode(), expelled=flag == b"1") for peer, flag in pairs[joined:]),
    )
