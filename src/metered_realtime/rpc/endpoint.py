"""This end of the calls with one remote.

The way of a call: `RpcClient` -> `Calls` -> `RpcChannel` -> transport, and its answer: transport -> `RpcChannel` ->
`RpcEndpoint` -> `Calls`. Requests of the remote go from the endpoint to `Serving`, which sends the answers on their
channel. `RpcChannels` opens the channels and knows what follows when one ends.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

from ..core.rpc.chunks import ChunkError
from ..core.rpc.messages import HELLO, BadReply, BadRequest, Failure, Inbound, Message, Notification, Success
from ..log import Logger, NoopLogger
from .built_in import RpcUnknownIdError, RpcUnsupportedVersionError
from .calls import Calls
from .channels import RpcChannels, RpcConnection
from .codec import DEFAULT_FORMAT, RpcFormat, RpcPath, codec_of
from .methods import RpcMethods
from .rpc_channel import RpcChannel
from .serving import Serving
from .transports import RpcTransport

CLOSE_TIMEOUT = 1.0
"""Seconds that cancelled handlers may take to clean up."""

_UNREADABLE = (BadRequest(None, -32700),)


@dataclass(frozen=True, slots=True)
class RpcStats:
    """Statistics of the calls with one remote: what is pending now, and counters since it joined.

    `pending` counts calls of this end; `running` and `queued` those of the remote.
    """

    pending: int
    running: int
    queued: int
    channels: int
    dropped_answers: int
    dropped_notifications: int
    repeated_requests: int
    malformed: int


class RpcEndpoint:
    """Distributes the messages of one remote, and follows the life of its channels and of the connection below them.

    `identity` is the id of the remote.
    """

    def __init__(
        self, connection: RpcConnection, *, identity: str, methods: RpcMethods, logger: Logger | None = None
    ) -> None:
        self.errors = methods.errors
        self._identity = identity
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._channels = RpcChannels(connection, self, instance_id=uuid.uuid4().hex, logger=self._logger)
        self._serving = Serving(self._channels, methods, identity, self._logger)
        self.calls = Calls(self._channels)
        self._malformed = 0

    # --- for the owner

    def serve(self, transport: RpcTransport, format: RpcFormat = DEFAULT_FORMAT, path: RpcPath = "p2p") -> bool:
        """Serve a transport that the remote opened. Close it and return False if there are too many."""
        return self._channels.serve(transport, format, path) is not None

    def connection_replaced(self) -> None:
        """Continue over a new connection: open new direct channels, and repeat once what has no answer."""
        for channel in self._channels.connection_replaced():
            self.calls.channel_replaced(channel)

    def connection_lost(self) -> None:
        """Give up the direct channels: their connection is not replaced. Later calls may open new ones."""
        self._channels.connection_lost()

    def close(self) -> None:
        """Close the channels and cancel the handlers: the remote has left. Idempotent.

        Pending calls fail with `RpcRecipientDisconnectedError`, later ones with `RpcRecipientNotFoundError`.
        """
        if self._channels.is_closed:
            return
        self.calls.close()
        self._serving.close()
        self._channels.close()

    async def wait_closed(self) -> None:
        """Close, and return when the handlers have ended, or after `CLOSE_TIMEOUT`. May be awaited in a handler."""
        self.close()
        tasks = [task for task in self._serving.handler_tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)

    def stats(self) -> RpcStats:
        """Return the current statistics."""
        caller, callee = self.calls.caller, self._serving.callee
        return RpcStats(
            pending=len(self.calls),
            running=callee.running,
            queued=callee.queued,
            channels=len(self._channels),
            dropped_answers=caller.dropped_answers,
            dropped_notifications=callee.dropped_notifications,
            repeated_requests=callee.repeated_requests,
            malformed=self._malformed,
        )

    # --- for the channels

    def channel_opened(self, channel: RpcChannel) -> None:
        """Serve a new channel."""
        self._serving.channel_opened(channel)

    def channel_closed(self, channel: RpcChannel) -> None:
        """Stop serving a channel. Its calls wait until it is known whether it has a successor."""
        self._serving.channel_closed(channel)

    def channel_given_up(self, channel: RpcChannel) -> None:
        """Fail the calls of a channel that has no successor."""
        self.calls.channel_given_up(channel)

    def message_received(self, channel: RpcChannel, message: str | bytes) -> None:
        """Decode a message and pass on its answers and requests."""
        inbound = channel.codec.decode(message)
        if inbound.fault is not None:
            self._warn("rpc message refused", self._malformed + 1, error=inbound.fault)
        if self._is_other_format(channel, message, inbound):
            return
        has_requests = [self._receive_item(channel, item) for item in inbound.items]
        if any(has_requests):
            self._serving.receive_requests(channel, inbound, len(message))
        if channel.is_flooded:
            self._logger.warning("rpc channel closed: its answers are not read", {"peer": self._identity})
            self._channels.channel_failed(channel)

    def chunk_refused(self, channel: RpcChannel, error: ChunkError) -> None:
        """Count and log a chunk that was dropped."""
        self._malformed += 1
        self._warn("rpc message dropped", self._malformed, error=str(error))

    def _receive_item(self, channel: RpcChannel, item: Message) -> bool:
        """Handle an answer or a hello. Return whether the item is a request or notification."""
        match item:
            case Success() | Failure() | BadReply():
                if not self.calls.receive_answer(item, channel):
                    dropped = self.calls.caller.dropped_answers
                    self._warn("rpc answer dropped", dropped, error=RpcUnknownIdError.__name__)
                return False
            case Notification(method) if method == HELLO:
                instance_id = channel.receive_hello(item)
                if instance_id is not None:
                    self._serving.identify_caller(channel, instance_id)
                return False
            case BadRequest():
                self._malformed += 1
        return True

    def _is_other_format(self, channel: RpcChannel, message: str | bytes, inbound: Inbound) -> bool:
        """Return whether the remote has answered in another format, so it lacks the format of the channel."""
        if inbound.items != _UNREADABLE or not _answers_otherwise(message, channel.format):
            return False
        self._malformed += 1
        is_refused = self._channels.refuse_format(channel)
        return self.calls.fail_calls(channel, RpcUnsupportedVersionError()) or is_refused

    def _warn(self, what: str, count: int, **context: str) -> None:
        """Log a fault of the remote each time that its count has doubled: the remote decides how often it occurs."""
        if count & (count - 1) == 0:
            self._logger.warning(what, {"peer": self._identity, "count": count, **context})


def _answers_otherwise(message: str | bytes, format: RpcFormat) -> bool:
    """Return whether a message that is unreadable in a format is an answer in the other, or text in a binary one."""
    if isinstance(message, str):
        return not codec_of(format).is_text
    (answer, *_) = codec_of("msgpack-rpc").decode(message).items
    return codec_of(format).is_text and isinstance(answer, Success | Failure | BadReply)
