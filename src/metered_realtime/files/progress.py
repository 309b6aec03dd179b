"""What a program learns of a file on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Progress of one file: `done` of `size` bytes are handed over or stored. It falls when an attempt is lost."""

    peer_id: str
    name: str
    done: int
    size: int


@dataclass(frozen=True, slots=True)
class TransferResult:
    """A file that arrived. `sent` counts the bytes of content over all `attempts`; those above `size` went twice.

    `sent` is below `size` if the remote had a part of the file from before. `digest` is BLAKE2b-512 in hex.
    """

    peer_id: str
    name: str
    size: int
    digest: str
    sent: int
    attempts: int
    seconds: float


ProgressFn = Callable[[TransferProgress], object]
