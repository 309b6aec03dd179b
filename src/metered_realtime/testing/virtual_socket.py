"""The client's end of a virtual WebSocket, and the signalling client that uses it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Literal

from ..core.session.positions import ASK
from ..core.session.session import DialFailure
from ..log import Logger
from ..signalling.client import SignallingClient
from ..signalling.socket import HANG_UP_TIMEOUT, SignallingSocketObserver, Socket
from .virtual_network import Process
from .virtual_server import ClientEnd, ServerEnd, VirtualServer

CredentialKind = Literal["token", "key", "resume"]

OPEN_TIMEOUT = 10.0
"""Seconds after which a connection attempt without an answer fails."""

_PUBLIC_ERROR = "ConnectionRefusedError"


class Credential:
    """The identity of a client at the server.

    With a `token` every connection has the same peer id. With a `key` each has another one. With `resume` each has the
    same one, and replaces the connection before it.
    """

    def __init__(self, peer_id: str, kind: CredentialKind = "token") -> None:
        self.peer_id = peer_id
        self._base = peer_id
        self._kind = kind
        self._uses = 0

    def present(self, server: VirtualServer, process: Process, recover: str) -> ServerEnd | None:
        """Present the credential to the server, with how far the client has its directs."""
        self._uses += 1
        if self._kind == "key" and self._uses > 1:
            self.peer_id, recover = f"{self._base}-{self._uses}", ASK
        return server.accept(process, self.peer_id, resumes=self._kind == "resume", recover=recover)


class VirtualSocket(ClientEnd):
    """A `Socket` of the signalling client over the virtual network."""

    def __init__(
        self,
        observer: SignallingSocketObserver,
        server: VirtualServer,
        process: Process,
        credential: Credential,
        recover: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._task: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._observer: SignallingSocketObserver | None = observer
        self._server = server
        self._process = process
        self._credential = credential
        self._recover = recover
        self._end: ServerEnd | None = None
        self._opened = False
        self._opening = loop.call_later(OPEN_TIMEOUT, self._fail, "TimeoutError")
        if process.host not in server.offline:
            loop.call_later(server.network.delay(), self._arrive)

    @property
    def task(self) -> asyncio.Future[None]:
        """Done when the socket is closed."""
        return self._task

    def write(self, frame: bytes) -> None:
        """Send a frame."""
        if self._end is not None and self._process.alive:
            self._server.network.carry(("up", self._end.number), self._end.receive, frame)

    def hang_up(self, code: int, reason: str) -> None:
        """Stop reporting and close, in the background and in bounded time. Idempotent."""
        if self._observer is None:
            return
        self._observer = None
        self._opening.cancel()
        took = self._server.network.delay()
        if self._end is not None and self._process.alive:
            self._server.network.carry(("up", self._end.number), self._end.client_closed)
            took = HANG_UP_TIMEOUT if self._end.is_silent else 2 * took
        self._loop.call_later(took, self._finish)

    def received(self, frame: bytes) -> None:
        """Handle a frame from the server."""
        self._open()
        if self._observer is not None and self._process.alive:
            self._observer.socket_received(frame.decode())

    def ended(self, code: int, reason: str) -> None:
        """Report the end."""
        self._open()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.socket_ended(code, reason)
            self._finish()

    def _arrive(self) -> None:
        if self._observer is None or not self._process.alive:
            return
        self._end = self._credential.present(self._server, self._process, self._recover)
        if self._end is None:
            self._loop.call_later(self._server.network.delay(), self._fail, _PUBLIC_ERROR)
        else:
            self._end.attach(self)

    def _open(self) -> None:
        if self._observer is not None and not self._opened:
            self._opened = True
            self._opening.cancel()
            self._observer.socket_opened()

    def _fail(self, reason: str) -> None:
        self._opening.cancel()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.socket_failed(DialFailure(reason=reason))
            self._finish()

    def _finish(self) -> None:
        if not self._task.done():
            self._task.set_result(None)


class VirtualClient(SignallingClient):
    """The real signalling client with virtual sockets."""

    def __init__(
        self,
        server: VirtualServer,
        process: Process,
        credential: Credential,
        random: Random,
        logger: Logger | None = None,
    ) -> None:
        super().__init__(api_key="virtual", url="ws://localhost", logger=logger, _chance=random.random)
        self._server = server
        self._process = process
        self._credential = credential

    def _make_socket(self, observer: SignallingSocketObserver) -> Socket:
        return VirtualSocket(observer, self._server, self._process, self._credential, self._session.recovery)
