"""What carries the messages of calls: a data channel, or the signalling server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..aiortc_compat.message_size import max_message_size
from ..channels.data_channel import DataChannel
from ..core.negotiation.signals import channel_of, in_channel
from ..core.wire.frames import encode_payload
from ..errors import (
    DataChannelOverflowError,
    MeteredPeerOversizedError,
    MeteredRealtimeError,
    PayloadTooLargeError,
    ServerRequestError,
)
from ..events import DCClose, DCMessage, DCOpen
from ..log import Logger
from .built_in import (
    RpcRecipientNotFoundError,
    RpcRequestTooLargeError,
    RpcSendError,
    RpcUnsupportedServerError,
)
from .errors import RpcError

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_BUFFERED = 512 * 1024
"""Bytes that wait below in a data channel. What is behind them cannot be overtaken by a smaller message any more."""

ENVELOPE_KEY = "__meteredRpc"
"""The reserved key of direct messages that carry calls."""

_REFUSALS: dict[str, type[RpcError]] = {
    "peer_not_found": RpcRecipientNotFoundError,
    "over_message_quota": RpcSendError,
    "backend_error": RpcSendError,
    "internal_error": RpcSendError,
}
"""What error codes of the server mean. After all others it does not carry calls at all."""

MessageHandler = Callable[[str | bytes], None]
CloseHandler = Callable[[], None]


class RpcTransport(Protocol):
    """Sends and receives whole messages, in order, each once."""

    takes_pieces: bool
    """Whether it carries binary messages, and so the pieces of large ones."""

    @property
    def max_message_size(self) -> int:
        """The bytes of one message that the other end takes."""

    def listen(self, on_message: MessageHandler, on_close: CloseHandler) -> None:
        """Deliver what arrived and what arrives, then the end."""

    async def opened(self) -> None:
        """Return when messages can be sent. Raises MeteredRealtimeError if that cannot be any more."""

    async def send(self, message: str | bytes) -> None:
        """Send a message; return when it was taken. Raises MeteredRealtimeError if it cannot be."""

    def send_now(self, message: str | bytes) -> bool:
        """Send a message if nothing waits to be sent and it need not wait either. Raises like `send`."""

    def close(self) -> None:
        """End it, without telling the own listener."""


class DataChannelTransport:
    """A reliable, ordered data channel, opened by either end."""

    takes_pieces = True

    def __init__(self, channel: RTCDataChannel, logger: Logger | None = None) -> None:
        self._raw = channel
        self._channel = DataChannel(channel, max_buffered_amount=MAX_BUFFERED, logger=logger)
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel.on(DCOpen, lambda event: self._settle())
        if self._channel.ready_state == "open":
            self._settle()

    @property
    def max_message_size(self) -> int:
        """What the other end announced in its session description."""
        return min(max_message_size(self._raw), MAX_BUFFERED)

    def listen(self, on_message: MessageHandler, on_close: CloseHandler) -> None:
        """Deliver what arrived and what arrives, then the end."""

        def closed(event: DCClose) -> None:
            self._settle()
            on_close()

        self._channel.on(DCClose, closed)
        self._channel.on(DCMessage, lambda event: on_message(event.data))

    async def opened(self) -> None:
        """Return when the channel is open.

        Raises:
            RpcSendError: it is closed.
        """
        await asyncio.shield(self._opening)
        if self._channel.ready_state != "open":
            raise RpcSendError

    async def send(self, message: str | bytes) -> None:
        """Send a message when there is room for it.

        Raises:
            MeteredRealtimeError: the channel is not open, or the message is too large.
        """
        await self._channel.send(message)

    def send_now(self, message: str | bytes) -> bool:
        """Send a message if there is room for it. Raises like `send`."""
        try:
            self._channel.send_nowait(message)
        except DataChannelOverflowError:
            return False
        return True

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
        self._settle()

    def _settle(self) -> None:
        if not self._opening.done():
            self._opening.set_result(None)


class ServerTransport:
    """Direct messages through the signalling server, for peers without WebRTC. JSON-RPC only.

    `send` is that of a `RemotePeer`; what `unwrap` returns of its messages goes to `receive`. The messages name the
    `channel`: a call is not for the programs of the remote in other channels.
    """

    takes_pieces = False

    def __init__(self, send: Callable[[Any], Awaitable[None]], server_cap: int, channel: str | None = None) -> None:
        self._send = send
        self._channel = channel
        self._cap = server_cap - len(bytes(encode_payload(self._wrap(0)))) + 1
        self._on_message: MessageHandler | None = None
        self.is_closed = False

    @property
    def max_message_size(self) -> int:
        """What the server takes, without the envelope."""
        return self._cap

    def listen(self, on_message: MessageHandler, on_close: CloseHandler) -> None:
        """Deliver what arrives. It has no end of its own."""
        self._on_message = on_message

    async def opened(self) -> None:
        """Return at once: the server is there, or `send` says so."""

    async def send(self, message: str | bytes) -> None:
        """Send a message, and return when the server has confirmed it.

        Raises:
            RpcRecipientNotFoundError: nobody of that id is connected.
            RpcUnsupportedServerError: the server refuses direct messages.
            RpcRequestTooLargeError: it refuses one of that size.
            RpcSendError: it could not be reached, did not confirm it, or could not take it now.
        """
        try:
            await self._send(self._wrap(json.loads(message)))
        except ServerRequestError as error:
            raise _REFUSALS.get(error.code, RpcUnsupportedServerError) from error
        except (MeteredPeerOversizedError, PayloadTooLargeError) as error:
            raise RpcRequestTooLargeError from error
        except MeteredRealtimeError as error:
            raise RpcSendError from error

    def send_now(self, message: str | bytes) -> bool:
        """Return False: the server has to confirm it."""
        return False

    def receive(self, message: str) -> None:
        """Take a message that came through the server."""
        if self._on_message is not None and not self.is_closed:
            self._on_message(message)

    def close(self) -> None:
        """Take nothing any more."""
        self.is_closed = True

    def _wrap(self, message: Any) -> dict[str, Any]:
        envelope = {ENVELOPE_KEY: message}
        return envelope if self._channel is None else in_channel(envelope, self._channel)


def is_envelope(data: Any) -> bool:
    """Return whether a direct message carries an RPC message, with or without the name of a channel."""
    if not isinstance(data, dict) or ENVELOPE_KEY not in data:
        return False
    return len(data) == 1 or (len(data) == 2 and channel_of(data) is not None)


def unwrap(data: Any) -> str | None:
    """Return the RPC message that a direct message carries, or None if it is something else."""
    if not is_envelope(data):
        return None
    try:
        return json.dumps(data[ENVELOPE_KEY], ensure_ascii=False)
    except (RecursionError, ValueError):
        return ""  # no JSON-RPC either, and answered as that
