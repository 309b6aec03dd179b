"""One channel that carries calls in one format: the order of what is sent, and the messages that arrive."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from ..core.rpc.chunks import (
    CHUNK_SIZE,
    MAX_MESSAGE_SIZE,
    ChunkError,
    MessageReassembly,
    PartialBytes,
    abandoned,
    is_chunk,
    split,
)
from ..core.rpc.messages import HELLO, Notification, argument
from ..errors import MeteredRealtimeError
from ..log import Logger
from .codec import RpcFormat, RpcPath, codec_of
from .transports import RpcTransport

MAX_ANSWERS_WAITING = 4_096
MAX_ANSWER_BYTES_WAITING = 32 * 1024 * 1024
"""Answers that wait to be sent, without the bytes of large ones, which keep the place of their handler. A remote that
sends requests and does not read the answers has its channel closed."""

MAX_INSTANCE_ID_LENGTH = 64
"""Characters of an instance id. Those of this implementation have 32."""


OnDone = Callable[[MeteredRealtimeError | None], None]
"""Called once: when a message was accepted by the transport, or with the error that prevented it."""


class RpcChannelOwner(Protocol):
    """Owns the channels of a remote."""

    def channel_failed(self, channel: RpcChannel) -> None:
        """Handle a channel that cannot send any more."""


class MessageReceiver(Protocol):
    """Receives the messages of all channels of a remote."""

    def message_received(self, channel: RpcChannel, message: str | bytes) -> None:
        """Handle a whole message."""

    def chunk_refused(self, channel: RpcChannel, error: ChunkError) -> None:
        """Handle a malformed or excessive chunk, which was dropped."""


@dataclass(eq=False, slots=True)
class OutboundMessage:
    """A message to send, whole or in chunks, and the frames that precede it."""

    frames: Iterator[bytes]
    number: int
    on_done: OnDone
    is_large: bool
    answer_bytes: int | None = None
    begun: bool = False
    is_done: bool = False

    def finish(self, error: MeteredRealtimeError | None) -> None:
        """Report that the message was accepted, or the error that prevented it."""
        self.is_done = True
        self.on_done(error)


class RpcChannel:
    """Sends and receives messages over one transport. Small messages keep their order and overtake large ones.

    `instance_id` names this run of the peer in the hello; `partial` is shared by all channels of the remote.

    `opening` is done once the channel is open or closed, `hello_received` once the hello of the remote has arrived or
    the channel is closed, `resolved` once it is known whether a channel that ended has a successor.
    """

    def __init__(
        self,
        number: int,
        format: RpcFormat,
        path: RpcPath,
        transport: RpcTransport,
        *,
        owner: RpcChannelOwner,
        receiver: MessageReceiver,
        instance_id: str,
        partial: PartialBytes,
        logger: Logger,
    ) -> None:
        self.number = number
        self.format: RpcFormat = format
        self.path: RpcPath = path
        self.codec = codec_of(format)
        self.is_open = False
        self.is_closed = False
        self.is_refused = False
        self.is_given_up = False
        self.sends_chunks = False
        self.deduplicates = False
        self.knows_remote = False
        loop = asyncio.get_running_loop()
        self.opening: asyncio.Future[None] = loop.create_future()
        self.hello_received: asyncio.Future[None] = loop.create_future()
        self.resolved: asyncio.Future[None] = loop.create_future()
        self._transport = transport
        self._owner = owner
        self._receiver = receiver
        self._instance_id = instance_id
        self._logger = logger
        self._has_sent_hello = False
        self._small: deque[OutboundMessage] = deque()
        self._large: deque[OutboundMessage] = deque()
        self._answers = 0
        self._answer_bytes = 0
        self._last_number = 0
        self._reassembly = MessageReassembly(partial)
        self._more = asyncio.Event()
        self._writer = asyncio.ensure_future(self._write())

    @property
    def max_size(self) -> int:
        """Maximum size of a message that can be sent, in bytes."""
        return MAX_MESSAGE_SIZE if self.sends_chunks else self._transport.max_message_size

    @property
    def may_accept_chunks(self) -> bool:
        """Whether the hello of the remote is still missing and may announce that larger messages can be sent."""
        return self._transport.supports_chunks and not self.hello_received.done()

    def inherit_features(self, predecessor: RpcChannel) -> None:
        """Assume what the hello on another channel has announced, until one arrives on this channel."""
        self.sends_chunks, self.deduplicates = predecessor.sends_chunks, predecessor.deduplicates
        self.knows_remote = predecessor.knows_remote

    # --- outbound

    def send(
        self, message: bytes, on_done: OnDone = lambda error: None, *, before: Sequence[bytes] = ()
    ) -> OutboundMessage:
        """Send a message of at most `max_size` bytes, at once if nothing waits and there is room for it.

        `before` are messages that are sent immediately before it.
        """
        return self._enter(message, on_done, before, None)

    def send_answer(self, message: bytes, on_done: OnDone | None = None) -> None:
        """Send an answer. One with `on_done` is not counted in bytes: it keeps the place of its handler until then."""
        self._enter(message, on_done or self._log_lost_answer, (), 0 if on_done is not None else len(message))

    @property
    def is_flooded(self) -> bool:
        """Whether more answers wait than they could if the remote read them."""
        return self._answers > MAX_ANSWERS_WAITING or self._answer_bytes > MAX_ANSWER_BYTES_WAITING

    def withdraw(self, outbound: OutboundMessage) -> bool:
        """Take back a message. Return False if the remote may receive some of it, and has to be told otherwise."""
        if not outbound.begun:
            outbound.frames = iter(())
        elif outbound.is_large:
            outbound.frames = iter((abandoned(outbound.number),))
        return not outbound.begun

    def send_hello(self) -> None:
        """Send the hello once; it identifies this instance and its features. Foreign ends ignore it."""
        if self._has_sent_hello or self.is_closed:
            return
        self._has_sent_hello = True
        by_name = {"session": self._instance_id, "chunks": self._transport.supports_chunks, "resume": True}
        params = by_name if self.codec.has_names else [*by_name.values()]
        self.send(self.codec.encode_notification(HELLO, params))

    def _enter(
        self, message: bytes, on_done: OnDone, before: Sequence[bytes], answer_bytes: int | None
    ) -> OutboundMessage:
        self._last_number += 1
        is_large = self.sends_chunks and len(message) > CHUNK_SIZE
        frames = split(self._last_number, message) if is_large else iter((message,))
        frames = chain(before, frames) if before else frames
        outbound = OutboundMessage(frames, self._last_number, on_done, is_large, answer_bytes)
        if self.is_closed:
            outbound.finish(MeteredRealtimeError("the channel is closed"))
        elif is_large:
            self._queue(self._large, outbound)
        elif self._small or self._large or not self.is_open or not self._send_at_once(outbound):
            self._queue(self._small, outbound)
        return outbound

    def _send_at_once(self, outbound: OutboundMessage) -> bool:
        """Send a small message at once; return False if some of it has to wait.

        An answer then travels in one datagram with the acknowledgement of its request.
        """
        try:
            for frame in outbound.frames:
                if not self._transport.try_send(self._as_sent(frame)):
                    outbound.frames = chain((frame,), outbound.frames)
                    return False
                outbound.begun = True
        except Exception as error:
            outbound.finish(self._transport_error(error))
        else:
            outbound.finish(None)
        return True

    def _queue(self, queue: deque[OutboundMessage], outbound: OutboundMessage) -> None:
        self._count_answer(outbound, 1)
        queue.append(outbound)
        self._more.set()

    async def _write(self) -> None:
        try:
            await self._transport.opened()
        except MeteredRealtimeError:
            self._owner.channel_failed(self)
            return
        self.is_open = True
        self._end_opening()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._small or self._large:
                if self._small:
                    await self._advance(self._small)
                if self._large:
                    await self._advance(self._large)

    async def _advance(self, queue: deque[OutboundMessage]) -> None:
        """Send the first message of a queue: a small one whole, of a large one the next chunk."""
        outbound = queue[0]
        try:
            for frame in outbound.frames:
                outbound.begun = True
                await self._transport.send(self._as_sent(frame))
                if outbound.is_large:
                    return
        except Exception as error:
            self._dequeue(queue, outbound, self._transport_error(error))
        else:
            self._dequeue(queue, outbound, None)

    def _transport_error(self, error: Exception) -> MeteredRealtimeError:
        """Return an error of the transport. An unexpected one is logged, and means that the channel has failed."""
        if isinstance(error, MeteredRealtimeError):
            return error
        self._logger.error("rpc channel failed", {"error": repr(error)})
        return MeteredRealtimeError("the channel failed")

    def _dequeue(
        self, queue: deque[OutboundMessage], outbound: OutboundMessage, error: MeteredRealtimeError | None
    ) -> None:
        if queue and queue[0] is outbound:
            queue.popleft()
            self._count_answer(outbound, -1)
            outbound.finish(error)

    def _count_answer(self, outbound: OutboundMessage, sign: int) -> None:
        if outbound.answer_bytes is not None:
            self._answers += sign
            self._answer_bytes += sign * outbound.answer_bytes

    def _log_lost_answer(self, error: MeteredRealtimeError | None) -> None:
        if error is not None and not self.is_closed:
            self._logger.warning("rpc answer not sent", {"error": str(error)})

    def _as_sent(self, frame: bytes) -> str | bytes:
        return frame.decode() if self.codec.is_text and not is_chunk(frame) else frame

    # --- inbound

    def message_received(self, message: str | bytes) -> None:
        """Pass a message of the transport to the receiver, once all its chunks have arrived."""
        if self.is_closed:
            return
        if isinstance(message, bytes) and is_chunk(message):
            self._receive_chunk(message)
        else:
            self._receiver.message_received(self, message)

    def _receive_chunk(self, chunk: bytes) -> None:
        try:
            message = self._reassembly.add_chunk(chunk)
        except ChunkError as error:
            self._receiver.chunk_refused(self, error)
            return
        if message is not None:
            self._receiver.message_received(self, message)

    def receive_hello(self, hello: Notification) -> str | None:
        """Adopt the features that the hello of the remote announces; return its instance id, if it has one."""
        self.sends_chunks = self._transport.supports_chunks and argument(hello.params, 1, "chunks") is True
        self.deduplicates = argument(hello.params, 2, "resume") is True
        self.knows_remote = True
        if not self.hello_received.done():
            self.hello_received.set_result(None)
        self.send_hello()
        instance_id = argument(hello.params, 0, "session")
        if not isinstance(instance_id, str) or not 0 < len(instance_id) <= MAX_INSTANCE_ID_LENGTH:
            return None
        return instance_id

    # --- the end

    def transport_closed(self) -> None:
        """Report to the owner that the channel cannot send any more."""
        self._owner.channel_failed(self)

    def close(self) -> None:
        """Close the channel and its transport. Messages that wait end with an error. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self.is_open = True, False
        self._writer.cancel()
        self._transport.close()
        self._reassembly.clear()
        self._end_opening()
        for outbound in (*self._small, *self._large):
            outbound.finish(MeteredRealtimeError("the channel is closed"))
        self._small.clear()
        self._large.clear()

    def _end_opening(self) -> None:
        for future in (self.opening, self.hello_received) if self.is_closed else (self.opening,):
            if not future.done():
                future.set_result(None)
