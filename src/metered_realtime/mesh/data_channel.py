"""A data channel with typed events and a bounded, backpressured send queue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from ..emitter import AsyncEventEmitter
from ..errors import DataChannelOverflowError, MeteredRealtimeError
from ..events import DCClose, DCError, DCMessage, DCOpen, Event
from ..log import Logger

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_UNHEARD_BYTES = 16 * 1024 * 1024
"""What may arrive before a `DCMessage` handler exists. Beyond that the channel is closed with a `DCError`."""


class DataChannel(AsyncEventEmitter):
    """Wrap aiortc's data channel (RFC 8831). Events: `DCOpen`, `DCClose`, `DCError`, `DCMessage`.

    `send` waits while more than `max_buffered_amount` bytes are buffered, and fails at once when `max_queued_sends`
    calls wait already. Sends are delivered to the channel in the order of the calls. Messages that arrive before
    a handler or stream for `DCMessage` exists are kept and delivered to the first one. Wake-ups come from the channel's
    events; `buffer_poll_interval` is accepted and not needed.

    Raises:
        ValueError: a bound is not positive, or the low threshold is outside 0..max_buffered_amount.
    """

    def __init__(
        self,
        channel: RTCDataChannel,
        *,
        max_buffered_amount: int = 1_048_576,
        buffered_amount_low_threshold: int | None = None,
        max_queued_sends: int = 256,
        buffer_poll_interval: float = 0.1,
        logger: Logger | None = None,
    ) -> None:
        super().__init__(logger)
        if max_buffered_amount <= 0:
            raise ValueError(f"max_buffered_amount must be above 0, not {max_buffered_amount!r}")
        if max_queued_sends < 0:
            raise ValueError(f"max_queued_sends must be at least 0, not {max_queued_sends!r}")
        low = max_buffered_amount // 2 if buffered_amount_low_threshold is None else buffered_amount_low_threshold
        if not 0 <= low <= max_buffered_amount:
            raise ValueError(f"buffered_amount_low_threshold must be from 0 to {max_buffered_amount}, not {low!r}")
        self.label: str = channel.label
        self._channel: Any = channel
        self._cap = max_buffered_amount
        self._low = low
        self._max_queued = max_queued_sends
        self._queue: deque[_QueuedSend] = deque()
        self._unheard: deque[str | bytes] = deque()
        self._unheard_bytes = 0
        self._closed_underneath = False
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, Any] = {
            "open": self._on_open,
            "close": self._on_close,
            "error": self._on_error,
            "message": self._on_message,
            "bufferedamountlow": self._drain_queue,
        }
        for event, listener in self._listeners.items():
            self._channel.on(event, listener)
        if channel.readyState == "open":
            # An inbound channel is open before anybody can listen for it.
            self._loop.call_soon(self._on_open)
        elif channel.readyState == "closed":
            self._loop.call_soon(self._on_close)

    def __repr__(self) -> str:
        return f"<DataChannel {self.label!r} {self.ready_state}>"

    @property
    def ready_state(self) -> str:
        """`connecting`, `open`, `closing` or `closed`."""
        return "closed" if self._ended else str(self._channel.readyState)

    @property
    def buffered_amount(self) -> int:
        """The bytes that the channel has not sent yet. Sends that wait are not among them."""
        return int(self._channel.bufferedAmount)

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes; return when the channel has taken it. Cancelling takes it back if it still waits.

        Raises:
            TypeError: neither str nor bytes.
            DataChannelOverflowError: too many sends wait already. Nothing was queued.
            MeteredRealtimeError: the channel is not open, closes while this waits, or the data alone is larger than
                `max_buffered_amount` or than the other end takes.
        """
        if not isinstance(data, str | bytes):
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        if self.ready_state != "open":
            raise MeteredRealtimeError(f"data channel {self.label!r} is {self.ready_state}")
        size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        if size > self._cap:
            raise MeteredRealtimeError(f"{size} bytes exceed max_buffered_amount, which is {self._cap}")
        if not self._queue and self._fits(size):
            self._transmit(data)
            return
        if len(self._queue) >= self._max_queued:
            raise DataChannelOverflowError(len(self._queue), self._max_queued)
        await self._wait_in_queue(_QueuedSend(data, size, self._loop.create_future()))

    def close(self) -> None:
        """Close the channel. Idempotent; emits nothing. Sends that wait fail, handlers are dropped, streams end."""
        if not self._ended:
            self._end()
            self._channel.close()

    async def _wait_in_queue(self, item: _QueuedSend) -> None:
        self._queue.append(item)
        self._adjust_threshold()
        try:
            await item.done
        except asyncio.CancelledError:
            if item in self._queue:
                self._queue.remove(item)
                self._drain_queue()
            raise

    def _fits(self, size: int) -> bool:
        return self.buffered_amount + size <= self._cap

    def _transmit(self, data: str | bytes) -> None:
        if self._channel.readyState != "open":  # it may have begun to close while this waited
            raise MeteredRealtimeError(f"data channel {self.label!r} is {self._channel.readyState}")
        try:
            self._channel.send(data)
        except ValueError as error:  # aiortc's word for a message over the other end's max-message-size
            raise MeteredRealtimeError(str(error)) from error

    def _drain_queue(self) -> None:
        while self._queue and (self._queue[0].done.done() or self._fits(self._queue[0].size)):
            item = self._queue.popleft()
            if item.done.done():
                continue
            try:
                self._transmit(item.data)
            except Exception as error:
                item.done.set_exception(error)
            else:
                item.done.set_result(None)
        self._adjust_threshold()

    def _adjust_threshold(self) -> None:
        """Ask to be woken when the next send in the queue fits."""
        room_needed = self._cap - self._queue[0].size if self._queue else self._low
        self._channel.bufferedAmountLowThreshold = max(0, min(self._low, room_needed))

    def _listener_added(self, event_type: type[Event]) -> None:
        if self._unheard:
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Deliver what waits for a handler: messages, then the end. A program that wants the end only gets that."""
        while self._unheard and self._is_heard(DCMessage):
            message = self._unheard.popleft()
            self._unheard_bytes -= len(message)
            self.emit(DCMessage(message))
        if self._closed_underneath and not self._ended and (not self._unheard or self._is_heard(DCClose)):
            self.emit(DCClose())
            self._end()

    def _on_open(self) -> None:
        if not self._ended:
            self.emit(DCOpen())

    def _on_message(self, message: str | bytes) -> None:
        if not self._unheard and self._is_heard(DCMessage):
            self.emit(DCMessage(message))
            return
        self._unheard.append(message)
        self._unheard_bytes += len(message)
        if self._unheard_bytes > MAX_UNHEARD_BYTES:
            self.emit(DCError(DataChannelOverflowError(self._unheard_bytes, MAX_UNHEARD_BYTES)))
            self.close()

    def _on_error(self, error: Any = None) -> None:
        self.emit(DCError(error if isinstance(error, Exception) else MeteredRealtimeError(str(error))))

    def _on_close(self) -> None:
        if not self._ended:
            self._closed_underneath = True
            self._fail_waiting()
            self._catch_up()

    def _end(self) -> None:
        self._ended = True
        for event, listener in self._listeners.items():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)
        self._fail_waiting()
        self._drop_listeners()

    def _fail_waiting(self) -> None:
        waiting, self._queue = self._queue, deque()
        for item in waiting:
            if not item.done.done():
                item.done.set_exception(MeteredRealtimeError(f"data channel {self.label!r} closed"))


class _QueuedSend:
    __slots__ = ("data", "done", "size")

    def __init__(self, data: str | bytes, size: int, done: asyncio.Future[None]) -> None:
        self.data = data
        self.size = size
        self.done = done
