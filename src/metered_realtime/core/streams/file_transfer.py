"""File transfers over streams: offers and answers, the format of the content, and safe names.

    sender                                                      receiver
    stream `metered.file.1`, attributes: the offer      ->
                                                        <-      stream `metered.file.1.answer`: the acceptance
    8 bytes: offset of the content, 0 or as accepted    ->
    the content from that offset                        ->
    64 bytes: BLAKE2b-512 of the whole file             ->
                                                        <-      end of the answer: verified and on the disk
    end of the stream                                   ->      the receiver forgets the transfer

The acceptance contains how many bytes the receiver has, and their digest. The sender continues from that offset only if
its file starts with the same bytes, so a damaged part or a changed file is detected. If the receiver refuses the file
or fails, it cancels the stream with the reason as its detail.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, TypeVar

import msgspec

from ..wire.reserved_names import is_reserved
from .frames import MAX_TOTAL, Attributes

OFFER_TOPIC = "metered.file.1"
ANSWER_TOPIC = "metered.file.1.answer"

TRANSFER_ID_LENGTH = 32
PART_KEY_LENGTH = 32
SHARED_KEY_LENGTH = 16
DIGEST_BYTES = 64
START_BYTES = 8

MAX_OFFERED_NAME = 1024
"""Maximum characters of an offered name, before it is shortened."""

MAX_NAME_BYTES = 180
"""Maximum UTF-8 bytes of a name. File systems allow 255; the name of the part is 39 longer, and a number adds 6."""

MAX_SUFFIX = 20
"""Maximum characters of an extension that is kept when a name is shortened."""

T = TypeVar("T")

_FORBIDDEN = frozenset('<>:"|?*')

_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)]
_Attempt = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class TransferProtocolError(ValueError):
    """The other end violated the protocol of file transfers."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """The offer of a file. `transfer` is the same in every attempt, `attempt` differs. `mtime` is in POSIX seconds."""

    transfer: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    attempt: _Attempt
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_OFFERED_NAME)]
    size: _Size
    mtime: float | None = None


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an offer: the receiver has `offset` bytes, with this BLAKE2b-512 in hex."""

    attempt: _Attempt
    offset: _Size
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]

    def start(self, size: int, prefix_digest: str) -> int:
        """Return the offset to send from: that of the receiver if its bytes match the file, otherwise 0."""
        return self.offset if self.offset <= size and self.digest == prefix_digest else 0


def parse_offer(attributes: Attributes) -> Offer:
    """Parse the attributes of a stream that carries a file.

    Raises:
        TransferProtocolError: they are not an offer.
    """
    return _parsed(attributes, Offer)


def parse_acceptance(attributes: Attributes) -> Acceptance:
    """Parse the attributes of an answer.

    Raises:
        TransferProtocolError: they are not an acceptance.
    """
    return _parsed(attributes, Acceptance)


def attributes_of(message: Offer | Acceptance) -> Attributes:
    """Return an offer or an acceptance as stream attributes."""
    return msgspec.structs.asdict(message)


def _parsed(attributes: Attributes, kind: type[T]) -> T:
    try:
        return msgspec.convert(attributes, kind)
    except msgspec.ValidationError as error:
        raise TransferProtocolError(f"invalid {kind.__name__.lower()}: {error}") from None


def transfer_id(path: str, name: str, size: int, mtime_ns: int) -> str:
    """Return the id of a transfer: the same after a restart of the sender, another one after a change of the file.

    It depends on the full path, which is unknown elsewhere: only remotes that were offered the file know the id.
    """
    facts = "\0".join((path, name, str(size), str(mtime_ns)))
    return blake2b(facts.encode(errors="surrogateescape"), digest_size=16).hexdigest()


# --- the content


@dataclass(frozen=True, slots=True)
class Start:
    """The content starts at this offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """The next bytes of the content."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Verify:
    """The content is complete; the whole file has this BLAKE2b-512 in hex."""

    digest: str


Step = Start | Write | Verify


def content_head(start: int) -> bytes:
    """Encode the offset that precedes the content."""
    return start.to_bytes(START_BYTES, "big")


class Content:
    """Parses the content of a transfer, received in pieces of any size. `offset` is the one that was accepted."""

    def __init__(self, size: int, offset: int) -> None:
        self._size = size
        self._offset = offset
        self._position: int | None = None
        self._held = b""
        self._is_complete = False

    def feed(self, data: bytes) -> list[Step]:
        """Parse further bytes. Return the steps to perform, in order.

        Raises:
            TransferProtocolError: the content starts at another offset, or is longer than offered.
        """
        steps: list[Step] = []
        if self._position is None:
            data = self._held + data
            self._held = data
            if len(data) < START_BYTES:
                return steps
            steps.append(self._start(int.from_bytes(data[:START_BYTES], "big")))
            self._held, data = b"", data[START_BYTES:]
        assert self._position is not None
        content = data[: self._size - self._position]
        if content:
            self._position += len(content)
            steps.append(Write(content))
        return steps + self._trailer(data[len(content) :])

    def _start(self, start: int) -> Start:
        if start not in (0, self._offset):
            raise TransferProtocolError(f"the content starts at {start}, not at 0 or {self._offset}")
        self._position = start
        return Start(start)

    def _trailer(self, data: bytes) -> list[Step]:
        self._held += data
        if len(self._held) > DIGEST_BYTES or (self._is_complete and data):
            raise TransferProtocolError(f"the content exceeds the {self._size} bytes offered")
        if self._is_complete or len(self._held) < DIGEST_BYTES or self._position != self._size:
            return []
        self._is_complete = True
        return [Verify(self._held.hex())]


# --- names


def safe_name(offered: str) -> str:
    """Return a name that is valid and visible on every system and as similar as possible to the offered one."""
    name = unicodedata.normalize("NFC", offered.replace("\\", "/").rpartition("/")[2])
    name = "".join("_" if it in _FORBIDDEN else it for it in name if not unicodedata.category(it).startswith("C"))
    name = _shortened(name.lstrip(". ").rstrip(". "))
    if is_reserved(name):
        name = f"_{name}"
    return name or "file"


def numbered(name: str, number: int) -> str:
    """Return the name of the file with a number: `a.txt`, `a (2).txt`, `a (3).txt`."""
    if number == 1:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem} ({number}).{suffix}" if dot and stem else f"{name} ({number})"


def part_key(peer_id: str, transfer: str) -> str:
    """Return the key of a part, which depends on the remote and on the transfer.

    Every remote that was offered a file knows its transfer id, and must not write to the part of another remote. The
    keys of one transfer have a common prefix.
    """
    owner = blake2b(peer_id.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return transfer[:SHARED_KEY_LENGTH] + owner


def part_name(name: str, key: str) -> str:
    """Return the file name of a part. Names of received files never start with a dot."""
    return f".{name}.{key}.part"


def state_name(name: str, key: str) -> str:
    """Return the file name of the state of a part."""
    return f".{name}.{key}.json"


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    tail = f".{suffix}" if dot and len(suffix) <= MAX_SUFFIX else ""
    stem = stem if tail else name
    room = MAX_NAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + tail
