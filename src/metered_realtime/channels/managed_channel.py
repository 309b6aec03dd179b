"""A channel to one remote that survives the replacement of its connection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..core.channels.frames import ChannelFrameError
from ..core.channels.replay import Closed, Deliver, Missed, ReplayEndpoint, Resumed
from ..emitter import AsyncEventEmitter
from ..errors import (
    ChannelClosedError,
    ChannelProtocolError,
    DataChannelOverflowError,
    MessagesMissedError,
    MessageTooLargeError,
    ReplayOverflowError,
)
from ..events import ChannelResumed, DCClose, DCError, DCMessage, DCOpen, Event
from ..events.emitted import BY_MANAGED_CHANNEL
from ..log import Logger
from .carrier import RawChannel
from .inbox import Inbox
from .replay_transport import MessageSource, ReplayTransport
from .stats import ManagedChannelState, ManagedChannelStats
from .unread import message_size
from .waiters import Waiters

HELD_BYTES = 1024 * 1024
HELD_MESSAGES = 1_024
"""Unread data above which acknowledgements are held back, so that the sender at the other end waits."""

BROKEN_RULES = 1
"""Reason of a close frame after a protocol violation."""


class ChannelOwner(Protocol):
    """What keeps the channels of one remote."""

    def unread_changed(self, change: int) -> bool:
        """Count unread bytes that have come or gone. False if the channels of the remote hold too many."""

    def channel_greeted(self, channel: ManagedChannel, known: int) -> bool:
        """Handle the hello of the other end, which knows this end by the id
        `known`. False if the end with that id was closed here.
        """

    def channel_ended(self, channel: ManagedChannel) -> None:
        """Handle the end of a channel."""


class ManagedChannel(AsyncEventEmitter):
    """A channel with a label, made by `RemotePeer.open_channel`, with the interface of a `DataChannel`.

    Events: `DCOpen` once, `ChannelResumed` on every further connection, `DCMessage`, `DCError`, and one `DCClose` when
    the other end has closed the channel or left. `async for message in channel` reads messages one by one.

    A reliable channel keeps accepted messages until they have arrived, up to `window_messages` and `window_bytes`, and
    delivers each once and in order, over any number of connections. A channel that is not reliable drops and counts
    unsent messages when a connection is lost. Messages larger than a frame are sent in chunks.
    """

    _EMITS = BY_MANAGED_CHANNEL

    def __init__(
        self,
        label: str,
        instance_id: int,
        *,
        reliable: bool,
        window_messages: int,
        window_bytes: int,
        max_message_size: int,
        serves_successors: bool = True,
        owner: ChannelOwner,
        logger: Logger | None = None,
    ) -> None:
        super().__init__(logger)
        self.label = label
        self.instance_id = instance_id
        self._endpoint = ReplayEndpoint(
            instance_id,
            reliable=reliable,
            max_messages=window_messages,
            max_bytes=window_bytes,
            max_message=max_message_size,
            serves_successors=serves_successors,
        )
        self._transport = ReplayTransport(self._endpoint)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._deliver, lambda: self._is_heard(DCMessage))
        self._inbox_bytes = 0
        self._opening = Waiters()
        self._closed_by_remote = False
        self._ended = False
        self._connections = self._missed = 0
        self._greeted_on: RawChannel | None = None
        self._messages_received = self._bytes_received = 0

    def __repr__(self) -> str:
        return f"<ManagedChannel {self.label!r} {self.ready_state}>"

    # --- for programs

    @property
    def ready_state(self) -> ManagedChannelState:
        """`connecting`, `open`, `reconnecting` or `closed`. Messages are accepted in every state but `closed`."""
        if self._ended or self._closed_by_remote:
            return "closed"
        if self.raw is not None and self._endpoint.greeted:
            return "open"
        return "reconnecting" if self._connections else "connecting"

    @property
    def reliable(self) -> bool:
        """Whether messages are sent again until they arrive."""
        return self._endpoint.reliable

    @property
    def buffered_amount(self) -> int:
        """Bytes of accepted messages that the other end has not acknowledged."""
        return self._endpoint.window.bytes

    @property
    def max_message_size(self) -> int:
        """Maximum message size that both ends accept, in bytes. That of this end until the other one is known."""
        return self._transport.max_message_size

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes. Wait until the message is accepted into the window.

        Messages are accepted in the order of the calls. While there is no connection, a channel that is not reliable
        drops its oldest messages instead of waiting. Cancelling a waiting call withdraws its message.

        Raises:
            TypeError: `data` is neither str nor bytes.
            MessageTooLargeError: the message exceeds `max_message_size`.
            DataChannelOverflowError: too many calls wait already.
            ChannelClosedError: the channel is closed, or the remote leaves while the call waits.
        """
        payload, is_text = self._encode(data)
        await self.send_encoded(payload, is_text=is_text)

    async def send_encoded(self, payload: bytes, *, is_text: bool) -> None:
        """Send an encoded message, like `send`."""
        if self._make_room(len(payload)):
            self._accept(payload, is_text)
            return
        queue = self._transport.queue
        await queue.wait(queue.add((payload, is_text), len(payload)))

    def send_nowait(self, data: str | bytes) -> None:
        """Send text or bytes without waiting. Raises like `send`.

        Raises:
            ReplayOverflowError: there is no room in the window.
        """
        payload, is_text = self._encode(data)
        if not self._make_room(len(payload)):
            raise self._overflow()
        self._accept(payload, is_text)

    def __aiter__(self) -> ManagedChannel:
        self._inbox.is_iterated = True
        return self

    async def __anext__(self) -> str | bytes:
        self._inbox.is_iterated = True
        message = await self._inbox.get()
        self._note_read()
        if not self._inbox:
            self._catch_up()
        return message

    async def wait_open(self) -> None:
        """Wait until the channel is connected, for the first time or again.

        Raises:
            ChannelClosedError: the channel is closed, or closes first.
        """
        if self.ready_state != "open":
            self._check_not_closed()
            await self._opening.wait()

    async def drain(self) -> None:
        """Wait until the other end has every accepted message. If not reliable: until none waits to be sent.

        Raises:
            ChannelClosedError: the channel is closed, or closes first.
        """
        self._check_not_closed()
        if not self._transport.is_drained:
            await self._transport.drained.wait()

    def close(self) -> None:
        """Close the channel at both ends at once. Call `drain` first to keep unsent messages.

        Idempotent; emits no event.
        """
        if not self._ended:
            self._endpoint.close()
            self._end()

    def stats(self) -> ManagedChannelStats:
        """Return the counters and queues of the channel."""
        window = self._endpoint.window
        return ManagedChannelStats(
            label=self.label,
            state=self.ready_state,
            messages_sent=self._transport.messages_sent,
            bytes_sent=self._transport.bytes_sent,
            messages_received=self._messages_received,
            bytes_received=self._bytes_received,
            messages_resent=window.resent,
            duplicates_removed=self._endpoint.duplicates,
            messages_dropped=window.dropped,
            messages_missed=self._missed,
            window_messages=len(window),
            window_bytes=window.bytes,
            queued_sends=len(self._transport.queue),
            unread_messages=len(self._inbox),
            connections=self._connections,
        )

    # --- for its owner

    def bind(self, raw: RawChannel) -> None:
        """Continue over a data channel of the current connection, instead of the one before."""
        self._transport.bind(raw, opened=self._on_open, message=self._on_message)

    def unbind(self) -> None:
        """Handle the loss of the data channel under this one."""
        self._transport.unbind()

    @property
    def raw(self) -> RawChannel | None:
        """The data channel that carries this channel, None while there is none."""
        return self._transport.raw

    def feed_from(self, source: MessageSource) -> None:
        """Read messages from a source, which calls `has_more` when it has a message after a pause."""
        self._transport.source = source

    def has_more(self) -> None:
        """Send messages of the source, which has some again."""
        self._transport.hand_out()

    def offer(self, payload: bytes, *, is_text: bool) -> bool:
        """Accept an encoded message if there is room. Return whether it was accepted."""
        if self.ready_state == "closed" or len(payload) > self.max_message_size or not self._make_room(len(payload)):
            return False
        self._accept(payload, is_text)
        return True

    def give_up(self) -> ReplayOverflowError:
        """Drop the messages in the window and continue after them. Return an error that counts them."""
        error = self._overflow()
        self._endpoint.give_up()
        self._transport.pump()
        return error

    def fail(self, error: Exception) -> None:
        """Close the channel at both ends because of an error."""
        if not self._ended and not self._closed_by_remote:
            self._break_off(error)

    @property
    def inbox(self) -> Inbox:
        """The unread messages. Call `note_read` after reading some of them directly."""
        return self._inbox

    def note_read(self) -> None:
        """Handle the removal of messages from the inbox."""
        self._note_read()

    def remote_closed(self) -> None:
        """Handle the end of the channel at the other end: unread messages can still be read, then `DCClose` follows."""
        if not self._ended and not self._closed_by_remote:
            self._closed_by_remote = True
            self._fail_waiting()
            self.unbind()
            self._owner.channel_ended(self)
            self._catch_up()

    # --- inside: sending

    def _encode(self, data: str | bytes) -> tuple[bytes, bool]:
        if not isinstance(data, str | bytes):
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        if self._ended or self._closed_by_remote:
            raise ChannelClosedError(self.label)
        payload = data if isinstance(data, bytes) else data.encode()
        if len(payload) > self.max_message_size:
            raise MessageTooLargeError(len(payload), self.max_message_size)
        return payload, payload is not data

    def _make_room(self, size: int) -> bool:
        window = self._endpoint.window
        if not self.reliable and self._connections and not self._endpoint.greeted:
            while not window.fits(size):
                window.drop_oldest()
        return not self._transport.queue and window.fits(size)

    def _accept(self, payload: bytes, is_text: bool) -> None:
        self._transport.accept(payload, is_text=is_text)
        self._transport.pump()

    def _overflow(self) -> ReplayOverflowError:
        window = self._endpoint.window
        return ReplayOverflowError(len(window), window.bytes, window.max_messages, window.max_bytes)

    # --- inside: events of the data channel

    def _on_open(self) -> None:
        try:
            self._transport.opened()
        except ChannelProtocolError as error:
            self.fail(error)

    def _on_message(self, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str):
                raise ChannelFrameError("a text frame")
            effect = self._endpoint.receive(frame)
        except ChannelFrameError as error:
            self._break_off(error)
            return
        if type(effect) is Deliver:
            self._keep(effect.data)
            if self._endpoint.has_answers:
                self._transport.hand_out()
            self._transport.arm_ack()
            return
        match effect:
            case Resumed():
                self._resumed(effect)
            case Missed(count):
                self._note_missed(count)
            case Closed(reason):
                self._closed_there(reason)
        if not self._ended:
            self._transport.pump()
            self._transport.arm_ack()

    def _resumed(self, resumed: Resumed) -> None:
        if not self._owner.channel_greeted(self, self._endpoint.remote_knows):
            self.close()
            return
        if self._greeted_on is not self.raw:  # otherwise the hello asks for repetition
            self._greeted_on = self.raw
            self._tell_open(resumed)
        self._note_missed(resumed.missed)

    def _tell_open(self, resumed: Resumed) -> None:
        self._connections += 1
        self._opening.release()
        if self._connections > 1:
            self.emit(ChannelResumed(resumed.resent, resumed.dropped, resumed.restarted))
            return
        self.emit(DCOpen())
        if resumed.dropped:
            self.emit(DCError(MessageTooLargeError(self._endpoint.window.largest_dropped, self.max_message_size)))

    def _note_missed(self, count: int) -> None:
        if count:
            self._missed += count
            self.emit(DCError(MessagesMissedError(count)))

    def _keep(self, data: str | bytes) -> None:
        self._messages_received += 1
        size = message_size(data)
        self._bytes_received += size
        self._inbox.put(data, size)
        if self._inbox and not self._note_read():
            error = DataChannelOverflowError(self._inbox.bytes, HELD_BYTES, unit="bytes")
            self._logger.warning("channel closed: too much unread", {"label": self.label, "bytes": self._inbox.bytes})
            self._inbox.clear()
            self._break_off(error)

    def _closed_there(self, reason: int) -> None:
        if reason:
            self.emit(
                DCError(ChannelProtocolError(f"the other end closed channel {self.label!r} after a protocol violation"))
            )
        raw = self.raw
        self.remote_closed()
        if raw is not None:
            raw.close()

    def _break_off(self, error: Exception) -> None:
        """Close the channel after a failure that would recur on every connection."""
        told = error
        if isinstance(error, ChannelFrameError):
            told = ChannelProtocolError(f"channel {self.label!r}: {error}")
        self._logger.warning("channel ended", {"label": self.label, "error": str(error)})
        self._endpoint.close(BROKEN_RULES)
        self._transport.send_farewell()
        raw = self.raw
        self.emit(DCError(told))
        self.remote_closed()
        if raw is not None:
            raw.close()

    # --- inside: reading

    def _deliver(self, message: str | bytes) -> None:
        self.emit(DCMessage(message))

    def _listener_added(self, event_type: type[Event]) -> None:
        if self._inbox or self._closed_by_remote:
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Deliver held messages, then the end. A program that handles only `DCClose` gets the end at once."""
        self._inbox.release()
        self._note_read()
        if self._closed_by_remote and not self._ended and (not self._inbox or self._is_heard(DCClose)):
            self.emit(DCClose())
            self._end()

    def _note_read(self) -> bool:
        """Count unread messages. False if the channels of the remote hold too many."""
        change, self._inbox_bytes = self._inbox.bytes - self._inbox_bytes, self._inbox.bytes
        is_behind = self._inbox.bytes > HELD_BYTES or len(self._inbox) > HELD_MESSAGES
        self._transport.hold_acks(is_behind)
        return self._ended or self._owner.unread_changed(change)

    # --- inside: the end

    def _check_not_closed(self) -> None:
        if self.ready_state == "closed":
            raise ChannelClosedError(self.label)

    def _end(self) -> None:
        """Release everything. The last control frames are still sent."""
        self._ended = True
        self._transport.stop()
        self._transport.send_farewell()
        self._fail_waiting()
        raw = self.raw
        if raw is not None:
            self.unbind()
            raw.close()
        if not self._closed_by_remote:
            self._owner.channel_ended(self)
        self._owner.unread_changed(-self._inbox_bytes)
        self._inbox_bytes = 0
        self._inbox.end()
        self._drop_listeners()

    def _fail_waiting(self) -> None:
        for waiting in (self._transport.queue, self._opening, self._transport.drained):
            waiting.fail(lambda: ChannelClosedError(self.label, "it closed"))
