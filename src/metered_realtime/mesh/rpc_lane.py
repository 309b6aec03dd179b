"""One channel that carries calls, in one format: what goes out in which order, and whole messages that come in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ..core.rpc_chunks import CHUNK_SIZE, MAX_MESSAGE_SIZE, ChunkError, Reassembly, abandoned, is_chunk, split
from ..core.rpc_messages import HELLO, Notification, argument
from ..errors import MeteredRealtimeError
from ..log import Logger
from ..rpc.codec import RpcFormat, RpcPath, codec_of
from .rpc_transports import RpcTransport

MAX_ANSWERS_WAITING = 4_096
MAX_ANSWER_BYTES_WAITING = 32 * 1024 * 1024
"""Answers that wait for a channel, large ones aside: those keep the place of their handler. A remote that asks and does
not read gets its channel closed."""

MAX_SESSION_NAME = 64
"""Characters of the name by which a caller is known over several channels. Ours have 32."""


@dataclass(eq=False, slots=True)
class Parcel:
    """What goes out as one: a message, maybe in pieces, with what has to go before it."""

    frames: Iterator[bytes]
    is_large: bool
    number: int
    counted_bytes: int
    calls: tuple[int, ...] = ()
    on_done: Callable[[MeteredRealtimeError | None], None] = lambda error: None
    begun: bool = False
    dropped: bool = False


class Lane:
    """A channel below an endpoint. Small messages keep their order; they overtake the pieces of large ones."""

    def __init__(
        self,
        number: int,
        name: RpcFormat,
        path: RpcPath,
        transport: RpcTransport,
        *,
        session: str,
        on_failure: Callable[[Lane], None],
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
        self.opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport = transport
        self._session = session
        self._on_failure = on_failure
        self._logger = logger
        self._has_greeted = False
        self._small: deque[Parcel] = deque()
        self._large: deque[Parcel] = deque()
        self._answers = 0
        self._answer_bytes = 0
        self._last_parcel = 0
        self._reassembly = Reassembly()
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

    def inherit(self, former: Lane) -> None:
        """Take what is known about the other end from the lane that this one goes on for."""
        self.takes_pieces, self.remembers = former.takes_pieces, former.remembers
        self.has_met = former.has_met

    # --- outbound

    def post(
        self,
        message: bytes,
        *,
        before: Sequence[bytes] = (),
        calls: tuple[int, ...] = (),
        on_done: Callable[[MeteredRealtimeError | None], None] = lambda error: None,
    ) -> None:
        """Queue a message with what has to go before it. `on_done` is called once: when it was taken, or with why not.

        The size has been compared with `max_size`.
        """
        self._last_parcel += 1
        is_large = self.takes_pieces and len(message) > CHUNK_SIZE
        frames = split(self._last_parcel, message) if is_large else iter((message,))
        size = 0 if calls or len(message) > CHUNK_SIZE else len(message)
        parcel = Parcel(chain(before, frames), is_large, self._last_parcel, size, calls, on_done)
        if self.is_closed:
            on_done(MeteredRealtimeError("the channel is closed"))
            return
        self._count_answer(parcel, 1)
        (self._large if is_large else self._small).append(parcel)
        self._more.set()

    @property
    def is_flooded(self) -> bool:
        """Tell whether more answers wait than a remote that reads them could make."""
        return self._answers > MAX_ANSWERS_WAITING or self._answer_bytes > MAX_ANSWER_BYTES_WAITING

    def drop(self, call: int) -> bool:
        """Take back the request of a call. False if it went out whole, or is not alone: then the other end is told."""
        for queue in (self._small, self._large):
            for parcel in queue:
                if parcel.calls != (call,):
                    continue
                parcel.dropped = parcel.is_large
                if not parcel.begun:
                    queue.remove(parcel)
                return parcel.is_large or not parcel.begun
        return False

    def greet(self) -> None:
        """Say who calls, once: others ignore it, ends of this kind answer in kind."""
        if self._has_greeted or self.is_closed:
            return
        self._has_greeted = True
        named = {"session": self._session, "chunks": self._transport.takes_pieces, "resume": True}
        params = named if self.codec.has_names else [*named.values()]
        self.post(self.codec.encode_notification(HELLO, params))

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

    async def _advance(self, queue: deque[Parcel]) -> None:
        """Send what comes first in a queue: a small message whole, of a large one the next piece."""
        parcel = queue[0]
        parcel.begun = True
        try:
            for frame in parcel.frames:
                await self._transport.send(self._dress(frame))
                if parcel.is_large:
                    break
            else:
                self._finish(queue, parcel, None)
                return
            if parcel.dropped:
                await self._transport.send(abandoned(parcel.number))
                self._finish(queue, parcel, None)
        except MeteredRealtimeError as error:
            self._finish(queue, parcel, error)
        except Exception as error:  # a transport's own: nothing more can be expected of it
            self._logger.error("rpc channel failed", {"error": repr(error)})
            self._finish(queue, parcel, MeteredRealtimeError("the channel failed"))

    def _finish(self, queue: deque[Parcel], parcel: Parcel, error: MeteredRealtimeError | None) -> None:
        if queue and queue[0] is parcel:
            queue.popleft()
            self._count_answer(parcel, -1)
            parcel.on_done(error)

    def _count_answer(self, parcel: Parcel, sign: int) -> None:
        self._answers += 0 if parcel.calls else sign
        self._answer_bytes += sign * parcel.counted_bytes

    def _dress(self, frame: bytes) -> str | bytes:
        return frame.decode() if self.codec.is_text and not is_chunk(frame) else frame

    # --- inbound

    def whole(self, message: str | bytes) -> str | bytes | None:
        """Return a message, or None as long as it is a piece of one."""
        if not is_chunk(message):
            return message
        assert isinstance(message, bytes)
        try:
            return self._reassembly.add(message)
        except ChunkError as error:
            self._logger.warning("rpc message dropped", {"error": str(error)})
            return None

    def meet(self, hello: Notification) -> str | None:
        """Take what the other end says about itself. Return the session of its calls, if it has one."""
        self.takes_pieces = self._transport.takes_pieces and argument(hello.params, 1, "chunks") is True
        self.remembers = argument(hello.params, 2, "resume") is True
        self.has_met = True
        if not self.greeted.done():
            self.greeted.set_result(None)
        self.greet()
        session = argument(hello.params, 0, "session")
        if not isinstance(session, str) or not 0 < len(session) <= MAX_SESSION_NAME:
            return None
        return session

    # --- the end

    def close(self) -> None:
        """End it and the channel. What waits is told so."""
        if self.is_closed:
            return
        self.is_closed, self.is_open = True, False
        self._writer.cancel()
        self._transport.close()
        self._settle_opening()
        for parcel in (*self._small, *self._large):
            parcel.on_done(MeteredRealtimeError("the channel is closed"))
        self._small.clear()
        self._large.clear()

    def _settle_opening(self) -> None:
        for future in (self.opening, self.greeted) if self.is_closed else (self.opening,):
            if not future.done():
                future.set_result(None)
