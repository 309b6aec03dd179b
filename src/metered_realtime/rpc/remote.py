"""Connects the calls with one remote to its data channels, its direct messages and its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..core.wire.frames import MAX_MESSAGE_SIZE
from ..errors import MeteredRealtimeError
from ..log import Logger
from .built_in import RpcRecipientNotFoundError, RpcSendError, RpcUnsupportedVersionError
from .client import RpcClient
from .codec import DEFAULT_FORMAT, LABEL, RpcFormat, RpcPath, codec_of, format_of, is_foreign
from .endpoint import RpcEndpoint
from .errors import error_object
from .methods import RpcMethods
from .transports import DataChannelTransport, DirectMessages, RpcTransport, ServerTransport, unwrap


class RpcPeer(DirectMessages, Protocol):
    """The remote that calls are exchanged with: a `RemotePeer`."""

    id: str

    @property
    def state(self) -> str:
        """`connected` while its connection is up, `closed` once it has left."""

    def create_data_channel(self, label: str, **kwargs: Any) -> Any:
        """Open a data channel and return the object of aiortc."""


class RemoteRpc:
    """The calls with one remote. Its owner reports what happens to the remote; nothing is opened before the first call.

    `server_cap` returns the size of a direct message that the server accepts, in bytes. Calls through the server name
    the `channel`.
    """

    def __init__(
        self,
        remote: RpcPeer,
        methods: RpcMethods,
        *,
        server_cap: Callable[[], int] = lambda: MAX_MESSAGE_SIZE,
        channel: str | None = None,
        logger: Logger | None = None,
    ) -> None:
        self._remote = remote
        self._server_cap = server_cap
        self._channel = channel
        self._logger = logger
        self._server: ServerTransport | None = None
        self.endpoint = RpcEndpoint(self, identity=remote.id, methods=methods, logger=logger)
        self.client = RpcClient(self.endpoint)

    # --- for the owner

    def serve_channel(self, channel: Any) -> bool:
        """Serve a data channel of aiortc that the remote opened. Return False if it does not carry calls.

        A channel for calls in an unknown format is told that the format is not supported.
        """
        format = format_of(channel.label, channel.protocol)
        if format is not None:
            self.endpoint.serve(DataChannelTransport(channel, self._logger), format)
            return True
        if not is_foreign(channel.label, channel.protocol):
            return False
        channel.on("message", lambda message: None)
        refusal = codec_of(DEFAULT_FORMAT).encode_error(None, error_object(RpcUnsupportedVersionError()))
        if channel.readyState == "open":
            channel.send(refusal.decode())
        return True

    def receive_direct(self, data: Any) -> bool:
        """Handle a direct message of the remote. Return False if it does not carry a call or an answer."""
        message = unwrap(data)
        if message is None:
            return False
        if self._server is None or self._server.is_closed:
            self._server = self._make_server_transport()
            self.endpoint.serve(self._server, DEFAULT_FORMAT, "server")
        self._server.deliver(message)
        return True

    def connection_reset(self) -> None:
        """Continue the calls on the connection that has replaced the former one."""
        self.endpoint.connection_replaced()

    def connection_lost(self) -> None:
        """Give up direct channels: the connection is lost for good. The remote is still in the channel."""
        self.endpoint.connection_lost()

    def left(self) -> None:
        """Fail all calls and cancel the handlers: the remote has left."""
        self.endpoint.close()

    async def wait_closed(self) -> None:
        """Close, and return when the handlers have ended or have had a second to do so."""
        await self.endpoint.wait_closed()

    # --- for the endpoint

    @property
    def is_connected(self) -> bool:
        """Whether the connection to the remote is up."""
        return self._remote.state == "connected"

    def open_transport(self, format: RpcFormat, path: RpcPath) -> RpcTransport:
        """Open a transport and return it, without waiting until it is open.

        Raises:
            RpcError: the remote has left, the path does not carry the format, or the connection is being replaced.
            ImportError: aiortc is not installed.
        """
        if self._remote.state == "closed":
            raise RpcRecipientNotFoundError
        if path == "server":
            if format != DEFAULT_FORMAT:
                raise RpcUnsupportedVersionError
            self._server = self._make_server_transport()
            return self._server
        try:
            return DataChannelTransport(self._remote.create_data_channel(LABEL, protocol=format), self._logger)
        except (ImportError, MeteredRealtimeError):
            raise
        except Exception as error:  # of aiortc, whose connection is about to be replaced
            raise RpcSendError from error

    def _make_server_transport(self) -> ServerTransport:
        return ServerTransport(self._remote, self._server_cap(), self._channel)
