"""A data channel with typed events and a bounded, backpressured send queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..aiortc_compat.message_size import max_message_size
from ..emitter import AsyncEventEmitter
from ..errors import ChannelClosedError, DataChannelOverflowError, MessageTooLargeError, MeteredRealtimeError
from ..events import DCClose, DCError, DCMessage, DCOpen, Event
from ..events.emitted import BY_DATA_CHANNEL
from ..log import Logger
from .inbox import Inbox
from .send_queue import MAX_QUEUED_SENDS, SendQueue
from .stats import DataChannelStats, reports_for, reports_no_more
from .unread import MAX_UNREAD_OF_REMOTE, message_size, unread_of
from .waiters import Waiters

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Maximum unread bytes. Beyond that the channel is closed with a `DCError`, because a bare channel cannot make the
other end wait. All channels of a remote also share `MAX_UNREAD_OF_REMOTE`."""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Maximum bytes in waiting calls of `send`: 256 of the largest messages that aiortc and browsers accept."""


class DataChannel(AsyncEventEmitter):
    """Wrap a data channel of aiortc (RFC 8831). Events: `DCOpen`, `DCClose`, `DCError`, `DCMessage`.

    `send` waits while `max_buffered_amount` bytes are buffered, and fails at once when `max_queued_sends` calls with
    `max_queued_bytes` in them wait already. Messages are sent in the order of the calls. Messages that arrive before a
    handler or stream for `DCMessage` is registered are held for the first one. `async for message in channel` reads
    messages one by one and ends with the channel; once it has started, every message is held for it. The channel is
    event-driven: `buffer_poll_interval` is accepted for compatibility and ignored.

    Args:
        channel: the data channel of aiortc.
        max_buffered_amount: bytes in the buffer of the channel, 1 MiB by default.
        buffered_amount_low_threshold: bytes in the buffer at which waiting calls continue, half of that by default.
        max_queued_sends: calls of `send` that may wait.
        max_queued_bytes: bytes in the messages of those calls, 64 MiB by default.

    Raises:
        ValueError: a bound is out of range, or the low threshold is not from 0 to `max_buffered_amount`.
    """

    _EMITS = BY_DATA_CHANNEL

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
        self._unread_of_remote = unread_of(channel)
        self._inbox = Inbox(self._deliver, lambda: self._is_heard(DCMessage), self._unread_of_remote)
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
            # An inbound channel is open before a handler can be registered.
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
        """Bytes in the buffer of the channel, without those in waiting calls of `send`."""
        return int(self._channel.bufferedAmount)

    @property
    def ordered(self) -> bool:
        """Whether messages are delivered in order."""
        return bool(self._channel.ordered)

    @property
    def max_retransmits(self) -> int | None:
        """Maximum retransmissions of a message. None is no limit."""
        return self._channel.maxRetransmits  # type: ignore[no-any-return]

    @property
    def max_packet_life_time(self) -> int | None:
        """Time during which a message is retransmitted, in milliseconds. None is no limit."""
        return self._channel.maxPacketLifeTime  # type: ignore[no-any-return]

    def stats(self) -> DataChannelStats:
        """Return the messages sent and received through this object, and its queues."""
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
        self._inbox.is_iterated = True
        return self

    async def __anext__(self) -> str | bytes:
        self._inbox.is_iterated = True
        message = await self._inbox.get()
        if not self._inbox:
            self._catch_up()
        return message

    async def wait_open(self) -> None:
        """Wait until the channel is open.

        Raises:
            ChannelClosedError: the channel is closed, or closes first.
        """
        if self.ready_state == "connecting":
            await self._opening.wait()
        elif self.ready_state != "open":
            raise ChannelClosedError(self.label)

    async def drain(self) -> None:
        """Wait until no call of `send` waits and the buffer is empty.

        Messages may still be lost if the channel is closed at once: only a `ManagedChannel` knows what has arrived.

        Raises:
            ChannelClosedError: the channel is not open, or closes first.
        """
        if self.ready_state != "open":
            raise ChannelClosedError(self.label)
        if self._queue or self.buffered_amount:
            empty = self._draining.wait()
            self._adjust_threshold()
            await empty

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes. Wait until the message is in the buffer of the channel.

        Cancelling a waiting call withdraws its message.

        Raises:
            TypeError: `data` is neither str nor bytes.
            DataChannelOverflowError: too many calls, or too many bytes in them, wait already. Nothing was queued.
            MessageTooLargeError: the message exceeds `max_buffered_amount` or what the other end accepts.
            ChannelClosedError: the channel is not open, or closes while the call waits.
        """
        size = self._check(data)
        if not self._queue and self._fits(size):
            self._transmit(data, size)
            return
        queued = self._queue.add(data, size)
        self._adjust_threshold()
        await self._queue.wait(queued)

    def send_nowait(self, data: str | bytes) -> None:
        """Send text or bytes without waiting. Raises like `send`.

        Raises:
            DataChannelOverflowError: there is no room now. `queued` and `cap` are bytes.
        """
        size = self._check(data)
        if self._queue or not self._fits(size):
            waiting = self.buffered_amount + self._queue.bytes + size
            raise DataChannelOverflowError(waiting, self._cap, unit="bytes")
        self._transmit(data, size)

    def close(self) -> None:
        """Close the channel. Waiting calls fail, handlers are removed, streams end.

        Idempotent; emits no event.
        """
        if not self._ended:
            self._end()
            self._channel.close()

    def _check(self, data: str | bytes) -> int:
        """Return the size of a message that may be sent, in bytes."""
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
        if self._channel.readyState != "open":  # it may have started to close while the call waited
            raise ChannelClosedError(self.label, f"it is {self._channel.readyState}")
        try:
            self._channel.send(data)
        except ValueError as error:  # aiortc's error for a message above the max-message-size of the other end
            raise MessageTooLargeError(size, max_message_size(self._channel)) from error
        self._messages_sent += 1
        self._bytes_sent += size

    def _drain_queue(self) -> None:
        self._queue.flush()
        if self._draining and not self._queue and not self.buffered_amount:
            self._draining.release()
        self._adjust_threshold()

    def _adjust_threshold(self) -> None:
        """Set the threshold so that the event comes when the next queued message fits, or the buffer is empty."""
        when_idle = 0 if self._draining else self._low
        next_size = self._queue.next_size
        room_needed = self._cap - next_size if next_size is not None else when_idle
        self._channel.bufferedAmountLowThreshold = max(0, min(self._low, room_needed))

    def _listener_added(self, event_type: type[Event]) -> None:
        if self._inbox:
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Deliver held messages, then the end. A program that handles only `DCClose` gets the end at once."""
        self._inbox.release()
        if self._closed_underneath and not self._ended and (not self._inbox or self._is_heard(DCClose)):
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
        fits = self._inbox.put(message, size)
        if self._inbox.bytes > MAX_UNREAD_BYTES:
            self._give_up(self._inbox.bytes, MAX_UNREAD_BYTES)
        elif not fits:
            self._give_up(self._unread_of_remote.bytes, MAX_UNREAD_OF_REMOTE)

    def _give_up(self, waiting: int, cap: int) -> None:
        """Close the channel because too much is unread. An iteration still reads the held messages."""
        self._unread_of_remote.closed += 1
        self.emit(DCError(DataChannelOverflowError(waiting, cap, unit="bytes")))
        self.close()
        if not self._inbox.is_iterated:
            self._inbox.clear()

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
        self._inbox.end()
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
