"""A data channel with typed events and a bounded, backpressured send queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..aiortc_compat.message_size import max_message_size
from ..emitter import AsyncEventEmitter
from ..errors import ChannelClosedError, DataChannelOverflowError, MessageTooLargeError, MeteredRealtimeError
from ..events import DCClose, DCError, DCMessage, DCOpen, Event
from ..log import Logger
from .inbox import Inbox
from .send_queue import MAX_QUEUED_SENDS, SendQueue
from .stats import DataChannelStats, reports_for, reports_no_more
from .unheard import MAX_UNHEARD_OF_REMOTE, message_size, unheard_of
from .waiters import Waiters

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_UNHEARD_BYTES = 16 * 1024 * 1024
"""What may arrive and not be read. Beyond that the channel is closed with a `DCError`: a bare channel cannot make the
other end wait. All channels of a remote share `MAX_UNHEARD_OF_REMOTE` as well."""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""What the sends that wait may hold: 256 of the largest messages that aiortc and browsers take."""


class DataChannel(AsyncEventEmitter):
    """Wrap aiortc's data channel (RFC 8831). Events: `DCOpen`, `DCClose`, `DCError`, `DCMessage`.

    `send` waits while more than `max_buffered_amount` bytes are buffered, and fails at once when `max_queued_sends`
    calls wait already, or those hold `max_queued_bytes`. Sends are delivered to the channel in the order of the calls.
    Messages that arrive before a handler or stream for `DCMessage` exists are kept and delivered to the first one.
    `async for message in channel` reads them one by one and ends with the channel; from its beginning on messages are
    kept for it. Wake-ups come from the channel's events; `buffer_poll_interval` is accepted and not needed.

    Raises:
        ValueError: a bound is not positive, or the low threshold is outside 0..max_buffered_amount.
    """

    def __init__(
        self,
        channel: RTCDataChannel,
        *,
        max_buffered_amount: int = 1_048_576,
        buffered_amount_low_threshold: int | None = None,
        max_queued_sends: int = MAX_QUEUED_SENDS,
        buffer_poll_interval: float = 0.1,
        logger: Logger | None = None,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        super().__init__(logger)
        if max_buffered_amount <= 0:
            raise ValueError(f"max_buffered_amount must be above 0, not {max_buffered_amount!r}")
        if max_queued_sends < 0:
            raise ValueError(f"max_queued_sends must be at least 0, not {max_queued_sends!r}")
        if max_queued_bytes < 0:
            raise ValueError(f"max_queued_bytes must be at least 0, not {max_queued_bytes!r}")
        low = max_buffered_amount // 2 if buffered_amount_low_threshold is None else buffered_amount_low_threshold
        if not 0 <= low <= max_buffered_amount:
            raise ValueError(f"buffered_amount_low_threshold must be from 0 to {max_buffered_amount}, not {low!r}")
        self.label: str = channel.label
        self._channel: Any = channel
        self._cap = max_buffered_amount
        self._low = low
        self._queue: SendQueue[str | bytes] = SendQueue(
            _SendTarget(self), max_sends=max_queued_sends, max_bytes=max_queued_bytes
        )
        self._messages_sent = self._bytes_sent = self._messages_received = self._bytes_received = 0
        self._unheard_of_all = unheard_of(channel)
        self._unheard = Inbox(self._deliver, lambda: self._is_heard(DCMessage), self._unheard_of_all)
        self._opening = Waiters()
        self._draining = Waiters()
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
        reports_for(self, channel)
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

    @property
    def ordered(self) -> bool:
        """Whether messages arrive in the order in which they were sent."""
        return bool(self._channel.ordered)

    @property
    def max_retransmits(self) -> int | None:
        """How often a part of a message is sent again before it is given up. None: until it arrives."""
        return self._channel.maxRetransmits  # type: ignore[no-any-return]

    @property
    def max_packet_life_time(self) -> int | None:
        """For how many milliseconds a message is sent again before it is given up. None: until it arrives."""
        return self._channel.maxPacketLifeTime  # type: ignore[no-any-return]

    def stats(self) -> DataChannelStats:
        """Return what was sent and received through this object, and its queues now."""
        return DataChannelStats(
            label=self.label,
            id=self._channel.id,
            state=self.ready_state,
            messages_sent=self._messages_sent,
            bytes_sent=self._bytes_sent,
            messages_received=self._messages_received,
            bytes_received=self._bytes_received,
            buffered_amount=self.buffered_amount,
            queued_sends=len(self._queue),
        )

    def __aiter__(self) -> DataChannel:
        self._unheard.is_iterated = True
        return self

    async def __anext__(self) -> str | bytes:
        self._unheard.is_iterated = True
        message = await self._unheard.get()
        if not self._unheard:
            self._catch_up()
        return message

    async def wait_open(self) -> None:
        """Return when the channel is open.

        Raises:
            ChannelClosedError: it is closed, or closes first.
        """
        if self.ready_state == "connecting":
            await self._opening.wait()
        elif self.ready_state != "open":
            raise ChannelClosedError(self.label)

    async def drain(self) -> None:
        """Return when nothing waits: every send was taken, and everything taken is on its way to the other end.

        It has not arrived yet, and may be lost if the channel is closed at once: a `ManagedChannel` knows better.

        Raises:
            ChannelClosedError: it is closed, or closes first.
        """
        if self.ready_state != "open":
            raise ChannelClosedError(self.label)
        if self._queue or self.buffered_amount:
            empty = self._draining.wait()
            self._adjust_threshold()
            await empty

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes; return when the channel has taken it. Cancelling takes it back if it still waits.

        Raises:
            TypeError: neither str nor bytes.
            DataChannelOverflowError: too many sends, or too many bytes in them, wait already. Nothing was queued.
            MessageTooLargeError: the data alone is larger than `max_buffered_amount` or than the other end takes.
            ChannelClosedError: the channel is not open, or closes while this waits.
        """
        size = self._check(data)
        if not self._queue and self._fits(size):
            self._transmit(data, size)
            return
        queued = self._queue.add(data, size)
        self._adjust_threshold()
        await self._queue.wait(queued)

    def send_nowait(self, data: str | bytes) -> None:
        """Send text or bytes at once, or not at all. Raises like `send`.

        Raises:
            DataChannelOverflowError: it would have to wait. `queued` and `cap` are bytes.
        """
        size = self._check(data)
        if self._queue or not self._fits(size):
            waiting = self.buffered_amount + self._queue.bytes + size
            raise DataChannelOverflowError(waiting, self._cap, unit="bytes")
        self._transmit(data, size)

    def close(self) -> None:
        """Close the channel. Idempotent; emits nothing. Sends that wait fail, handlers are dropped, streams end."""
        if not self._ended:
            self._end()
            self._channel.close()

    def _check(self, data: str | bytes) -> int:
        """Return the size of what can be sent."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        if self.ready_state != "open":
            raise ChannelClosedError(self.label, f"it is {self.ready_state}")
        size = message_size(data)
        if size > self._cap:
            raise MessageTooLargeError(size, self._cap)
        return size

    def _fits(self, size: int) -> bool:
        return self.buffered_amount + size <= self._cap

    def _transmit(self, data: str | bytes, size: int) -> None:
        if self._channel.readyState != "open":  # it may have begun to close while this waited
            raise ChannelClosedError(self.label, f"it is {self._channel.readyState}")
        try:
            self._channel.send(data)
        except ValueError as error:  # aiortc's word for a message over the other end's max-message-size
            raise MessageTooLargeError(size, max_message_size(self._channel)) from error
        self._messages_sent += 1
        self._bytes_sent += size

    def _drain_queue(self) -> None:
        self._queue.flush()
        if self._draining and not self._queue and not self.buffered_amount:
            self._draining.release()
        self._adjust_threshold()

    def _adjust_threshold(self) -> None:
        """Ask to be woken when the next send in the queue fits, or when all is gone."""
        when_idle = 0 if self._draining else self._low
        next_size = self._queue.next_size
        room_needed = self._cap - next_size if next_size is not None else when_idle
        self._channel.bufferedAmountLowThreshold = max(0, min(self._low, room_needed))

    def _listener_added(self, event_type: type[Event]) -> None:
        if self._unheard:
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Deliver what waits for a handler: messages, then the end. A program that wants the end only gets that."""
        self._unheard.release()
        if self._closed_underneath and not self._ended and (not self._unheard or self._is_heard(DCClose)):
            self.emit(DCClose())
            self._end()

    def _on_open(self) -> None:
        if not self._ended:
            self._opening.release()
            self.emit(DCOpen())

    def _deliver(self, message: str | bytes) -> None:
        self.emit(DCMessage(message))

    def _on_message(self, message: str | bytes) -> None:
        self._messages_received += 1
        size = message_size(message)
        self._bytes_received += size
        fits = self._unheard.put(message, size)
        if self._unheard.bytes > MAX_UNHEARD_BYTES:
            self._give_up(self._unheard.bytes, MAX_UNHEARD_BYTES)
        elif not fits:
            self._give_up(self._unheard_of_all.bytes, MAX_UNHEARD_OF_REMOTE)

    def _give_up(self, waiting: int, cap: int) -> None:
        """Close the channel, since nobody reads it. An iteration still gets what it has."""
        self._unheard_of_all.closed += 1
        self.emit(DCError(DataChannelOverflowError(waiting, cap, unit="bytes")))
        self.close()
        if not self._unheard.is_iterated:
            self._unheard.clear()

    def _on_error(self, error: Any = None) -> None:
        self.emit(DCError(error if isinstance(error, Exception) else MeteredRealtimeError(str(error))))

    def _on_close(self) -> None:
        if not self._ended:
            self._closed_underneath = True
            self._fail_waiting()
            self._catch_up()

    def _end(self) -> None:
        self._ended = True
        reports_no_more(self, self._channel)
        for event, listener in self._listeners.items():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)
        self._fail_waiting()
        self._unheard.end()
        self._drop_listeners()

    def _fail_waiting(self) -> None:
        for waiting in (self._queue, self._opening, self._draining):
            waiting.fail(lambda: ChannelClosedError(self.label, "it closed"))


class _SendTarget:
    """The data channel as the target of its own queue."""

    def __init__(self, channel: DataChannel) -> None:
        self._channel = channel

    def has_room(self, size: int) -> bool:
        return self._channel._fits(size)

    def send_queued(self, message: str | bytes, size: int) -> None:
        self._channel._transmit(message, size)

    def send_withdrawn(self) -> None:
        self._channel._drain_queue()
