"""The file being sent: read once for all remotes, in blocks, and hashed while it is read."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path

from ..core.streams.file_transfer import transfer_id
from ..errors import FileTransferError

BLOCK = 262_144
"""Bytes read at once: large enough that the cost of a thread call does not matter."""

CACHED_BLOCKS = 32
"""Cached blocks, 8 MiB: a remote that is further behind the fastest one causes reads from disk."""


class FileSource:
    """An open file. Its methods may be called for several remotes concurrently; they run in threads."""

    def __init__(self, path: Path) -> None:
        """Open a file. Blocks.

        Raises:
            OSError: the file cannot be read, or is not a regular file.
        """
        self.name = path.name
        self.path = path.resolve()
        if not self.path.is_file():
            raise OSError(f"{path} is not a file")
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        stat = os.fstat(self._file.fileno())
        self.size = stat.st_size
        self.mtime = stat.st_mtime
        self._mtime_ns = stat.st_mtime_ns
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._hash = blake2b()
        self._hashed = 0
        self._is_closed = False

    @classmethod
    async def open(cls, path: str | Path) -> FileSource:
        """Open a file. Raises OSError as the constructor does."""
        opening = asyncio.ensure_future(asyncio.to_thread(cls, Path(path)))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

    @property
    def shown_name(self) -> str:
        """The name as valid Unicode. On POSIX names are bytes, which need not be UTF-8."""
        return self.name.encode(errors="replace").decode()

    def transfer_id(self, name: str) -> str:
        """Return the transfer id of this file when it is sent under a name."""
        return transfer_id(str(self.path), name, self.size, self._mtime_ns)

    async def read(self, offset: int) -> bytes:
        """Return the content from an offset to the end of its block. Empty at the end of the file.

        Raises:
            FileTransferError: `source_changed`, the file became shorter.
            OSError: the file cannot be read.
        """
        block = await asyncio.to_thread(self._block, offset // BLOCK)
        return block[offset % BLOCK :]

    async def digest(self, count: int) -> str:
        """Return the BLAKE2b-512 in hex of the first `count` bytes. Raises like `read`."""
        return await asyncio.to_thread(self._digest, count)

    async def check_unchanged(self) -> None:
        """Raise FileTransferError `source_changed` if the file has changed since it was opened."""
        if not await asyncio.to_thread(self._is_unchanged):
            raise FileTransferError("source_changed", self.path.name)

    async def close(self) -> None:
        """Close the file after the reads in progress."""
        await asyncio.to_thread(self._close)

    # --- in threads

    def _block(self, index: int) -> bytes:
        with self._lock:
            if index in self._blocks:
                self._blocks.move_to_end(index)
                return self._blocks[index]
            block = self._blocks[index] = self._read_block(index)
            if len(self._blocks) > CACHED_BLOCKS:
                self._blocks.popitem(last=False)
            return block

    def _read_block(self, index: int) -> bytes:
        """Read a block, and hash it if the running digest ends in it."""
        start = index * BLOCK
        block = self._read_at(start, min(BLOCK, self.size - start))
        if start <= self._hashed < start + len(block):
            self._hash.update(memoryview(block)[self._hashed - start :])
            self._hashed = start + len(block)
        return block

    def _read_at(self, start: int, count: int) -> bytes:
        if self._is_closed:
            raise FileTransferError("cancelled", "the file has been closed")
        self._file.seek(start)
        pieces = []
        while count > 0:
            piece = self._file.read(count)
            if not piece:
                raise FileTransferError("source_changed", f"{self.path.name} became shorter")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _digest(self, count: int) -> str:
        """Advance the running digest to `count` bytes, or compute a new one if it is past them."""
        while True:
            with self._lock:
                if self._hashed == count:
                    return self._hash.hexdigest()
                if self._hashed > count:
                    break
                piece = self._read_at(self._hashed, min(BLOCK, count - self._hashed))
                self._hash.update(piece)
                self._hashed += len(piece)
        return self._digest_anew(count)

    def _digest_anew(self, count: int) -> str:
        digest, done = blake2b(), 0
        while done < count:
            with self._lock:
                piece = self._read_at(done, min(BLOCK, count - done))
            digest.update(piece)
            done += len(piece)
        return digest.hexdigest()

    def _is_unchanged(self) -> bool:
        try:
            stats = os.fstat(self._file.fileno()), os.stat(self.path)
        except (OSError, ValueError):
            return False
        return all((stat.st_size, stat.st_mtime_ns) == (self.size, self._mtime_ns) for stat in stats)

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._blocks.clear()
            self._file.close()


def _close_unwanted(opening: asyncio.Future[FileSource]) -> None:
    """Close a file whose opening was cancelled: threads cannot be."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()._close()
