"""Files from all remotes of a peer, into one directory."""

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
"""Bytes of a file unless the program says otherwise: a film fits, a disk does not fill unnoticed."""

FREE_RESERVE = 256 * 1024 * 1024
"""Bytes of the disk that are left to others."""

MAX_INCOMING = 32
"""Files at once, from all remotes: further ones wait at their senders."""

MAX_INCOMING_OF_ONE = 8
"""Of these, from one remote: nobody can take all places by beginning and not going on."""

STALLED = 10.0
"""Seconds without a byte after which an attempt makes way for the next one of the same file: a dead path is noticed
after 6, so its sender has given it up."""

MIN_PROGRESS = 16_384
"""Bytes that count as a step. Who sends less in `STALLED` seconds, when all places are taken, gives its place up."""

MAX_OPENING = 2
"""Parts that are hashed or copied at once. The executor of the event loop has few threads, and others need them."""

PRUNE_EVERY = 32
"""Files after which old parts are looked for: to look takes the longer the more files there are."""

SMALL_READ = 65_536
SMALL_PAUSE = 0.01
"""Seconds to wait for more after fewer bytes than that: each step costs a thread its turn, and the program a word."""

MAX_ACCEPTED = 1024
"""Transfers that the program has accepted and is not asked about again when they go on."""

WRITE_BLOCK = 262_144
WIDER_WINDOW = 786_432
"""Bytes of a file that may be on the way in addition to the window of a stream, 1 MiB in all: what one reset costs."""

FAREWELL = 0.5
"""Seconds that `close` leaves for senders to hear that their files are stored. Who does not asks again."""

_Key = tuple[str, str]
"""The id of a remote and that of its transfer: whoever was sent a file knows the latter."""

AcceptFn = Callable[[FileOffered], "bool | Awaitable[bool]"]


@dataclass(slots=True)
class _Incoming:
    """A file that is being received: by what, when so many bytes of it had come, and how many are to come.

    It `is_open` while it waits for its sender, and not for the program or the disk.
    """

    reader: StreamReader
    task: asyncio.Task[None]
    moved: float
    position: int = 0
    has_begun: bool = False
    is_open: bool = False
    missing: int = 0

    def note(self, position: int, now: float) -> None:
        """Note how much there is. Single bytes are no step."""
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
    """Receives files until it is closed. `async for` gives the `FileReceived` from the moment it was made.

    Use it with `async with`, or call `close`; the end of the peer closes it too.
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
        """Offers that found no place and were asked to come again."""
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
        """Stop receiving. Parts stay, for the next time. Idempotent."""
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

    def take(self, remote: RemotePeer, reader: StreamReader) -> None:
        """Begin with what a remote offers."""
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
        """Tell whether another file may come. An attempt of the same one that stands still is ended for the next."""
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
        """Ask the sender of a file that stands still to come again later: others wait for the place."""
        slowest = min((it for it in self._active.values() if it.is_open), key=lambda it: it.moved, default=None)
        if slowest is not None and asyncio.get_running_loop().time() - slowest.moved >= STALLED:
            slowest.reader.cancel("busy")
            slowest.task.cancel()

    def _done(self, reader: StreamReader, key: _Key, task: asyncio.Task[None]) -> None:
        """Let go of a transfer. A task that is cancelled before its first step runs none of its own code."""
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
        except Exception as error:  # the callbacks are the program's
            if not isinstance(error, MeteredRealtimeError | core.TransferProtocolError | OSError):
                log_exception(self._owner.logger, "receiving a file failed", error, {"name": name})
            self._tell(remote, FileFailed(remote, name, _failure(error)))

    async def _check(self, offered: FileOffered, offer: core.Offer) -> None:
        """Raise FileTransferError if the program, or the disk, does not want the file."""
        if offer.size > self._max_size:
            raise FileTransferError("too_large", f"{offer.size} bytes")
        key = offered.peer.id, offer.transfer
        if key not in self._accepted:
            self._tell(offered.peer, offered)
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
                digest = await self._take_content(remote, reader, offer, part)
                path = await asyncio.to_thread(part.finish, digest)
            self._note_stored()
            self._tell(remote, FileReceived(remote, path, offer.size, digest))
            with contextlib.suppress(MeteredRealtimeError):  # then the sender asks again, and is told
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
        """Open a part, if what is to come has room beside what is to come of all other files. Blocks."""
        if self._opened % PRUNE_EVERY == 0:
            prune_parts(self.directory, {core.part_key(*key) for key in tuple(self._active)})
        self._opened += 1
        part.open()
        missing = offer.size - part.offset
        with self._sharing_room:  # of two that do not both fit the one that comes first has its place
            elsewhere = sum(it.missing for it in tuple(self._active.values()))
            if missing + elsewhere > shutil.disk_usage(self.directory).free - FREE_RESERVE:
                raise FileTransferError("no_space", f"{offer.size} bytes")
            incoming.missing = missing
        part.copy_others()
        incoming.missing, incoming.position = offer.size - part.offset, part.offset

    async def _take_content(self, remote: RemotePeer, reader: StreamReader, offer: core.Offer, part: PartFile) -> str:
        """Store what comes and return the digest that the sender has of it."""
        reader.widen(WIDER_WINDOW)
        content = core.Content(offer.size, part.offset)
        while True:
            data = await reader.read(WRITE_BLOCK)
            if not isinstance(data, bytes) or not data:
                raise core.TransferProtocolError("the content ends before its end")
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

    def _tell(self, remote: RemotePeer, event: Event) -> None:
        remote.emit(event)
        self._owner.emit(event)


@contextlib.contextmanager
def _failing(reader: StreamReader, answer: StreamWriter | None = None) -> Iterator[None]:
    """Tell the sender why, if this fails."""
    try:
        yield
    except BaseException as error:
        failure = _failure(error)
        reader.cancel(failure.reason if isinstance(failure, FileTransferError) else "cancelled")
        if answer is not None:
            answer.abort()
        raise


def _failure(error: BaseException) -> Exception:
    """Return what is told of an error."""
    match error:
        case core.TransferProtocolError():
            return FileTransferError("protocol_error", str(error))
        case OSError():
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return FileTransferError("no_space" if full else "disk_error", error.strerror or str(error))
        case asyncio.CancelledError():
            return FileTransferError("not_receiving")  # the program ends, and may come back
        case Exception():
            return error
    return FileTransferError("cancelled")


async def _until_end(reader: StreamReader) -> None:
    """Read to the end of a stream that has nothing more to say.

    Raises:
        StreamEndedError: the sender did not say that it knows.
    """
    if await reader.read(1):
        reader.cancel("protocol_error")
        raise StreamEndedError("protocol_error")
