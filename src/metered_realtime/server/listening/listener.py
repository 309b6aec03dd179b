"""The listening socket of an aiohttp application, with limits for connections that send no request."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Sequence

from aiohttp import web

from .proxies import Network, is_trusted, network_of
from .waiting import WaitingConnections

REQUEST_TIMEOUT = 10.0
"""Seconds from the acceptance of a connection, or from the end of its TLS handshake, to the end of its first request's
headers. Clients send them within a round trip. The TLS handshake may take as long."""

KEEP_ALIVE = 75.0
"""Seconds that a connection is kept for a next request."""

SWEEP_INTERVAL = 1.0
"""Seconds between two looks at the connections that wait."""

BACKLOG = 1_024
"""Connections that the system holds until they are accepted: after a restart all clients come at once."""

NO_REQUEST = "no request"
"""The reason under which the connections closed here are counted."""


class Listener:
    """Accepts connections for an application, and closes those that send no request in time or are too many.

    A request has arrived when the headers are complete; its handler is responsible for the body.

    Attributes:
        port: The port, once `start` has returned.
    """

    def __init__(self, endings: Counter[str], trusted_proxies: Sequence[Network] = ()) -> None:
        self.port = 0
        self.trusted_proxies = trusted_proxies
        self._endings = endings
        self._waiting: WaitingConnections[web.RequestHandler] = WaitingConnections()
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of connections that owe a request."""
        return len(self._waiting)

    async def start(self, handlers: web.Server, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Start listening.

        Raises:
            OSError: the address cannot be used.
        """
        self._server = await self._loop.create_server(
            lambda: self._accept(handlers()),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else REQUEST_TIMEOUT,
            backlog=BACKLOG,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening. Connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    @web.middleware
    async def middleware(self, request: web.Request, handler: web.Handler) -> web.StreamResponse:  # type: ignore[name-defined]
        """Note that a request has arrived, and expect another one after it."""
        connection = request.protocol
        self._waiting.end(connection)
        try:
            return await handler(request)  # type: ignore[no-any-return]
        finally:
            if connection.transport is not None and not connection.transport.is_closing():
                self._expect_request(connection, KEEP_ALIVE)
                self._place(connection)

    def _accept(self, connection: web.RequestHandler) -> web.RequestHandler:
        self._expect_request(connection, REQUEST_TIMEOUT)
        # The connection is made in the next iteration of the loop, and has an address from then on.
        self._loop.call_soon(self._loop.call_soon, self._place, connection)
        return connection

    def _expect_request(self, connection: web.RequestHandler, timeout: float) -> None:
        self._close(self._waiting.begin(connection, self._loop.time() + timeout))
        if self._sweeping is None and self._server is not None:
            self._sweeping = self._loop.call_later(SWEEP_INTERVAL, self._sweep)

    def _place(self, connection: web.RequestHandler) -> None:
        """Count a connection for its network. One whose TLS handshake is not over has none, and one of a proxy says
        nothing about the client."""
        peername = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        if not peername or connection not in self._waiting or is_trusted(peername[0], self.trusted_proxies):
            return
        self._close(self._waiting.place(connection, network_of(peername[0])))

    def _sweep(self) -> None:
        self._sweeping = None
        for connection in self._waiting:
            if not self._waiting.is_placed(connection):
                self._place(connection)
            elif connection.transport is None:  # the client has closed it
                self._waiting.end(connection)
        for overdue in self._waiting.end_overdue(self._loop.time()):
            self._close(overdue)
        if len(self._waiting) and self._server is not None:
            self._sweeping = self._loop.call_later(SWEEP_INTERVAL, self._sweep)

    def _close(self, connection: web.RequestHandler | None) -> None:
        if connection is not None and connection.transport is not None:
            self._endings[NO_REQUEST] += 1
            connection.transport.abort()
