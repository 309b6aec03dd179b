"""The file being received: its part on disk, the state of the part, and the move to the final name.

Everything here blocks and is called in threads. Written content survives a crash of the program; synced content
survives a crash of the machine. The sender verifies both before it continues.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..core.streams.file_transfer import (
    PART_KEY_LENGTH,
    SHARED_KEY_LENGTH,
    Offer,
    numbered,
    part_key,
    part_name,
    state_name,
)
from ..errors import FileTransferError

READ_BLOCK = 1024 * 1024
"""Bytes hashed at once."""

SYNC_BYTES = 32 * 1024 * 1024
"""Unsynced bytes, which a power failure may lose: a sync takes tens of milliseconds."""

MAX_PARTS = 64
PART_LIFETIME = 7 * 24 * 3600.0
"""Number and age in seconds of abandoned parts: the oldest are removed beyond the number, all of them after a week."""

MAX_SAME_NAMES = 10_000
"""Maximum files of one name in a directory. More indicate an attack."""

MAX_STATE_BYTES = 16_384


class PartState(msgspec.Struct, kw_only=True):
    """The state file of a part. `final` is the name under which the complete file was stored."""

    transfer: str
    name: str
    size: int
    final: str | None = None
    digest: str | None = None


class PartFile:
    """The part of one transfer from one remote. `offset` is its length in bytes once it is open.

    No other remote can write to it; one that continues the same transfer gets a copy of its own. `close` may be called
    at any time from another thread: it interrupts `open`, and no file is opened after it.
    """

    def __init__(self, directory: Path, name: str, offer: Offer, peer_id: str) -> None:
        self.offset = 0
        self._directory = directory
        self._offer = offer
        self._name = name
        key = part_key(peer_id, offer.transfer)
        self._path = directory / part_name(name, key)
        self._state_path = directory / state_name(name, key)
        self._lock = threading.Lock()
        self._hash = blake2b()
        self._unsynced = 0
        self._file: int | None = None
        self._is_closed = False
        self._stored: Path | None = None

    def open(self) -> None:
        """Open or create the part, and hash its content.

        Raises:
            OSError: the part cannot be read or created.
            FileTransferError: `cancelled`, the part was closed in the meantime.
        """
        with self._lock:
            self._stored = self._find_stored()
            if self._stored is None:
                self._open()
                self._write_state(PartState(transfer=self._offer.transfer, name=self._name, size=self._offer.size))
            else:
                self._hash_prefix(self._stored)

    def copy_others(self) -> None:
        """Start with a copy of the part of another remote with the same transfer, if this one is empty.

        A restarted sender may have another peer id. It verifies the copy like any part.
        """
        with self._lock:
            if self.offset or self._stored is not None:
                return
            found = [path for path in map(self._content_of, self._other_states()) if path is not None]
            for path in sorted(found, key=lambda it: -it.stat().st_size)[:1]:
                self._copy(path)

    def digest(self) -> str:
        """Return the BLAKE2b-512 of the content so far, in hex."""
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Discard the content, because the file of the sender starts differently."""
        with self._lock:
            if self._stored is not None:
                self._stored = None  # the stored file belongs to the user; a new part is written
                self._open()
            os.ftruncate(self._open_file(), 0)
            os.lseek(self._open_file(), 0, os.SEEK_SET)
            self._hash, self.offset = blake2b(), 0

    def write(self, data: bytes) -> None:
        """Append content."""
        with self._lock:
            self._write(data)

    def finish(self, digest: str) -> Path:
        """Verify the complete file and move it to its final name. Return the path.

        Raises:
            FileTransferError: `digest_mismatch`; the part has been removed.
        """
        with self._lock:
            if self.offset != self._offer.size or self._hash.hexdigest() != digest:
                self._discard()
                raise FileTransferError("digest_mismatch", self._name)
            if self._stored is None:
                self._stored = self._store(digest)
            return self._stored

    def forget(self) -> None:
        """Remove the state of the transfer: the sender knows that it is complete."""
        self._state_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file after the write in progress. Idempotent."""
        self._is_closed = True  # set without the lock, which is held while a large part is hashed
        with self._lock:
            self._close()

    # --- inside

    def _find_stored(self) -> Path | None:
        """Return the complete file, if it was stored before but the sender may not know it."""
        if self._path.exists():
            return None
        path = self._content_of(self._state_path)
        return path if path is not None and path.stat().st_size == self._offer.size else None

    def _content_of(self, state_path: Path) -> Path | None:
        """Return the file of a state, a part or a complete file. None if it belongs to another transfer."""
        try:
            with open(state_path, "rb") as file:
                state = msgspec.json.decode(file.read(MAX_STATE_BYTES), type=PartState)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        path = state_path.with_suffix(".part") if state.final is None else self._directory / state.final
        is_ours = state.transfer == self._offer.transfer and path.parent == self._directory
        return path if is_ours and path.is_file() and not path.is_symlink() else None

    def _other_states(self) -> list[Path]:
        shared = state_name(self._name, self._offer.transfer[:SHARED_KEY_LENGTH]).removesuffix(".json")
        return [
            path
            for path in self._directory.glob(".*.json")
            if path.name.startswith(shared) and path != self._state_path
        ]

    def _copy(self, path: Path) -> None:
        with open(path, "rb") as file:
            while piece := file.read(min(READ_BLOCK, self._offer.size - self.offset)):
                self._write(piece)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._open_file(), view) :]
        self._hash.update(data)
        self.offset += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            os.fsync(self._open_file())
            self._unsynced = 0

    def _open(self) -> None:
        self._check_open()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self._path, flags, 0o644)
        self._hash_prefix(self._path)
        if self.offset > self._offer.size:
            os.ftruncate(self._file, 0)
            self._hash, self.offset = blake2b(), 0
        os.lseek(self._file, self.offset, os.SEEK_SET)

    def _hash_prefix(self, path: Path) -> None:
        self._hash, self.offset = blake2b(), 0
        with open(path, "rb") as file:
            while piece := file.read(READ_BLOCK):
                self._check_open()
                self._hash.update(piece)
                self.offset += len(piece)

    def _open_file(self) -> int:
        self._check_open()
        assert self._file is not None
        return self._file

    def _check_open(self) -> None:
        if self._is_closed:
            raise FileTransferError("cancelled", "the part has been closed")

    def _store(self, digest: str) -> Path:
        """Sync, choose a free name, record it, move. After a crash in between, the complete part is used again."""
        os.fsync(self._open_file())
        self._close()
        target = _free_path(self._directory, self._name)
        state = PartState(
            transfer=self._offer.transfer, name=self._name, size=self._offer.size, final=target.name, digest=digest
        )
        self._write_state(state)
        os.replace(self._path, target)
        _sync_directory(self._directory)
        return target

    def _write_state(self, state: PartState) -> None:
        temporary = self._state_path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(state))
        os.replace(temporary, self._state_path)

    def _discard(self) -> None:
        self._close()
        self._path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def prune_parts(directory: Path, active: set[str]) -> None:
    """Remove the parts and states of abandoned transfers. `active` contains the keys of parts to keep."""
    by_key: dict[str, list[Path]] = {}
    for path in (*directory.glob(".*.part"), *directory.glob(".*.json")):
        key = path.stem.rpartition(".")[2]
        if len(key) == PART_KEY_LENGTH and key not in active:
            by_key.setdefault(key, []).append(path)
    left = sorted(by_key.values(), key=_age)
    for paths in left:
        if _age(paths) > PART_LIFETIME or paths in left[MAX_PARTS:]:
            for path in paths:
                path.unlink(missing_ok=True)


def _age(paths: list[Path]) -> float:
    """Return the seconds since the last write to any of these files. 0 if they cannot be examined."""
    with contextlib.suppress(OSError):
        return time.time() - max(path.stat().st_mtime for path in paths)
    return 0.0


def _free_path(directory: Path, name: str) -> Path:
    """Return a free path, reserved with an empty file.

    Raises:
        FileTransferError: `disk_error`, there are too many files with this name.
    """
    number = 0
    while (number := _free_number(directory, name, number)) < MAX_SAME_NAMES:
        path = directory / numbered(name, number)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue  # taken in the meantime
        return path
    raise FileTransferError("disk_error", f"{MAX_SAME_NAMES} files are named {name}")


def _free_number(directory: Path, name: str, after: int) -> int:
    """Return a number above `after` that is free, in few steps: a remote may send thousands of files of one name."""
    taken, leap = after, 1
    while os.path.lexists(directory / numbered(name, taken + leap)):
        taken, leap = taken + leap, 2 * leap
    free = taken + leap
    while free - taken > 1:
        middle = (free + taken) // 2
        taken, free = (middle, free) if os.path.lexists(directory / numbered(name, middle)) else (taken, middle)
    return free


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can open directories
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
