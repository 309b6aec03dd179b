"""Ties the calls with one remote to its data channels, its direct messages and its life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from .transports import DataChannelTransport, RpcTransport, ServerTransport, unwrap


class RpcPeer(Protocol):
    """What is asked of a `RemotePeer`."""

    id: str

    @property
    def state(self) -> str:
        """`connected` while its connection is up, `closed` when it has left."""

    def create_data_channel(self, label: str, **kwargs: Any) -> Any:
        """Open a data channel."""

    def send(self, data: Any) -> Awaitable[None]:
        """Send data through the server."""


class RemoteRpc:
    """The calls with one remote. Its owner passes on what happens to the remote; nothing is opened before it is needed.

    `server_cap` tells the bytes of a direct message that the server takes. Calls through the server name the `channel`.
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
        self.endpoint = RpcEndpoint(
            self._open,
            identity=remote.id,
            methods=methods,
            errors=methods.errors,
            is_connected=lambda: remote.state == "connected",
            logger=logger,
            debug=methods.debug,
        )
        self.client = RpcClient(self.endpoint)

    def take_channel(self, channel: Any) -> bool:
        """Serve a channel that the remote opened, aiortc's object. False if it is for something else."""
        name = format_of(channel.label, channel.protocol)
        if name is not None:
            self.endpoint.serve(DataChannelTransport(channel, self._logger), name)
            return True
        if not is_foreign(channel.label, channel.protocol):
            return False
        channel.on("message", lambda message: None)
        refusal = codec_of(DEFAULT_FORMAT).encode_error(None, error_object(RpcUnsupportedVersionError()))
        if channel.readyState == "open":
            channel.send(refusal.decode())
        return True

    def take_direct(self, data: Any) -> bool:
        """Take a direct message of the remote. False if it is for something else."""
        message = unwrap(data)
        if message is None:
            return False
        if self._server is None or self._server.is_closed:
            self._server = self._make_server()
            self.endpoint.serve(self._server, DEFAULT_FORMAT, "server")
        self._server.receive(message)
        return True

    def connection_reset(self) -> None:
        """Note that the connection was replaced."""
        self.endpoint.transport_replaced()

    def connection_lost(self) -> None:
        """Note that the connection is lost for good, while the remote is still in the channel."""
        self.endpoint.transport_failed()

    def left(self) -> None:
        """Note that the remote is gone, for good."""
        self.endpoint.close()

    async def wait_closed(self) -> None:
        """Note that the remote is gone, and return when the handlers have ended or have had their time."""
        await self.endpoint.wait_closed()

    def _open(self, name: RpcFormat, path: RpcPath) -> RpcTransport:
        if self._remote.state == "closed":
            raise RpcRecipientNotFoundError
        if path == "server":
            if name != DEFAULT_FORMAT:
                raise RpcUnsupportedVersionError
            self._server = self._make_server()
            return self._server
        try:
            return DataChannelTransport(self._remote.create_data_channel(LABEL, protocol=name), self._logger)
        except (ImportError, MeteredRealtimeError):
            raise
        except Exception as error:  # aiortc's, of a connection that is about to be replaced
            raise RpcSendError from error

    def _make_server(self) -> ServerTransport:
        return ServerTransport(self._remote.send, self._server_cap(), self._channel)
