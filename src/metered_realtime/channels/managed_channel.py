"""A channel to one remote that outlives the connection under it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..core.channels.frames import FrameError
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
from ..log import Logger
from .carrier import RawChannel
from .inbox import Inbox
from .replay_transport import MessageSource, ReplayTransport
from .stats import ManagedChannelState, ManagedChannelStats
from .unheard import message_size
from .waiters import Waiters

HELD_BYTES = 1024 * 1024
HELD_MESSAGES = 1_024
"""What may wait for the reader before acknowledgements are held back, which makes the other end wait in its turn."""

BROKEN_RULES = 1
"""The reason in a close frame for an end that broke the rules of the channel."""


class ChannelOwner(Protocol):
    """What keeps the channels of one remote."""

    def unread_changed(self, change: int) -> bool:
        """Count unread bytes that have come or gone. False if the channels of the remote hold too many."""

    def channel_greeted(self, channel: ManagedChannel, known: int) -> bool:
        """Handle the hello of the other end, which knows this session. False if that one was closed before."""

    def channel_ended(self, channel: ManagedChannel) -> None:
        """Handle the end of a channel."""


class ManagedChannel(AsyncEventEmitter):
    """A channel under a label, made by `RemotePeer.open_channel`, with the surface of a `DataChannel`.

    Events: `DCOpen` once, `ChannelResumed` on every further connection, `DCMessage`, `DCError`, and one `DCClose` at
    the end, when the other end closed it or left. `async for message in channel` reads messages one by one.

    With `reliable`, what `send` has accepted is kept until the other end has it, at most `window_messages` and
    `window_bytes`, and arrives once and in order, over any number of connections. Otherwise what is not sent when a
    connection is lost is dropped and counted. Messages larger than a frame are sent in chunks.
    """

    def __init__(
        self,
        label: str,
        session: int,
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
        self.session = session
        self._endpoint = ReplayEndpoint(
            session,
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
        """`connecting`, `open`, `reconnecting` or `closed`. All but the last one take messages."""
        if self._ended or self._closed_by_remote:
            return "closed"
        if self.raw is not None and self._endpoint.greeted:
            return "open"
        return "reconnecting" if self._connections else "connecting"

    @property
    def reliable(self) -> bool:
        """Whether messages are sent again until they have arrived."""
        return self._endpoint.reliable

    @property
    def buffered_amount(self) -> int:
        """The bytes that were accepted and have not arrived, as far as is known."""
        return self._endpoint.window.bytes

    @property
    def max_message_size(self) -> int:
        """The bytes of a message that both ends take, as far as is known."""
        return self._transport.max_message_size

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes; return when they are accepted, which waits for room in the window.

        A channel that is not reliable drops its oldest message instead while there is no connection. Cancelling takes
        back what still waits. Sends are accepted in the order of the calls.

        Raises:
            TypeError: neither str nor bytes.
            MessageTooLargeError: larger than either end takes.
            DataChannelOverflowError: too many sends wait already.
            ChannelClosedError: the channel is closed, or the remote leaves while this waits.
        """
        payload, is_text = self._encode(data)
        await self.send_encoded(payload, is_text=is_text)

    async def send_encoded(self, payload: bytes, *, is_text: bool) -> None:
        """Send what is encoded already, like `send`."""
        if self._make_room(len(payload)):
            self._accept(payload, is_text)
            return
        queue = self._transport.queue
        await queue.wait(queue.add((payload, is_text), len(payload)))

    def send_nowait(self, data: str | bytes) -> None:
        """Send text or bytes at once, or not at all. Raises like `send`.

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
        """Return when the channel is connected, for the first time or again.

        Raises:
            ChannelClosedError: it is closed, or closes first.
        """
        if self.ready_state != "open":
            self._check_not_closed()
            await self._opening.wait()

    async def drain(self) -> None:
        """Return when the other end has everything that was accepted; not reliable: when nothing waits here.

        Raises:
            ChannelClosedError: it is closed, or closes first.
        """
        self._check_not_closed()
        if not self._transport.is_drained:
            await self._transport.drained.wait()

    def close(self) -> None:
        """Close the channel at both ends, now: `drain` first what is to arrive. Idempotent; emits nothing."""
        if not self._ended:
            self._endpoint.close()
            self._end()

    def stats(self) -> ManagedChannelStats:
        """Return the figures now."""
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

    # --- for those who own it

    def bind(self, raw: RawChannel) -> None:
        """Continue over a data channel of the current connection, instead of the one before."""
        self._transport.bind(raw, opened=self._on_open, message=self._on_message)

    def unbind(self) -> None:
        """Handle the loss of the data channel under this one."""
        self._transport.unbind()

    @property
    def raw(self) -> RawChannel | None:
        """The data channel under this, None between two."""
        return self._transport.raw

    def feed_from(self, source: MessageSource) -> None:
        """Take messages from a source, which says with `has_more` when there is something after a pause."""
        self._transport.source = source

    def has_more(self) -> None:
        """Take note that the source has a message."""
        self._transport.hand_out()

    def offer(self, payload: bytes, *, is_text: bool) -> bool:
        """Accept an encoded message if there is room. False if not."""
        if self.ready_state == "closed" or len(payload) > self.max_message_size or not self._make_room(len(payload)):
            return False
        self._accept(payload, is_text)
        return True

    def give_up(self) -> ReplayOverflowError:
        """Drop all that waits, and go on behind it. Return what that was."""
        error = self._overflow()
        self._endpoint.give_up()
        self._transport.pump()
        return error

    def fail(self, error: Exception) -> None:
        """End with an error, at both ends."""
        if not self._ended and not self._closed_by_remote:
            self._break_off(error)

    @property
    def inbox(self) -> Inbox:
        """Where messages wait for a reader. Who takes some says so with `taken`."""
        return self._inbox

    def taken(self) -> None:
        """Take note that messages were taken out of the inbox."""
        self._note_read()

    def remote_closed(self) -> None:
        """End, because the other end closed the channel or left: what waits to be read still can be, then `DCClose`."""
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

    # --- inside: what the data channel tells

    def _on_open(self) -> None:
        try:
            self._transport.opened()
        except ChannelProtocolError as error:
            self.fail(error)

    def _on_message(self, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str):
                raise FrameError("a text frame")
            effect = self._endpoint.receive(frame)
        except FrameError as error:
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
            self._logger.warning("channel closed: nobody reads", {"label": self.label, "bytes": self._inbox.bytes})
            self._inbox.clear()
            self._break_off(error)

    def _closed_there(self, reason: int) -> None:
        if reason:
            self.emit(DCError(ChannelProtocolError(f"the other end ended channel {self.label!r} for broken rules")))
        raw = self.raw
        self.remote_closed()
        if raw is not None:
            raw.close()

    def _break_off(self, error: Exception) -> None:
        """End after a failure that would come back on every connection."""
        wrapped = ChannelProtocolError(f"channel {self.label!r}: {error}") if isinstance(error, FrameError) else error
        self._logger.warning("channel ended", {"label": self.label, "error": str(error)})
        self._endpoint.close(BROKEN_RULES)
        self._transport.send_farewell()
        raw = self.raw
        self.emit(DCError(wrapped))
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
        """Deliver what waits for a handler, and the end after it. A program that wants the end only gets that."""
        self._inbox.release()
        self._note_read()
        if self._closed_by_remote and not self._ended and (not self._inbox or self._is_heard(DCClose)):
            self.emit(DCClose())
            self._end()

    def _note_read(self) -> bool:
        """Follow what waits for a reader. False if it is more than may wait."""
        change, self._inbox_bytes = self._inbox.bytes - self._inbox_bytes, self._inbox.bytes
        is_behind = self._inbox.bytes > HELD_BYTES or len(self._inbox) > HELD_MESSAGES
        self._transport.hold_acks(is_behind)
        return self._ended or self._owner.unread_changed(change)

    # --- inside: the end

    def _check_not_closed(self) -> None:
        if self.ready_state == "closed":
            raise ChannelClosedError(self.label)

    def _end(self) -> None:
        """Let go of everything. What the endpoint has to say last still goes out."""
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
