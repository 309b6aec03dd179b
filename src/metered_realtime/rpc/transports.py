"""Transports of RPC messages: a data channel, or direct messages through the signalling server."""

from __future__ import annotations

import asyncio
import json
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
"""Bytes buffered in a data channel. A smaller message cannot overtake what is buffered there."""

ENVELOPE_KEY = "__meteredRpc"
"""The reserved key of direct messages that carry calls."""

_SERVER_ERRORS: dict[str, type[RpcError]] = {
    "peer_not_found": RpcRecipientNotFoundError,
    "over_message_quota": RpcSendError,
    "backend_error": RpcSendError,
    "internal_error": RpcSendError,
}
"""Errors by error code of the server. Any other code means that it does not carry calls."""


class TransportListener(Protocol):
    """Receives the messages and the end of a transport."""

    def message_received(self, message: str | bytes) -> None:
        """Handle a message."""

    def transport_closed(self) -> None:
        """Handle the end of the transport, unless this end closed it."""


class RpcTransport(Protocol):
    """Sends and receives whole messages, in order, each exactly once."""

    supports_chunks: bool
    """Whether it carries binary messages, and so the chunks of large messages."""

    @property
    def max_message_size(self) -> int:
        """Maximum size of one message that the remote accepts, in bytes."""

    def listen(self, listener: TransportListener) -> None:
        """Deliver the messages that have arrived and those that will, then the end."""

    async def opened(self) -> None:
        """Return when messages can be sent. Raises MeteredRealtimeError if the transport cannot open any more."""

    async def send(self, message: str | bytes) -> None:
        """Send a message and return when it was accepted. Raises MeteredRealtimeError if it cannot be sent."""

    def try_send(self, message: str | bytes) -> bool:
        """Send a message if it need not wait; return whether it was sent. Raises like `send`."""

    def close(self) -> None:
        """Close the transport. The listener is not told."""


class DirectMessages(Protocol):
    """Sends direct messages to one remote through the signalling server."""

    async def send(self, data: Any) -> None:
        """Send data and return when the server has confirmed it."""


class DataChannelTransport:
    """Carries messages over a reliable, ordered data channel that either end opened."""

    supports_chunks = True

    def __init__(self, channel: RTCDataChannel, logger: Logger | None = None) -> None:
        self._raw = channel
        self._channel = DataChannel(channel, max_buffered_amount=MAX_BUFFERED, logger=logger)
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel.on(DCOpen, lambda event: self._end_opening())
        if self._channel.ready_state == "open":
            self._end_opening()

    @property
    def max_message_size(self) -> int:
        """Maximum message size that the session description of the remote announces, in bytes."""
        return min(max_message_size(self._raw), MAX_BUFFERED)

    def listen(self, listener: TransportListener) -> None:
        """Deliver the messages that have arrived and those that will, then the end."""

        def closed(event: DCClose) -> None:
            self._end_opening()
            listener.transport_closed()

        self._channel.on(DCClose, closed)
        self._channel.on(DCMessage, lambda event: listener.message_received(event.data))

    async def opened(self) -> None:
        """Return when the channel is open.

        Raises:
            RpcSendError: it is closed.
        """
        await asyncio.shield(self._opening)
        if self._channel.ready_state != "open":
            raise RpcSendError

    async def send(self, message: str | bytes) -> None:
        """Send a message when there is room for it in the buffer.

        Raises:
            MeteredRealtimeError: the channel is not open, or the message is too large.
        """
        await self._channel.send(message)

    def try_send(self, message: str | bytes) -> bool:
        """Send a message if there is room for it in the buffer; return whether it was sent. Raises like `send`."""
        try:
            self._channel.send_nowait(message)
        except DataChannelOverflowError:
            return False
        return True

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
        self._end_opening()

    def _end_opening(self) -> None:
        if not self._opening.done():
            self._opening.set_result(None)


class ServerTransport:
    """Carries JSON-RPC in direct messages through the signalling server, for peers without WebRTC.

    `max_direct_size` is the size of a direct message that the server accepts, in bytes. Messages name the `channel`, so
    that programs with the same peer id in other channels ignore them.
    """

    supports_chunks = False

    def __init__(self, remote: DirectMessages, max_direct_size: int, channel: str | None = None) -> None:
        self._remote = remote
        self._channel = channel
        self._max_message_size = max_direct_size - len(bytes(encode_payload(self._wrap(0)))) + 1
        self._listener: TransportListener | None = None
        self.is_closed = False

    @property
    def max_message_size(self) -> int:
        """Maximum message size that the server accepts, without the envelope, in bytes."""
        return self._max_message_size

    def listen(self, listener: TransportListener) -> None:
        """Deliver the messages that arrive. The transport never ends by itself."""
        self._listener = listener

    async def opened(self) -> None:
        """Return at once. If the server cannot be reached, `send` raises."""

    async def send(self, message: str | bytes) -> None:
        """Send a message and return when the server has confirmed it.

        Raises:
            RpcRecipientNotFoundError: no peer with that id is connected.
            RpcUnsupportedServerError: the server refuses direct messages.
            RpcRequestTooLargeError: the server refuses a message of that size.
            RpcSendError: the server could not be reached, did not confirm the message, or failed.
        """
        try:
            await self._remote.send(self._wrap(json.loads(message)))
        except ServerRequestError as error:
            raise _SERVER_ERRORS.get(error.code, RpcUnsupportedServerError) from error
        except (MeteredPeerOversizedError, PayloadTooLargeError) as error:
            raise RpcRequestTooLargeError from error
        except MeteredRealtimeError as error:
            raise RpcSendError from error

    def try_send(self, message: str | bytes) -> bool:
        """Return False: the server has to confirm each message."""
        return False

    def deliver(self, message: str) -> None:
        """Deliver a message that arrived through the server."""
        if self._listener is not None and not self.is_closed:
            self._listener.message_received(message)

    def close(self) -> None:
        """Stop delivering messages."""
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
    """Return the RPC message that a direct message carries; None if it carries none."""
    if not is_envelope(data):
        return None
    try:
        return json.dumps(data[ENVELOPE_KEY], ensure_ascii=False)
    except (RecursionError, ValueError):
        return ""  # not JSON-RPC either, and answered accordingly
