"""The files of a peer: what it sends to one remote or to all, and where it receives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.streams.file_transfer import (
    ANSWER_TOPIC,
    MAX_OFFERED_NAME,
    OFFER_TOPIC,
    Acceptance,
    TransferProtocolError,
    parse_acceptance,
)
from ..emitter import EventStream
from ..errors import FileTransferError, MeteredPeerStateError
from ..events import Event, FileReceived
from ..log import Logger
from ..options import MeteredPeerState
from ..streams.reader import StreamReader
from .progress import ProgressFn, TransferResult
from .receiving import MAX_FILE_SIZE, AcceptFn, FileReceiver
from .sending import PATIENCE, FileRemote, FileSending
from .source import FileSource

if TYPE_CHECKING:
    from ..events.peers import RemotePeer

INTERNAL_TOPICS = "metered."
"""Streams whose topic begins so belong to this package."""

Answer = tuple[Acceptance, StreamReader]


class FilePeer(Protocol):
    """The peer that sends and receives files."""

    @property
    def state(self) -> MeteredPeerState: ...
    @property
    def remote_peers(self) -> Sequence[FileRemote]: ...
    def emit(self, event: Event) -> None: ...
    def events(self, event_type: type[FileReceived]) -> EventStream[FileReceived]: ...


class FileTransfers:
    """All transfers of one peer."""

    def __init__(self, peer: FilePeer, logger: Logger) -> None:
        self.logger = logger
        self._peer = peer
        self._receiver: FileReceiver | None = None
        self._answers: dict[tuple[str, str], asyncio.Future[Answer]] = {}
        self._sending: set[asyncio.Task[object]] = set()

    # --- for the program

    async def send(
        self,
        remote: FileRemote,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> TransferResult:
        """Send a file to one remote."""
        source = await FileSource.open(path)
        try:
            return await self._send(source, remote, name, progress, patience)
        finally:
            await asyncio.shield(source.close())

    async def send_to_all(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> dict[str, TransferResult | FileTransferError]:
        """Send a file to everybody who is there now, reading it once."""
        remotes = tuple(self._peer.remote_peers)
        source = await FileSource.open(path)
        try:
            sends = [self._outcome(source, remote, name, progress, patience) for remote in remotes]
            return dict(zip((remote.id for remote in remotes), await asyncio.gather(*sends), strict=True))
        finally:
            await asyncio.shield(source.close())

    def receive(
        self, directory: str | Path, accept: AcceptFn | None, max_size: int | None, progress: ProgressFn | None
    ) -> FileReceiver:
        """Receive files into a directory from now on."""
        if self._receiver is not None:
            raise MeteredPeerStateError("invalid_state", "receive_files", "this peer receives files already")
        limit = MAX_FILE_SIZE if max_size is None else max_size
        if not limit >= 0:
            raise ValueError(f"max_size must be at least 0, not {max_size!r}")
        chosen = Path(directory)
        chosen.mkdir(parents=True, exist_ok=True)
        received = self._peer.events(FileReceived)
        self._receiver = FileReceiver(self, chosen.resolve(), accept, limit, progress, received)
        return self._receiver

    def emit(self, event: Event) -> None:
        """Emit an event of a transfer on the peer."""
        self._peer.emit(event)

    def stop_receiving(self, receiver: FileReceiver) -> None:
        """Refuse files from now on."""
        if self._receiver is receiver:
            self._receiver = None

    async def close(self) -> None:
        """Stop receiving: the peer ends. What is being sent notices that itself."""
        if self._receiver is not None:
            await self._receiver.close()

    # --- for the streams

    def claim_stream(self, remote: RemotePeer, reader: StreamReader) -> bool:
        """Handle a stream that belongs to a file transfer. False for any other stream."""
        if not reader.topic.startswith(INTERNAL_TOPICS):
            return False
        if reader.topic == ANSWER_TOPIC:
            self._take_answer(remote, reader)
        elif reader.topic != OFFER_TOPIC or self._receiver is None:
            reader.cancel("not_receiving")
        else:
            self._receiver.take(remote, reader)
        return True

    # --- for what is being sent

    def current_remote(self, peer_id: str) -> FileRemote | None:
        """Return the remote that has an id now, None if there is none."""
        return next((remote for remote in self._peer.remote_peers if remote.id == peer_id), None)

    def check_open(self) -> None:
        """Raise FileTransferError `cancelled` if this peer has left."""
        if self._peer.state not in ("joining", "joined", "reconnecting"):
            raise FileTransferError("cancelled", f"this peer is {self._peer.state}")

    @contextlib.contextmanager
    def awaiting_answer(self, peer_id: str, attempt: str) -> Iterator[asyncio.Future[Answer]]:
        """Enter to get the future of the remote's answer to an attempt."""
        key = (peer_id, attempt)
        future = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            del self._answers[key]
            future.cancel()

    # --- inside

    async def _send(
        self,
        source: FileSource,
        remote: FileRemote,
        name: str | None,
        progress: ProgressFn | None,
        patience: float | None,
    ) -> TransferResult:
        shown = source.shown_name if name is None else name
        if not 1 <= len(shown) <= MAX_OFFERED_NAME:
            raise ValueError(f"a name has 1 to {MAX_OFFERED_NAME} characters, not {len(shown)}")
        limit = PATIENCE if patience is None else patience
        if not limit >= 0:
            raise ValueError(f"patience must be at least 0, not {patience!r}")
        return await FileSending(self, remote, source, shown, progress, limit).run()

    async def _outcome(
        self,
        source: FileSource,
        remote: FileRemote,
        name: str | None,
        progress: ProgressFn | None,
        patience: float | None,
    ) -> TransferResult | FileTransferError:
        try:
            return await self._send(source, remote, name, progress, patience)
        except FileTransferError as error:
            return error
        except OSError as error:
            return FileTransferError("disk_error", error.strerror or str(error))

    def _take_answer(self, remote: RemotePeer, reader: StreamReader) -> None:
        try:
            acceptance = parse_acceptance(reader.attributes)
        except TransferProtocolError:
            reader.cancel("protocol_error")
            return
        future = self._answers.get((remote.id, acceptance.attempt))
        if future is None or future.done():
            reader.cancel("nobody asked")
        else:
            future.set_result((acceptance, reader))
