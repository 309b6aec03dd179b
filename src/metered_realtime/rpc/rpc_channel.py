"""One channel that carries calls, in one format: what goes out in which order, and whole messages that come in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ..core.rpc.chunks import CHUNK_SIZE, MAX_MESSAGE_SIZE, MessageReassembly, PartialBytes, abandoned, is_chunk, split
from ..core.rpc.messages import HELLO, Notification, argument
from ..errors import MeteredRealtimeError
from ..log import Logger
from .codec import RpcFormat, RpcPath, codec_of
from .transports import RpcTransport

MAX_ANSWERS_WAITING = 4_096
MAX_ANSWER_BYTES_WAITING = 32 * 1024 * 1024
"""Answers that wait for a channel, without the bytes of large ones that keep the place of their handler. A remote that
asks and does not read gets its channel closed."""

MAX_INSTANCE_ID_LENGTH = 64
"""Characters of the name by which a caller is known over several channels. Ours have 32."""


OnDone = Callable[[MeteredRealtimeError | None], None]
"""Called once: when a message was taken, or with why it was not."""


@dataclass(eq=False, slots=True)
class OutboundMessage:
    """What goes out as one: a message, maybe in pieces, with what has to go before it."""

    frames: Iterator[bytes]
    number: int
    on_done: OnDone
    is_large: bool
    answer_bytes: int | None = None
    begun: bool = False
    is_done: bool = False

    def end(self, error: MeteredRealtimeError | None) -> None:
        """Tell whoever sent it that it was taken, or why it was not."""
        self.is_done = True
        self.on_done(error)


class RpcChannel:
    """A channel below an endpoint. Small messages keep their order; they overtake the pieces of large ones."""

    def __init__(
        self,
        number: int,
        name: RpcFormat,
        path: RpcPath,
        transport: RpcTransport,
        *,
        instance_id: str,
        on_failure: Callable[[RpcChannel], None],
        partial: PartialBytes,
        logger: Logger,
    ) -> None:
        self.number = number
        self.format: RpcFormat = name
        self.path: RpcPath = path
        self.codec = codec_of(name)
        self.is_open = False
        self.is_closed = False
        self.is_refused = False
        self.is_given_up = False
        self.takes_pieces = False
        self.remembers = False
        self.has_met = False
        loop = asyncio.get_running_loop()
        self.opening: asyncio.Future[None] = loop.create_future()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.fate: asyncio.Future[None] = loop.create_future()
        self._transport = transport
        self._instance_id = instance_id
        self._on_failure = on_failure
        self._logger = logger
        self._has_greeted = False
        self._small: deque[OutboundMessage] = deque()
        self._large: deque[OutboundMessage] = deque()
        self._answers = 0
        self._answer_bytes = 0
        self._last_outbound = 0
        self._reassembly = MessageReassembly(partial)
        self._more = asyncio.Event()
        self._writer = asyncio.ensure_future(self._write())

    @property
    def max_size(self) -> int:
        """The bytes of a message that can go out."""
        return MAX_MESSAGE_SIZE if self.takes_pieces else self._transport.max_message_size

    @property
    def may_take_pieces(self) -> bool:
        """Tell whether the other end could still say that it takes larger messages, in pieces."""
        return self._transport.takes_pieces and not self.greeted.done()

    def inherit(self, former: RpcChannel) -> None:
        """Take what is known about the other end from the channel that this one goes on for."""
        self.takes_pieces, self.remembers = former.takes_pieces, former.remembers
        self.has_met = former.has_met

    # --- outbound

    def post(
        self, message: bytes, on_done: OnDone = lambda error: None, *, before: Sequence[bytes] = ()
    ) -> OutboundMessage:
        """Send a message of this end, at once if nothing waits and there is room, after what has to go before it.

        The size has been compared with `max_size`.
        """
        return self._enter(message, on_done, before, None)

    def answer(self, message: bytes, on_done: OnDone | None = None) -> None:
        """Send an answer. With `on_done` it keeps the place of its handler until then, which bounds such answers."""
        self._enter(message, on_done or self._note_lost_answer, (), 0 if on_done is not None else len(message))

    @property
    def is_flooded(self) -> bool:
        """Tell whether more answers wait than a remote that reads them could make."""
        return self._answers > MAX_ANSWERS_WAITING or self._answer_bytes > MAX_ANSWER_BYTES_WAITING

    def drop(self, outbound: OutboundMessage) -> bool:
        """Take a message back. False if the other end may have it, whole or in part, and has to be told."""
        if not outbound.begun:
            outbound.frames = iter(())
        elif outbound.is_large:
            outbound.frames = iter((abandoned(outbound.number),))
        return not outbound.begun

    def greet(self) -> None:
        """Say who calls, once: others ignore it, ends of this kind answer in kind."""
        if self._has_greeted or self.is_closed:
            return
        self._has_greeted = True
        named = {"session": self._instance_id, "chunks": self._transport.takes_pieces, "resume": True}
        params = named if self.codec.has_names else [*named.values()]
        self.post(self.codec.encode_notification(HELLO, params))

    def _enter(
        self, message: bytes, on_done: OnDone, before: Sequence[bytes], answer_bytes: int | None
    ) -> OutboundMessage:
        self._last_outbound += 1
        is_large = self.takes_pieces and len(message) > CHUNK_SIZE
        frames = split(self._last_outbound, message) if is_large else iter((message,))
        frames = chain(before, frames) if before else frames
        outbound = OutboundMessage(frames, self._last_outbound, on_done, is_large, answer_bytes)
        if self.is_closed:
            outbound.end(MeteredRealtimeError("the channel is closed"))
        elif is_large:
            self._queue(self._large, outbound)
        elif self._small or self._large or not self.is_open or not self._send_now(outbound):
            self._queue(self._small, outbound)
        return outbound

    def _send_now(self, outbound: OutboundMessage) -> bool:
        """Send a small message at once. False if some of it has to wait.

        In answer to something it travels with the acknowledgement of that, in one datagram.
        """
        try:
            for frame in outbound.frames:
                if not self._transport.send_now(self._dress(frame)):
                    outbound.frames = chain((frame,), outbound.frames)
                    return False
                outbound.begun = True
        except Exception as error:
            outbound.end(self._failure(error))
        else:
            outbound.end(None)
        return True

    def _queue(self, queue: deque[OutboundMessage], outbound: OutboundMessage) -> None:
        self._count_answer(outbound, 1)
        queue.append(outbound)
        self._more.set()

    async def _write(self) -> None:
        try:
            await self._transport.opened()
        except MeteredRealtimeError:
            self._on_failure(self)
            return
        self.is_open = True
        self._settle_opening()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._small or self._large:
                if self._small:
                    await self._advance(self._small)
                if self._large:
                    await self._advance(self._large)

    async def _advance(self, queue: deque[OutboundMessage]) -> None:
        """Send what comes first in a queue: a small message whole, of a large one the next piece."""
        outbound = queue[0]
        try:
            for frame in outbound.frames:
                outbound.begun = True
                await self._transport.send(self._dress(frame))
                if outbound.is_large:
                    return
        except Exception as error:
            self._finish(queue, outbound, self._failure(error))
        else:
            self._finish(queue, outbound, None)

    def _failure(self, error: Exception) -> MeteredRealtimeError:
        """Return what a transport raised. After an error of its own kind nothing more can be expected of it."""
        if isinstance(error, MeteredRealtimeError):
            return error
        self._logger.error("rpc channel failed", {"error": repr(error)})
        return MeteredRealtimeError("the channel failed")

    def _finish(
        self, queue: deque[OutboundMessage], outbound: OutboundMessage, error: MeteredRealtimeError | None
    ) -> None:
        if queue and queue[0] is outbound:
            queue.popleft()
            self._count_answer(outbound, -1)
            outbound.end(error)

    def _count_answer(self, outbound: OutboundMessage, sign: int) -> None:
        if outbound.answer_bytes is not None:
            self._answers += sign
            self._answer_bytes += sign * outbound.answer_bytes

    def _note_lost_answer(self, error: MeteredRealtimeError | None) -> None:
        if error is not None and not self.is_closed:
            self._logger.warning("rpc answer not sent", {"error": str(error)})

    def _dress(self, frame: bytes) -> str | bytes:
        return frame.decode() if self.codec.is_text and not is_chunk(frame) else frame

    # --- inbound

    def whole(self, message: str | bytes) -> str | bytes | None:
        """Return a message, or None as long as it is a piece of one.

        Raises:
            ChunkError: pieces that exceed what is taken, or make no sense.
        """
        if not is_chunk(message):
            return message
        assert isinstance(message, bytes)
        return self._reassembly.add(message)

    def meet(self, hello: Notification) -> str | None:
        """Take what the other end says about itself. Return the id of its instance, if it gives one."""
        self.takes_pieces = self._transport.takes_pieces and argument(hello.params, 1, "chunks") is True
        self.remembers = argument(hello.params, 2, "resume") is True
        self.has_met = True
        if not self.greeted.done():
            self.greeted.set_result(None)
        self.greet()
        instance_id = argument(hello.params, 0, "session")
        if not isinstance(instance_id, str) or not 0 < len(instance_id) <= MAX_INSTANCE_ID_LENGTH:
            return None
        return instance_id

    # --- the end

    def close(self) -> None:
        """End it and the channel. What waits is told so."""
        if self.is_closed:
            return
        self.is_closed, self.is_open = True, False
        self._writer.cancel()
        self._transport.close()
        self._reassembly.clear()
        self._settle_opening()
        for outbound in (*self._small, *self._large):
            outbound.end(MeteredRealtimeError("the channel is closed"))
        self._small.clear()
        self._large.clear()

    def _settle_opening(self) -> None:
        for future in (self.opening, self.greeted) if self.is_closed else (self.opening,):
            if not future.done():
                future.set_result(None)
