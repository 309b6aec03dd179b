"""The client's WebSocket, from the credential to its end. It reports to its observer and makes no decisions."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from ssl import SSLContext
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..core.session.session import ABNORMAL, DialFailure
from ..core.wire.frames import MAX_SERVER_FRAME
from .credentials import AttemptUrlFn
from .endpoint import is_loopback
from .failures import describe, without_secrets
from .scrubbing import scrub_error, scrub_text

HANG_UP_TIMEOUT = 0.8
"""Seconds for the closing handshake before the transport is aborted: part of the 2 s of `close()`."""

RECEIVE_QUEUE = 256
"""Number of received frames that may wait before the socket pauses reading: a burst of presence deltas."""

TURN_TIME = 0.005
"""Seconds of reading after which other tasks run: a burst of presence must not delay media."""

TOKEN_PROVIDER_FAILED = "token provider failed"
HANDSHAKE_REJECTED = "handshake rejected"

_silent = logging.Logger("metered_realtime.websockets", level=logging.CRITICAL + 1)
"""At DEBUG websockets logs the request line, which contains the credential."""


class SignallingSocketObserver(Protocol):
    """What a socket reports: either that it failed, or that it opened, received and ended. Nothing after `hang_up`."""

    def socket_opened(self) -> None:
        """The WebSocket is open."""

    def socket_received(self, message: str | bytes) -> None:
        """A message arrived."""

    def socket_failed(self, failure: DialFailure) -> None:
        """The WebSocket could not be opened."""

    def socket_ended(self, code: int, reason: str) -> None:
        """The WebSocket ended after it had opened."""


class Socket(Protocol):
    """The one write path and the one close path of a connection to the server."""

    @property
    def task(self) -> asyncio.Future[None]:
        """Done when nothing of the socket is left."""

    def write(self, frame: bytes) -> None:
        """Send a text frame after those written before. Lost if the socket ends first: its end is reported."""

    def hang_up(self, code: int, reason: str) -> None:
        """Stop reporting and close, in the background and within `HANG_UP_TIMEOUT`. Idempotent."""


class SignallingSocket:
    """A `Socket` over a WebSocket, opened as soon as it is made."""

    def __init__(
        self,
        observer: SignallingSocketObserver,
        attempt_url: AttemptUrlFn,
        ssl_context: SSLContext | None,
        open_timeout: float,
    ) -> None:
        self._observer: SignallingSocketObserver | None = observer
        self._attempt_url = attempt_url
        self._ssl_context = ssl_context
        self._open_timeout = open_timeout
        self._websocket: ClientConnection | None = None
        self._outbox: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._closing: tuple[int, str] = (1000, "")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="metered_realtime socket")
        self._task.add_done_callback(self._report_crash)

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that ends when nothing of this socket is left."""
        return self._task

    def write(self, frame: bytes) -> None:
        """Send a text frame after those written before. Lost if the socket ends first: its end is reported."""
        self._outbox.append(frame)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def hang_up(self, code: int, reason: str) -> None:
        """Stop reporting and close, in the background and within `HANG_UP_TIMEOUT`. Idempotent."""
        if self._observer is None:
            return
        self._observer = None
        self._closing = (code, reason)
        if asyncio.current_task() is not self._task:  # the reader checks by itself
            self._task.cancel()

    async def _run(self) -> None:
        outcome = await self._dial()
        if isinstance(outcome, DialFailure):
            observer, self._observer = self._observer, None
            if observer is not None:
                observer.socket_failed(outcome)
            return
        self._websocket = outcome
        writer = asyncio.get_running_loop().create_task(self._write(outcome), name="metered_realtime writer")
        try:
            if self._observer is not None:
                self._observer.socket_opened()
            code, reason = await self._read(outcome)
            observer, self._observer = self._observer, None
            if observer is not None:
                observer.socket_ended(code, reason)
        finally:
            writer.cancel()
            await self._close(outcome)

    async def _dial(self) -> ClientConnection | DialFailure:
        """Open the WebSocket. A failure is returned: an exception would reference the URL, and so the credential."""
        try:
            url = await self._attempt_url()
        except Exception as error:
            return DialFailure(reason=TOKEN_PROVIDER_FAILED, token_error=scrub_error(error))
        if self._observer is None:  # a token provider that swallowed the cancellation
            return DialFailure(reason="hung up")
        try:
            return await self._open(url)
        except Exception as error:
            return self._failure(error, describe(error, url, self._open_timeout))

    def _failure(self, error: Exception, text: str) -> DialFailure:
        cause = without_secrets(error)
        if not isinstance(error, InvalidStatus):
            return DialFailure(reason=type(error).__name__, text=text, cause=cause)
        response = error.response
        retry_after = _seconds(response.headers.get("Retry-After"))
        return DialFailure(
            reason=HANDSHAKE_REJECTED,
            http_status=response.status_code,
            retry_after=retry_after,
            text=text,
            cause=cause,
        )

    async def _open(self, url: str) -> ClientConnection:
        trust: dict[str, Any] = {}  # websockets refuses the argument for ws
        if self._ssl_context is not None and url.startswith("wss:"):
            trust["ssl"] = self._ssl_context
        return await connect(
            url,
            # Compression of small JSON costs more time than it saves bytes.
            compression=None,
            proxy=None if is_loopback(url) else True,
            open_timeout=self._open_timeout,
            # The protocol has its own heartbeat, controlled by the session.
            ping_interval=None,
            close_timeout=HANG_UP_TIMEOUT,
            max_size=MAX_SERVER_FRAME,
            max_queue=RECEIVE_QUEUE,
            logger=_silent,
            **trust,
        )

    async def _read(self, websocket: ClientConnection) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        turn_began = loop.time()
        try:
            while self._observer is not None:
                self._observer.socket_received(await websocket.recv())
                if loop.time() - turn_began >= TURN_TIME:
                    await asyncio.sleep(0)  # buffered frames are read without waiting
                    turn_began = loop.time()
        except ConnectionClosed as closed:
            return _close_of(closed)
        return self._closing

    async def _write(self, websocket: ClientConnection) -> None:
        outbox = self._outbox
        try:
            while True:
                while outbox:
                    await websocket.send(outbox.popleft(), text=True)
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
        except ConnectionClosed:
            return  # the reader reports it
        except Exception:
            websocket.transport.abort()  # so that the reader reports the end

    async def _close(self, websocket: ClientConnection) -> None:
        # The timeout of websockets itself does not cover a full write buffer.
        try:
            async with asyncio.timeout(HANG_UP_TIMEOUT):
                await websocket.close(*self._closing)
        except BaseException as error:
            websocket.transport.abort()
            if not isinstance(error, TimeoutError):
                raise
            await websocket.wait_closed()

    def _report_crash(self, task: asyncio.Task[None]) -> None:
        """Report an end that `_run` could not report: a token provider that cancels its task, or a bug."""
        observer, self._observer = self._observer, None
        error = None if task.cancelled() else task.exception()
        if observer is None or (error is None and task.cancelling()):  # cancelled at the end of the event loop
            return
        reason = "CancelledError" if error is None else type(error).__name__
        if self._websocket is None:
            observer.socket_failed(DialFailure(reason=reason))
        else:
            observer.socket_ended(ABNORMAL, reason)


def _close_of(closed: ConnectionClosed) -> tuple[int, str]:
    """Return code and reason of the server's close frame, or else of the one that this end sent, or else 1006."""
    frame = closed.rcvd if closed.rcvd is not None else closed.sent
    return (ABNORMAL, "") if frame is None else (int(frame.code), scrub_text(frame.reason))


def _seconds(retry_after: str | None) -> float | None:
    """Parse a Retry-After header in seconds. The date form is ignored."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
