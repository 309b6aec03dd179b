"""One file on its way to one remote, over as many attempts as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, get_args

from ..core.streams.file_transfer import OFFER_TOPIC, Acceptance, Offer, attributes_of, content_head
from ..core.streams.frames import Attributes
from ..errors import FileFailureReason, FileTransferError, MeteredRealtimeError, StreamEndedError
from ..options import PeerConnectionState
from ..streams.reader import StreamReader
from ..streams.writer import StreamWriter, raise_if_failed, watch_connection
from .progress import ProgressFn, TransferProgress, TransferResult
from .source import FileSource

PATIENCE = 60.0
"""Seconds that a remote may be away: a program restarts in a few, a phone finds another network in half a minute."""

RETRY_PAUSE = 0.2
"""Seconds between attempts: a new connection takes 0.02 to 1."""

NOT_RECEIVING_GRACE = 3.0
"""Seconds that a remote which has just come may take until it receives files."""

_LOST = ("connection_lost", "peer_left", "too_many_streams")
_REASONS: tuple[str, ...] = get_args(FileFailureReason)


class FileRemote(Protocol):
    """A remote that files are sent to."""

    id: str

    @property
    def state(self) -> PeerConnectionState: ...
    def open_stream(self, topic: str, attributes: Attributes | None = None) -> StreamWriter: ...


class SendingOwner(Protocol):
    """What a file on its way needs of the peer that sends it."""

    def check_open(self) -> None:
        """Raise FileTransferError `cancelled` if the peer has left the channel."""

    def current_remote(self, peer_id: str) -> FileRemote | None:
        """Return the remote that has an id now, None if there is none."""

    def awaiting_answer(
        self, peer_id: str, attempt: str
    ) -> AbstractContextManager[asyncio.Future[tuple[Acceptance, StreamReader]]]:
        """Enter to get the future of the remote's answer to an attempt."""


class FileSending:
    """Sends a source to a remote, which may change its connection, or leave and come back as another object."""

    def __init__(
        self,
        owner: SendingOwner,
        remote: FileRemote,
        source: FileSource,
        name: str,
        progress: ProgressFn | None,
        patience: float,
    ) -> None:
        self._owner = owner
        self._remote = remote
        self._peer_id = remote.id
        self._source = source
        self._name = name
        self._progress = progress
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._deadline = self._started + patience
        self._not_receiving_until: float | None = None
        self._sent = 0
        self._attempts = 0

    async def run(self) -> TransferResult:
        """Try until the remote has it.

        Raises:
            FileTransferError: it cannot, or was away for too long.
            OSError: the file cannot be read any more.
        """
        while True:
            self._owner.check_open()
            if self._find_remote():
                with contextlib.suppress(TimeoutError):
                    try:
                        return await self._attempt(self._remote)
                    except MeteredRealtimeError as error:
                        self._check_hope(error)
            if self._loop.time() >= self._deadline:
                raise FileTransferError("timed_out", f"{self._peer_id} was away for {self._patience:g} s")
            await asyncio.sleep(RETRY_PAUSE)

    def _find_remote(self) -> bool:
        """Return whether the remote is present, perhaps as another object than before."""
        if self._remote.state == "closed":
            successor = self._owner.current_remote(self._peer_id)
            if successor is None:
                return False
            self._remote = successor
        return True

    def _check_hope(self, error: MeteredRealtimeError) -> None:
        """Raise what another attempt would not change."""
        if isinstance(error, StreamEndedError):
            if error.reason in _LOST:
                return
            error = _failure(error)
        if not isinstance(error, FileTransferError):
            return  # the remote has left, for instance
        if error.reason == "busy":
            self._deadline = self._loop.time() + self._patience  # it is there, and will come to it
            return
        if error.reason == "not_receiving" and self._may_receive_yet():
            return
        raise error

    def _may_receive_yet(self) -> bool:
        now = self._loop.time()
        if self._not_receiving_until is None:
            self._not_receiving_until = now + NOT_RECEIVING_GRACE
        return now < self._not_receiving_until

    async def _attempt(self, remote: FileRemote) -> TransferResult:
        attempt = secrets.token_hex(8)
        writer = remote.open_stream(OFFER_TOPIC, attributes_of(self._offer(attempt)))
        with self._owner.awaiting_answer(self._peer_id, attempt) as answer:
            async with asyncio.timeout_at(self._deadline):
                await writer.__aenter__()
            try:
                async with self._patience_with(writer):
                    acceptance, reply = await _unless_ended(answer, writer)
                    await self._send_content(writer, acceptance)
                    await self._until_stored(writer, reply)
                    await writer.finish()
            except BaseException as error:
                writer.abort(type(error).__name__)
                raise
        digest = await self._source.digest(self._source.size)
        seconds = self._loop.time() - self._started
        return TransferResult(self._peer_id, self._name, self._source.size, digest, self._sent, self._attempts, seconds)

    @contextlib.asynccontextmanager
    async def _patience_with(self, writer: StreamWriter) -> AsyncIterator[None]:
        """Raise TimeoutError when the connection under a stream has been lost for the patience that there is."""
        async with asyncio.timeout(None) as limit:

            def follow(is_connected: bool) -> None:
                self._deadline = self._loop.time() + self._patience
                if not limit.expired():
                    limit.reschedule(None if is_connected else self._deadline)

            with watch_connection(writer, follow):
                yield

    def _offer(self, attempt: str) -> Offer:
        source = self._source
        transfer = source.transfer_id(self._name)
        return Offer(transfer=transfer, attempt=attempt, name=self._name, size=source.size, mtime=source.mtime)

    async def _send_content(self, writer: StreamWriter, acceptance: Acceptance) -> None:
        self._attempts += 1
        self._not_receiving_until = None
        source = self._source
        has = await source.digest(acceptance.offset) if acceptance.offset <= source.size else ""
        position = acceptance.start(source.size, has)
        await writer.write(content_head(position))
        while position < source.size:
            self._tell(position)
            block = await source.read(position)
            await writer.write(block)
            position += len(block)
            self._sent += len(block)
        self._tell(position)
        await source.check_unchanged()
        await writer.write(bytes.fromhex(await source.digest(source.size)))

    def _tell(self, position: int) -> None:
        """Note that it goes on, and say so."""
        self._deadline = self._loop.time() + self._patience
        if self._progress is not None:
            self._progress(TransferProgress(self._peer_id, self._name, position, self._source.size))

    async def _until_stored(self, writer: StreamWriter, reply: StreamReader) -> None:
        try:
            if await reply.read(1):
                reply.cancel("protocol_error")
                raise FileTransferError("protocol_error", "an answer has no content")
        except StreamEndedError:
            raise_if_failed(writer)  # that one says why
            raise


def _failure(error: StreamEndedError) -> FileTransferError:
    """Translate how the remote ended the stream."""
    if error.reason == "not_taken":
        return FileTransferError("not_receiving")
    if error.reason == "cancelled" and error.detail in _REASONS:
        return FileTransferError(error.detail)  # type: ignore[arg-type]
    return FileTransferError(
        "cancelled" if error.reason in ("cancelled", "aborted") else "protocol_error", error.detail
    )


async def _unless_ended(
    answer: asyncio.Future[tuple[Acceptance, StreamReader]], writer: StreamWriter
) -> tuple[Acceptance, StreamReader]:
    """Return the answer.

    Raises:
        StreamEndedError: the stream of the offer ended before.
    """
    ended = asyncio.ensure_future(writer.wait_ended())
    try:
        waiting: list[asyncio.Future[Any]] = [answer, ended]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
    raise_if_failed(writer)
    if not answer.done():
        raise FileTransferError("protocol_error", "the offer was read to its end and not answered")
    return answer.result()
