"""Files on top of streams: what is offered and accepted, what the content looks like, and names that are safe.

    sender                                                      receiver
    stream `metered.file.1`, attributes: the offer      ->
                                                        <-      stream `metered.file.1.answer`: the acceptance
    8 bytes: where the content starts, 0 or as accepted ->
    the content from there on                           ->
    64 bytes: BLAKE2b-512 of the whole file             ->
                                                        <-      end of the answer: verified and on the disk
    end of the stream                                   ->      the receiver forgets the transfer

The acceptance names how much the receiver has, and the digest of it. Only if the file of the sender begins with the
same is the content sent from there on, so neither a damaged part nor a changed file goes unnoticed. A transfer that is
refused or fails at the receiver is a cancelled stream, with the reason as its text.
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
"""Characters of a name as it is offered. What is kept of it is less."""

MAX_NAME_BYTES = 180
"""UTF-8 bytes of a name: file systems take 255, and the part's name is 39 longer, a number in brackets 6."""

MAX_SUFFIX = 20
"""Characters of an extension that is kept when a name is cut short."""

T = TypeVar("T")

_FORBIDDEN = frozenset('<>:"|?*')

_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)]
_Attempt = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class TransferProtocolError(ValueError):
    """The other end said something about a file that makes no sense."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender says of a file. `transfer` is the same in each attempt, `attempt` never is; `mtime` in seconds."""

    transfer: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    attempt: _Attempt
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_OFFERED_NAME)]
    size: _Size
    mtime: float | None = None


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver has already: so many bytes, with this BLAKE2b-512 (hex)."""

    attempt: _Attempt
    offset: _Size
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]

    def start(self, size: int, prefix_digest: str) -> int:
        """Return where the content starts: after what the receiver has, if the file begins with just that."""
        return self.offset if self.offset <= size and self.digest == prefix_digest else 0


def parse_offer(attributes: Attributes) -> Offer:
    """Read the attributes of a stream that brings a file.

    Raises:
        TransferProtocolError: they are no offer.
    """
    return _parsed(attributes, Offer)


def parse_acceptance(attributes: Attributes) -> Acceptance:
    """Read the attributes of an answer.

    Raises:
        TransferProtocolError: they are no acceptance.
    """
    return _parsed(attributes, Acceptance)


def attributes_of(message: Offer | Acceptance) -> Attributes:
    """Return an offer or an acceptance as attributes."""
    return msgspec.structs.asdict(message)


def _parsed(attributes: Attributes, kind: type[T]) -> T:
    try:
        return msgspec.convert(attributes, kind)
    except msgspec.ValidationError as error:
        raise TransferProtocolError(f"not {kind.__name__.lower()}: {error}") from None


def transfer_id(path: str, name: str, size: int, mtime_ns: int) -> str:
    """Return the id of a transfer: the same after a restart of the sender, another one when the file was changed.

    It takes in the full path, which nobody else knows: only those who were sent the file can name its transfer.
    """
    facts = "\0".join((path, name, str(size), str(mtime_ns)))
    return blake2b(facts.encode(errors="surrogateescape"), digest_size=16).hexdigest()


# --- the content


@dataclass(frozen=True, slots=True)
class Start:
    """The content starts here."""

    offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """The next bytes of the content."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Verify:
    """The content is complete if the whole file has this BLAKE2b-512 (hex)."""

    digest: str


Step = Start | Write | Verify


def content_head(start: int) -> bytes:
    """Return what precedes the content."""
    return start.to_bytes(START_BYTES, "big")


class Content:
    """Takes what a sender sends apart, however it was cut into pieces. `offset` is what was accepted."""

    def __init__(self, size: int, offset: int) -> None:
        self._size = size
        self._offset = offset
        self._position: int | None = None
        self._held = b""
        self._is_complete = False

    def feed(self, data: bytes) -> list[Step]:
        """Take bytes and return what to do, in order.

        Raises:
            TransferProtocolError: the start is none that was accepted, or there is more than the offer said.
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
            raise TransferProtocolError(f"more than the {self._size} bytes that were offered")
        if self._is_complete or len(self._held) < DIGEST_BYTES or self._position != self._size:
            return []
        self._is_complete = True
        return [Verify(self._held.hex())]


# --- names


def safe_name(offered: str) -> str:
    """Return a name that is one plain, visible file on every system, like the offered one as far as that goes."""
    name = unicodedata.normalize("NFC", offered.replace("\\", "/").rpartition("/")[2])
    name = "".join("_" if it in _FORBIDDEN else it for it in name if not unicodedata.category(it).startswith("C"))
    name = _shortened(name.lstrip(". ").rstrip(". "))
    if is_reserved(name):
        name = f"_{name}"
    return name or "file"


def numbered(name: str, number: int) -> str:
    """Return the name for a file whose name is taken: `a.txt`, `a (2).txt`, `a (3).txt`."""
    if number == 1:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem} ({number}).{suffix}" if dot and stem else f"{name} ({number})"


def part_key(peer_id: str, transfer: str) -> str:
    """Return what tells a part from others: each remote has its own, whatever transfer it claims to go on with.

    Everybody who was sent a file knows the id of its transfer. Keys of one transfer begin alike.
    """
    owner = blake2b(peer_id.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return transfer[:SHARED_KEY_LENGTH] + owner


def part_name(name: str, key: str) -> str:
    """Return the name of a file that is not complete. Names of received files never begin with a dot."""
    return f".{name}.{key}.part"


def state_name(name: str, key: str) -> str:
    """Return the name of what is known of such a file."""
    return f".{name}.{key}.json"


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    tail = f".{suffix}" if dot and len(suffix) <= MAX_SUFFIX else ""
    stem = stem if tail else name
    room = MAX_NAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + tail
