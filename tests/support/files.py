"""What the tests of file transfers share: looking at directories, and sending by hand."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from metered_realtime import RemotePeer
from metered_realtime.core.streams.file_transfer import OFFER_TOPIC, Offer, attributes_of, content_head
from metered_realtime.files.source import FileSource
from metered_realtime.streams.writer import StreamWriter

SIZE = 3_000_000
"""Bytes of the file that tests send."""

SMALL_OFFER = Offer(transfer="a" * 32, attempt="b" * 16, name="x", size=4)
"""An offer of a file that does not exist, for a sender that violates the protocol."""


def names(directory: Path) -> list[str]:
    """Return the names of all files in a directory, with parts and states."""
    return sorted(path.name for path in directory.iterdir())


def visible_names(directory: Path) -> list[str]:
    """Return the names of the complete files in a directory."""
    return [name for name in names(directory) if not name.startswith(".")]


def part_in(directory: Path) -> Path:
    """Return the only part in a directory."""
    (part,) = directory.glob(".*.part")
    return part


def same(one: Path, other: Path) -> bool:
    """Return whether two files have the same content."""
    return one.read_bytes() == other.read_bytes()


def digest(path: Path) -> str:
    """Return the digest of a file as events and results have it."""
    return blake2b(path.read_bytes()).hexdigest()


async def offer_of(path: Path) -> Offer:
    """Return the offer of a file, which every remote knows that was sent it."""
    source = await FileSource.open(path)
    await source.close()
    return Offer(transfer=source.transfer_id(source.name), attempt="b" * 16, name=source.name, size=source.size)


async def offered(remote: RemotePeer, offer: Offer) -> StreamWriter:
    """Open the stream of an offer, without waiting for an answer."""
    return await remote.open_stream(OFFER_TOPIC, attributes_of(offer)).__aenter__()


async def begin(remote: RemotePeer, offer: Offer, content: bytes = b"") -> StreamWriter:
    """Offer a file and send the beginning of its content, which need not be that of the file."""
    writer = await offered(remote, offer)
    await writer.write(content_head(0) + content)
    return writer
