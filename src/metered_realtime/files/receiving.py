"""Receives files from all remotes of a peer into one directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import shutil
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.streams import file_transfer as core
from ..emitter import EventStream
from ..errors import FileTransferError, MeteredRealtimeError, StreamEndedError
from ..events import Event, FileFailed, FileOffered, FileReceived
from ..log import Logger, log_exception
from ..streams.reader import StreamReader
from ..streams.writer import StreamWriter
from .part_file import PartFile, prune_parts
from .progress import ProgressFn, TransferProgress

if TYPE_CHECKING:
    from ..events.peers import RemotePeer

MAX_FILE_SIZE = 16 * 1024**3
"""Default maximum size of a file in bytes: enough for a film, and a disk does not fill up unnoticed."""

FREE_RESERVE = 256 * 1024 * 1024
"""Bytes of the disk that are never used."""

MAX_INCOMING = 32
"""Maximum concurrent files from all remotes. Senders of further files wait."""

MAX_INCOMING_OF_ONE = 8
"""Maximum concurrent files from one remote, so that it cannot occupy every place with stalled ones."""

STALLED = 10.0
"""Seconds without progress after which an attempt is replaced by the next one of the same file. A dead path is detected
after 6 s, so its sender has given it up."""

MIN_PROGRESS = 16_384
"""Bytes that count as progress. A file with less in `STALLED` seconds loses its place when all are occupied."""

MAX_OPENING = 2
"""Maximum parts hashed or copied at once: the executor of the event loop has few threads."""

PRUNE_EVERY = 32
"""Files between two searches for abandoned parts, whose cost grows with the number of files."""

SMALL_READ = 65_536
SMALL_PAUSE = 0.01
"""Seconds to wait for more content after a read of fewer bytes: each write costs a thread call and a progress call."""

MAX_ACCEPTED = 1024
"""Maximum accepted transfers that are remembered, so that `accept` is not called again when they continue."""

WRITE_BLOCK = 262_144
WIDER_WINDOW = 786_432
"""Bytes added to the window of a stream, 1 MiB in total, which is also the maximum loss of one reset."""

FAREWELL = 0.5
"""Seconds that `close` waits until senders know that their files are stored. Other senders ask again."""

_Key = tuple[str, str]
"""Peer id and transfer id. The transfer id alone is known to every remote that was offered the file."""

AcceptFn = Callable[[FileOffered], "bool | Awaitable[bool]"]


@dataclass(slots=True)
class _Incoming:
    """A file being received.

    `moved` is the time of the last progress, to `position`; `missing` are the bytes that have not arrived. `is_open`
    while it waits for its sender, and not for the program or the disk.
    """

    reader: StreamReader
    task: asyncio.Task[None]
    moved: float
    position: int = 0
    has_begun: bool = False
    is_open: bool = False
    missing: int = 0

    def note(self, position: int, now: float) -> None:
        """Record progress. Fewer than `MIN_PROGRESS` bytes are none."""
        if abs(position - self.position) >= MIN_PROGRESS:
            self.position, self.moved = position, now


class ReceiverOwner(Protocol):
    """What a receiver needs of the peer that made it."""

    @property
    def logger(self) -> Logger: ...
    def emit(self, event: Event) -> None: ...
    def stop_receiving(self, receiver: FileReceiver) -> None:
        """Refuse files from now on."""


class FileReceiver:
    """Receives files until it is closed. Made by `MeteredPeer.receive_files`.

    `async for` yields a `FileReceived` for each file stored since. Use it with `async with`, or call `close`; closing
    the peer closes it too.
    """

    def __init__(
        self,
        owner: ReceiverOwner,
        directory: Path,
        accept: AcceptFn | None,
        max_size: int,
        progress: ProgressFn | None,
        received: EventStream[FileReceived],
    ) -> None:
        self.directory = directory
        self._owner = owner
        self._accept = accept
        self._max_size = max_size
        self._progress = progress
        self._received = received
        self.refused = 0
        """Offers that were deferred because every place was occupied."""
        self._active: dict[_Key, _Incoming] = {}
        self._sharing_room = threading.Lock()
        self._accepted: OrderedDict[_Key, None] = OrderedDict()
        self._opening = asyncio.Semaphore(MAX_OPENING)
        self._opened = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stored: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FileReceiver:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> FileReceiver:
        return self

    async def __anext__(self) -> FileReceived:
        return await self._received.__anext__()

    async def close(self) -> None:
        """Stop receiving. Parts are kept for later transfers. Idempotent."""
        self._owner.stop_receiving(self)
        self._received.close()
        for task in self._tasks - self._stored:
            task.cancel()
        if self._stored:
            await asyncio.wait(self._stored, timeout=FAREWELL)
        for task in self._stored:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def receive_offer(self, remote: RemotePeer, reader: StreamReader) -> None:
        """Start to receive the file that a remote offers with a stream."""
        try:
            offer = core.parse_offer(reader.attributes)
        except core.TransferProtocolError:
            reader.cancel("protocol_error")
            return
        if not self._has_room(remote, offer):
            self.refused += 1
            reader.cancel("busy")
            return
        key = remote.id, offer.transfer
        task = asyncio.ensure_future(self._receive(remote, reader, offer))
        self._active[key] = _Incoming(reader, task, asyncio.get_running_loop().time())
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, reader, key))

    # --- inside

    def _has_room(self, remote: RemotePeer, offer: core.Offer) -> bool:
        """Return whether another file is accepted now. End a stalled attempt of the same file."""
        same = self._active.get((remote.id, offer.transfer))
        if same is not None:
            if asyncio.get_running_loop().time() - same.moved >= STALLED:
                same.task.cancel()
            return False
        if sum(peer_id == remote.id for peer_id, _ in self._active) >= MAX_INCOMING_OF_ONE:
            return False
        if len(self._active) >= MAX_INCOMING:
            self._end_slowest()
        return len(self._active) < MAX_INCOMING

    def _end_slowest(self) -> None:
        """Defer the slowest file if it has stalled, because other files wait for its place."""
        slowest = min((it for it in self._active.values() if it.is_open), key=lambda it: it.moved, default=None)
        if slowest is not None and asyncio.get_running_loop().time() - slowest.moved >= STALLED:
            slowest.reader.cancel("busy")
            slowest.task.cancel()

    def _done(self, reader: StreamReader, key: _Key, task: asyncio.Task[None]) -> None:
        """Release a transfer. A task cancelled before its first step has not cancelled its stream itself."""
        self._tasks.discard(task)
        self._stored.discard(task)
        if not self._active.pop(key).has_begun:
            reader.cancel("not_receiving")

    async def _receive(self, remote: RemotePeer, reader: StreamReader, offer: core.Offer) -> None:
        self._active[remote.id, offer.transfer].has_begun = True
        name = core.safe_name(offer.name)
        try:
            with _failing(reader):
                await self._check(FileOffered(remote, name, offer.size, offer.mtime), offer)
                await self._store(remote, reader, offer, name)
        except Exception as error:  # callbacks of the program may raise anything
            if not isinstance(error, MeteredRealtimeError | core.TransferProtocolError | OSError):
                log_exception(self._owner.logger, "receiving a file failed", error, {"name": name})
            self._emit(remote, FileFailed(remote, name, _failure(error)))

    async def _check(self, offered: FileOffered, offer: core.Offer) -> None:
        """Raise FileTransferError if the file is too large or refused by the program."""
        if offer.size > self._max_size:
            raise FileTransferError("too_large", f"{offer.size} bytes")
        key = offered.peer.id, offer.transfer
        if key not in self._accepted:
            self._emit(offered.peer, offered)
            if not await self._is_accepted(offered):
                raise FileTransferError("refused")
            self._accepted[key] = None
            if len(self._accepted) > MAX_ACCEPTED:
                self._accepted.popitem(last=False)

    async def _is_accepted(self, offered: FileOffered) -> bool:
        answer = self._accept(offered) if self._accept is not None else True
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def _store(self, remote: RemotePeer, reader: StreamReader, offer: core.Offer, name: str) -> None:
        part = PartFile(self.directory, name, offer, remote.id)
        incoming = self._active[remote.id, offer.transfer]
        try:
            async with self._opening:
                await asyncio.to_thread(self._open_part, part, offer, incoming)
            acceptance = core.Acceptance(attempt=offer.attempt, offset=part.offset, digest=part.digest())
            answer = remote.open_stream(core.ANSWER_TOPIC, core.attributes_of(acceptance))
            with _failing(reader, answer):
                await answer.__aenter__()
                incoming.is_open, incoming.moved = True, asyncio.get_running_loop().time()
                digest = await self._store_content(remote, reader, offer, part)
                path = await asyncio.to_thread(part.finish, digest)
            self._note_stored()
            self._emit(remote, FileReceived(remote, path, offer.size, digest))
            with contextlib.suppress(MeteredRealtimeError):  # otherwise the sender asks again, and learns it then
                await answer.finish()
                await _until_end(reader)
                await asyncio.to_thread(part.forget)
        finally:
            await asyncio.shield(asyncio.to_thread(part.close))

    def _note_stored(self) -> None:
        task = asyncio.current_task()
        if task in self._tasks:
            self._stored.add(task)

    def _open_part(self, part: PartFile, offer: core.Offer, incoming: _Incoming) -> None:
        """Open a part if the disk has room for it and for the rest of all other files. Blocks."""
        if self._opened % PRUNE_EVERY == 0:
            prune_parts(self.directory, {core.part_key(*key) for key in tuple(self._active)})
        self._opened += 1
        part.open()
        missing = offer.size - part.offset
        with self._sharing_room:  # if two files do not both fit, the first one is accepted
            elsewhere = sum(it.missing for it in tuple(self._active.values()))
            if missing + elsewhere > shutil.disk_usage(self.directory).free - FREE_RESERVE:
                raise FileTransferError("no_space", f"{offer.size} bytes")
            incoming.missing = missing
        part.copy_others()
        incoming.missing, incoming.position = offer.size - part.offset, part.offset

    async def _store_content(self, remote: RemotePeer, reader: StreamReader, offer: core.Offer, part: PartFile) -> str:
        """Store the content. Return the digest of the file as the sender computed it."""
        reader.widen(WIDER_WINDOW)
        content = core.Content(offer.size, part.offset)
        while True:
            data = await reader.read(WRITE_BLOCK)
            if not isinstance(data, bytes) or not data:
                raise core.TransferProtocolError("the content is incomplete")
            for step in content.feed(data):
                match step:
                    case core.Start(0) if part.offset:
                        await asyncio.to_thread(part.restart)
                    case core.Write(piece):
                        await asyncio.to_thread(part.write, piece)
                        self._show(remote, offer, part)
                        if len(piece) < SMALL_READ and part.offset < offer.size:
                            await asyncio.sleep(SMALL_PAUSE)
                    case core.Verify(digest):
                        return digest

    def _show(self, remote: RemotePeer, offer: core.Offer, part: PartFile) -> None:
        incoming = self._active[remote.id, offer.transfer]
        incoming.note(part.offset, asyncio.get_running_loop().time())
        incoming.missing = offer.size - part.offset
        if self._progress is not None:
            self._progress(TransferProgress(remote.id, core.safe_name(offer.name), part.offset, offer.size))

    def _emit(self, remote: RemotePeer, event: Event) -> None:
        remote.emit(event)
        self._owner.emit(event)


@contextlib.contextmanager
def _failing(reader: StreamReader, answer: StreamWriter | None = None) -> Iterator[None]:
    """Cancel the streams with the reason of a failure."""
    try:
        yield
    except BaseException as error:
        failure = _failure(error)
        reader.cancel(failure.reason if isinstance(failure, FileTransferError) else "cancelled")
        if answer is not None:
            answer.abort()
        raise


def _failure(error: BaseException) -> Exception:
    """Convert an error to the one that is reported."""
    match error:
        case core.TransferProtocolError():
            return FileTransferError("protocol_error", str(error))
        case OSError():
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return FileTransferError("no_space" if full else "disk_error", error.strerror or str(error))
        case asyncio.CancelledError():
            return FileTransferError("not_receiving")  # the program ends, and may return
        case Exception():
            return error
    return FileTransferError("cancelled")


async def _until_end(reader: StreamReader) -> None:
    """Read a stream to its end, without further content.

    Raises:
        StreamEndedError: the sender has not confirmed the end of the transfer.
    """
    if await reader.read(1):
        reader.cancel("protocol_error")
        raise StreamEndedError("protocol_error")
