"""The files of a peer: what it sends to one remote or to all, and where it receives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.streams.file_transfer import (
    ANSWER_TOPIC,
    MAX_OFFERED_NAME,
    OFFER_TOPIC,
    Acceptance,
    TransferProtocolError,
    parse_acceptance,
)
from ..errors import FileTransferError, MeteredPeerStateError
from ..events import FileReceived
from ..streams.reader import StreamReader
from .receiving import MAX_FILE_SIZE, AcceptFn, FileReceiver
from .sending import PATIENCE, FileSending, ProgressFn, TransferProgress, TransferResult
from .source import FileSource

if TYPE_CHECKING:
    from ..mesh.peer import MeteredPeer
    from ..mesh.remote_peer import RemotePeer

__all__ = ["AcceptFn", "FileReceiver", "FileTransfers", "ProgressFn", "TransferProgress", "TransferResult"]

INTERNAL_TOPICS = "metered."
"""Streams whose topic begins so belong to this package."""

Answer = tuple[Acceptance, StreamReader]


class FileTransfers:
    """All transfers of one peer."""

    def __init__(self, peer: MeteredPeer) -> None:
        self.peer = peer
        self._receiver: FileReceiver | None = None
        self._answers: dict[tuple[str, str], asyncio.Future[Answer]] = {}
        self._sending: set[asyncio.Task[object]] = set()

    # --- for the program

    async def send(
        self,
        peer_id: str,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> TransferResult:
        """Send a file to one remote."""
        source = await FileSource.open(path)
        try:
            return await self._send(source, peer_id, name, progress, patience)
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
        ids = [remote.id for remote in self.peer.remote_peers]
        source = await FileSource.open(path)
        try:
            sends = [self._outcome(source, peer_id, name, progress, patience) for peer_id in ids]
            return dict(zip(ids, await asyncio.gather(*sends), strict=True))
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
        received = self.peer.events(FileReceived)
        self._receiver = FileReceiver(self, chosen.resolve(), accept, limit, progress, received)
        return self._receiver

    def stop_receiving(self, receiver: FileReceiver) -> None:
        """Refuse files from now on."""
        if self._receiver is receiver:
            self._receiver = None

    async def close(self) -> None:
        """Stop receiving: the peer ends. What is being sent notices that itself."""
        if self._receiver is not None:
            await self._receiver.close()

    # --- for the streams

    def takes(self, remote: RemotePeer, reader: StreamReader) -> bool:
        """Take a stream that has to do with files. False if it is the program's."""
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

    def remote(self, peer_id: str) -> RemotePeer | None:
        """Return who has an id now."""
        return next((remote for remote in self.peer.remote_peers if remote.id == peer_id), None)

    def check_open(self) -> None:
        """Raise FileTransferError `cancelled` if this peer has left."""
        if self.peer.state not in ("joining", "joined", "reconnecting"):
            raise FileTransferError("cancelled", f"this peer is {self.peer.state}")

    @contextlib.contextmanager
    def awaiting_answer(self, remote: RemotePeer, attempt: str) -> Iterator[asyncio.Future[Answer]]:
        """Return where the answer to an attempt will be."""
        key = (remote.id, attempt)
        future = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            del self._answers[key]
            future.cancel()

    # --- inside

    async def _send(
        self, source: FileSource, peer_id: str, name: str | None, progress: ProgressFn | None, patience: float | None
    ) -> TransferResult:
        shown = source.shown_name if name is None else name
        if not 1 <= len(shown) <= MAX_OFFERED_NAME:
            raise ValueError(f"a name has 1 to {MAX_OFFERED_NAME} characters, not {len(shown)}")
        limit = PATIENCE if patience is None else patience
        if not limit >= 0:
            raise ValueError(f"patience must be at least 0, not {patience!r}")
        return await FileSending(self, peer_id, source, shown, progress, limit).run()

    async def _outcome(
        self, source: FileSource, peer_id: str, name: str | None, progress: ProgressFn | None, patience: float | None
    ) -> TransferResult | FileTransferError:
        try:
            return await self._send(source, peer_id, name, progress, patience)
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
