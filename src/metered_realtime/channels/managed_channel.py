"""A channel to one remote that outlives the connection under it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..core.channels.frames import CHUNK_HEADER, MAX_FRAME, MIN_CHUNK, FrameError
from ..core.channels.replay import ACK_DELAY, Closed, Deliver, Missed, ReplayEndpoint, Resumed
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
from .unheard import message_size

MAX_QUEUED_SENDS = 256
"""Calls of `send` that may wait for the window, as for a `DataChannel`."""

HELD_BYTES = 1024 * 1024
HELD_MESSAGES = 1_024
"""What may wait for the reader before acknowledgements are held back, which makes the other end wait in its turn."""

MIN_FRAME = MIN_CHUNK + CHUNK_HEADER
"""Bytes of the smallest frame that can carry a part of any message."""

REMIND_INTERVAL = 0.5
"""Seconds after which an end of a lossy channel repeats what it begins with. More than a round trip."""

BROKEN_RULES = 1
"""The reason in a close frame for an end that broke the rules of the channel."""


class MessageSource(Protocol):
    """What gives a channel its messages one by one, each at the moment when it can go out, instead of `send`."""

    max_message: int
    """Bytes of the largest one."""

    def next_message(self) -> bytes | None:
        """Return the next message, None if there is none for now."""

    def connection_lost(self) -> None:
        """Take note that nothing goes out until the channel is connected again."""


ManagedChannelState = Literal["connecting", "open", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class ManagedChannelStats:
    """The figures of a channel over all its connections. Bytes are those of messages."""

    label: str
    state: ManagedChannelState
    messages_sent: int
    """What was accepted."""
    bytes_sent: int
    messages_received: int
    """What was delivered, to a reader or to wait for one."""
    bytes_received: int
    messages_resent: int
    """What went out again on another connection."""
    duplicates_removed: int
    messages_dropped: int
    """What was accepted and given up."""
    messages_missed: int
    """What the other end gave up."""
    window_messages: int
    window_bytes: int
    """What waits for the other end to have it."""
    queued_sends: int
    """Calls of `send` that wait for room."""
    unread_messages: int
    connections: int
    """How many connections it has had."""


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
        max_queued_sends: int = MAX_QUEUED_SENDS,
        serves_successors: bool = True,
        unread: Callable[[int], bool] = lambda change: True,
        greeted: Callable[[ManagedChannel, int], bool] = lambda channel, known: True,
        ended: Callable[[ManagedChannel], None] = lambda channel: None,
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
        self._source: MessageSource | None = None
        self._max_queued = max_queued_sends
        self._count_unread = unread
        self._tell_greeted = greeted
        self._tell_ended = ended
        self._loop = asyncio.get_running_loop()
        self._raw: RawChannel | None = None
        self._inbox = Inbox(self._deliver, lambda: self._is_heard(DCMessage))
        self._inbox_bytes = 0
        self._queue: deque[_QueuedSend] = deque()
        self._opening: set[asyncio.Future[None]] = set()
        self._draining: set[asyncio.Future[None]] = set()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._remind_timer: asyncio.TimerHandle | None = None
        self._closed_by_remote = False
        self._ended = False
        self._frame_limit = MAX_FRAME
        self._connections = self._missed = 0
        self._greeted_on: RawChannel | None = None
        self._messages_sent = self._bytes_sent = self._messages_received = self._bytes_received = 0

    def __repr__(self) -> str:
        return f"<ManagedChannel {self.label!r} {self.ready_state}>"

    # --- for programs

    @property
    def ready_state(self) -> ManagedChannelState:
        """`connecting`, `open`, `reconnecting` or `closed`. All but the last one take messages."""
        if self._ended or self._closed_by_remote:
            return "closed"
        if self._raw is not None and self._endpoint.greeted:
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
        own, other = self._endpoint.max_message, self._endpoint.remote_max_message
        return own if other is None else min(own, other)

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
        if len(self._queue) >= self._max_queued:
            raise DataChannelOverflowError(len(self._queue), self._max_queued)
        await self._wait_in_queue(_QueuedSend(payload, is_text, self._loop.create_future()))

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
            await self._wait_among(self._opening)

    async def drain(self) -> None:
        """Return when the other end has everything that was accepted; not reliable: when nothing waits here.

        Raises:
            ChannelClosedError: it is closed, or closes first.
        """
        if self._queue or self._endpoint.window or self.ready_state == "closed":
            await self._wait_among(self._draining)

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
            messages_sent=self._messages_sent,
            bytes_sent=self._bytes_sent,
            messages_received=self._messages_received,
            bytes_received=self._bytes_received,
            messages_resent=window.resent,
            duplicates_removed=self._endpoint.duplicates,
            messages_dropped=window.dropped,
            messages_missed=self._missed,
            window_messages=len(window),
            window_bytes=window.bytes,
            queued_sends=len(self._queue),
            unread_messages=len(self._inbox),
            connections=self._connections,
        )

    # --- for those who own it

    def bind(self, raw: RawChannel) -> None:
        """Go on over a data channel of the current connection, instead of the one before."""
        self.unbind()
        self._raw = raw
        raw.attach(opened=self._on_open, message=self._on_message, room=self._pump)

    def unbind(self) -> None:
        """Take note that the data channel under this is gone."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.detach()
            self._endpoint.disconnected()
            self._admit()
            if self._source is not None:
                self._source.connection_lost()

    @property
    def raw(self) -> RawChannel | None:
        """The data channel under this, None between two."""
        return self._raw

    def feed_from(self, source: MessageSource) -> None:
        """Take messages from a source, which says with `has_more` when there is something after a pause."""
        self._source = source

    def has_more(self) -> None:
        """Take note that the source has a message."""
        self._hand_out()

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
        self._pump()
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
            self._tell_ended(self)
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
        return not self._queue and window.fits(size)

    def _accept(self, payload: bytes, is_text: bool) -> None:
        self._messages_sent += 1
        self._bytes_sent += len(payload)
        self._endpoint.accept(payload, is_text=is_text)
        self._pump()

    async def _wait_in_queue(self, item: _QueuedSend) -> None:
        self._queue.append(item)
        try:
            await item.done
        except asyncio.CancelledError:
            if item in self._queue:
                self._queue.remove(item)
                self._admit()
            raise

    def _pump(self) -> None:
        """Hand frames to the data channel while it has room, and take sends that wait while the window has."""
        while True:
            self._hand_out()
            if not self._admit():
                break
        if self._draining and not self._queue and not self._endpoint.window:
            _release(self._draining)

    def _hand_out(self) -> None:
        raw = self._raw
        if raw is None or not raw.is_open:
            return
        while raw.has_room:
            frame = self._endpoint.next_frame(self._frame_limit)
            if frame is not None:
                raw.send(frame)
            elif not self._accept_from_source():
                return

    def _accept_from_source(self) -> bool:
        """Accept a message of the source if it can go out at once. Return whether there was one."""
        source, endpoint = self._source, self._endpoint
        if source is None or not endpoint.greeted or not endpoint.window.fits(source.max_message):
            return False
        message = source.next_message()
        if message is None:
            return False
        self._messages_sent += 1
        self._bytes_sent += len(message)
        endpoint.accept(message, is_text=False)
        return True

    def _admit(self) -> bool:
        """Accept the sends at the head of the queue that fit. Return whether there were any."""
        window, admitted = self._endpoint.window, False
        while self._queue and (self._queue[0].done.done() or window.fits(len(self._queue[0].payload))):
            item = self._queue.popleft()
            if item.done.done():
                continue
            if len(item.payload) > self.max_message_size:  # the other end has said meanwhile what it takes
                item.done.set_exception(MessageTooLargeError(len(item.payload), self.max_message_size))
                continue
            self._messages_sent += 1
            self._bytes_sent += len(item.payload)
            self._endpoint.accept(item.payload, is_text=item.is_text)
            item.done.set_result(None)
            admitted = True
        return admitted

    def _overflow(self) -> ReplayOverflowError:
        window = self._endpoint.window
        return ReplayOverflowError(len(window), window.bytes, window.max_messages, window.max_bytes)

    # --- inside: what the data channel tells

    def _on_open(self) -> None:
        assert self._raw is not None
        if self._raw.max_message_size < MIN_FRAME:
            self.fail(
                ChannelProtocolError(f"the other end takes {self._raw.max_message_size} bytes, less than a frame")
            )
            return
        self._frame_limit = min(MAX_FRAME, self._raw.max_message_size)
        self._endpoint.connected()
        self._pump()
        if not self.reliable:
            self._remind()

    def _remind(self) -> None:
        self._remind_timer = None
        if self._raw is not None and not self._endpoint.greeted:
            self._endpoint.remind()
            self._hand_out()
            self._remind_timer = self._loop.call_later(REMIND_INTERVAL, self._remind)

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
                self._hand_out()
            self._arm_ack()
            return
        match effect:
            case Resumed():
                self._resumed(effect)
            case Missed(count):
                self._note_missed(count)
            case Closed(reason):
                self._closed_there(reason)
        if not self._ended:
            self._pump()
            self._arm_ack()

    def _resumed(self, resumed: Resumed) -> None:
        if not self._tell_greeted(self, self._endpoint.remote_knows):
            self.close()
            return
        if self._greeted_on is not self._raw:  # and not a hello that asks for repetition
            self._greeted_on = self._raw
            self._tell_open(resumed)
        self._note_missed(resumed.missed)

    def _tell_open(self, resumed: Resumed) -> None:
        self._connections += 1
        _release(self._opening)
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
        raw = self._raw
        self.remote_closed()
        if raw is not None:
            raw.close()

    def _break_off(self, error: Exception) -> None:
        """End after a failure that would come back on every connection."""
        wrapped = ChannelProtocolError(f"channel {self.label!r}: {error}") if isinstance(error, FrameError) else error
        self._logger.warning("channel ended", {"label": self.label, "error": str(error)})
        self._endpoint.close(BROKEN_RULES)
        self._say_farewell()
        raw = self._raw
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
        if self._endpoint.holds_acks and not is_behind:
            self._endpoint.holds_acks = False
            self._endpoint.acknowledge()
            self._hand_out()
        self._endpoint.holds_acks = is_behind
        return self._count_unread(change)

    def _arm_ack(self) -> None:
        is_due = self._raw is not None and self._endpoint.ack_owed and not self._endpoint.holds_acks
        if is_due and self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        self._endpoint.acknowledge()
        self._hand_out()

    # --- inside: the end

    async def _wait_among(self, waiting: set[asyncio.Future[None]]) -> None:
        if self.ready_state == "closed":
            raise ChannelClosedError(self.label)
        future: asyncio.Future[None] = self._loop.create_future()
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)

    def _end(self) -> None:
        """Let go of everything. What the endpoint has to say last still goes out."""
        self._ended = True
        for timer in (self._ack_timer, self._remind_timer):
            if timer is not None:
                timer.cancel()
        self._say_farewell()
        self._fail_waiting()
        raw = self._raw
        if raw is not None:
            self.unbind()
            raw.close()
        if not self._closed_by_remote:
            self._tell_ended(self)
        self._count_unread(-self._inbox_bytes)
        self._inbox_bytes = 0
        self._count_unread = lambda change: True
        self._inbox.end()
        self._drop_listeners()

    def _say_farewell(self) -> None:
        while self._raw is not None and self._raw.is_open and (frame := self._endpoint.next_farewell()) is not None:
            self._raw.send(frame)

    def _fail_waiting(self) -> None:
        waiting, self._queue = self._queue, deque()
        for done in (*(item.done for item in waiting), *self._opening, *self._draining):
            if not done.done():
                done.set_exception(ChannelClosedError(self.label, "it closed"))


@dataclass(eq=False, slots=True)
class _QueuedSend:
    payload: bytes
    is_text: bool
    done: asyncio.Future[None]


def _release(waiting: set[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
