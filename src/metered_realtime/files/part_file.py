"""A file that is being received: its part on the disk, what is known of it, and its way to its final name.

Everything here blocks and is called in threads. What has been written survives the death of the program; what has
been synced survives that of the machine, and the sender checks either before it goes on.
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
"""Bytes that are hashed at once."""

SYNC_BYTES = 32 * 1024 * 1024
"""What may be lost with the machine's power: a sync costs tens of milliseconds."""

MAX_PARTS = 64
PART_LIFETIME = 7 * 24 * 3600.0
"""Parts that nobody came back for: the oldest go when there are more, all go after a week."""

MAX_SAME_NAMES = 10_000
"""Files of one name in a directory. Beyond that somebody fills it on purpose."""

MAX_STATE_BYTES = 16_384


class PartState(msgspec.Struct, kw_only=True):
    """What lies beside a part. `final` is the name under which a complete file was stored."""

    transfer: str
    name: str
    size: int
    final: str | None = None
    digest: str | None = None


class PartFile:
    """The part of one transfer from one remote, from `open` on. `offset` is how much there is, `digest()` its
    BLAKE2b-512. No other remote reaches it; one that goes on with the same transfer gets a copy of its own.

    `close` may come at any time, from another thread: it ends `open`, and nothing is opened after it.
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
        """Find out what there is.

        Raises:
            OSError: the part cannot be read or made.
            FileTransferError: `cancelled`, it was closed meanwhile.
        """
        with self._lock:
            self._stored = self._find_stored()
            if self._stored is None:
                self._open()
                self._write_state(PartState(transfer=self._offer.transfer, name=self._name, size=self._offer.size))
            else:
                self._hash_prefix(self._stored)

    def copy_others(self) -> None:
        """Begin with a copy of what another remote has sent of the same transfer, if there is nothing yet.

        A sender that is started again may have another id. Its file is compared with the copy, as with any part.
        """
        with self._lock:
            if self.offset or self._stored is not None:
                return
            found = [path for path in map(self._content_of, self._other_states()) if path is not None]
            for path in sorted(found, key=lambda it: -it.stat().st_size)[:1]:
                self._copy(path)

    def digest(self) -> str:
        """Return the digest of what there is, in hex."""
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Drop what there is: the sender's file begins differently."""
        with self._lock:
            if self._stored is not None:
                self._stored = None  # that one is the user's; another one is coming
                self._open()
            os.ftruncate(self._open_file(), 0)
            os.lseek(self._open_file(), 0, os.SEEK_SET)
            self._hash, self.offset = blake2b(), 0

    def write(self, data: bytes) -> None:
        """Append."""
        with self._lock:
            self._write(data)

    def finish(self, digest: str) -> Path:
        """Check the whole and give it its name.

        Raises:
            FileTransferError: `digest_mismatch`; the part is gone.
        """
        with self._lock:
            if self.offset != self._offer.size or self._hash.hexdigest() != digest:
                self._discard()
                raise FileTransferError("digest_mismatch", self._name)
            if self._stored is None:
                self._stored = self._store(digest)
            return self._stored

    def forget(self) -> None:
        """Remove what is known of the transfer: the sender knows that it is complete."""
        self._state_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, after what is being written. Idempotent."""
        self._is_closed = True  # before there is the lock, which hashing a large part would keep for long
        with self._lock:
            self._close()

    # --- inside

    def _find_stored(self) -> Path | None:
        """Return the complete file, if the sender may not know yet that it arrived."""
        if self._path.exists():
            return None
        path = self._content_of(self._state_path)
        return path if path is not None and path.stat().st_size == self._offer.size else None

    def _content_of(self, state_path: Path) -> Path | None:
        """Return the file that a state tells of, if it has to do with this transfer: the part, or the complete one."""
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
        """Sync, take a free name, note it, move. After a crash in between the part is complete, and is used again."""
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
    """Remove what is left of transfers that nobody came back for. `active` has the keys of parts to keep."""
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
    """Return the seconds since the newest of these was written. What cannot be asked counts as new."""
    with contextlib.suppress(OSError):
        return time.time() - max(path.stat().st_mtime for path in paths)
    return 0.0


def _free_path(directory: Path, name: str) -> Path:
    """Return a path that was free, with an empty file in its place so that it is nobody else's."""
    number = 0
    while (number := _free_number(directory, name, number)) < MAX_SAME_NAMES:
        path = directory / numbered(name, number)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue  # taken meanwhile
        return path
    raise FileTransferError("disk_error", f"{MAX_SAME_NAMES} files are called {name}")


def _free_number(directory: Path, name: str, after: int) -> int:
    """Return a number under which no file is found: by leaps, for a remote may send thousands of one name."""
    taken, leap = after, 1
    while os.path.lexists(directory / numbered(name, taken + leap)):
        taken, leap = taken + leap, 2 * leap
    free = taken + leap
    while free - taken > 1:
        middle = (free + taken) // 2
        taken, free = (middle, free) if os.path.lexists(directory / numbered(name, middle)) else (taken, middle)
    return free


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every system opens directories
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
