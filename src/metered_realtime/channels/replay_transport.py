"""Carries the frames of a managed channel over the data channel of the current connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..core.channels.frames import CHUNK_HEADER, MAX_FRAME, MIN_CHUNK
from ..core.channels.replay import ACK_DELAY, ReplayEndpoint
from ..errors import ChannelProtocolError, MessageTooLargeError
from .carrier import RawChannel
from .send_queue import SendQueue
from .waiters import Waiters

MIN_FRAME = MIN_CHUNK + CHUNK_HEADER
"""Bytes of the smallest frame that can carry a part of any message."""

HELLO_INTERVAL = 0.5
"""Seconds after which an end of a lossy channel repeats an unanswered hello. More than a round trip."""


class MessageSource(Protocol):
    """Supplies the messages of a channel one by one, each when it can be sent at once, instead of `send`."""

    max_message: int
    """Bytes of the largest message."""

    def next_message(self) -> bytes | None:
        """Return the next message, None if there is none now."""

    def connection_lost(self) -> None:
        """Handle the loss of the connection: nothing is sent until the channel is connected again."""


class ReplayTransport:
    """Hands the frames of an endpoint to a data channel, and fills its window from the send queue or a source."""

    def __init__(self, endpoint: ReplayEndpoint) -> None:
        self.raw: RawChannel | None = None
        self.source: MessageSource | None = None
        self.messages_sent = self.bytes_sent = 0
        self.queue: SendQueue[tuple[bytes, bool]] = SendQueue(self)
        self.drained = Waiters()
        self._endpoint = endpoint
        self._frame_limit = MAX_FRAME
        self._loop = asyncio.get_running_loop()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._hello_timer: asyncio.TimerHandle | None = None

    @property
    def max_message_size(self) -> int:
        """Maximum message size that both ends accept, in bytes. That of this end until the other one is known."""
        own, other = self._endpoint.max_message, self._endpoint.remote_max_message
        return own if other is None else min(own, other)

    # --- the data channel

    def bind(self, raw: RawChannel, *, opened: Callable[[], None], message: Callable[[str | bytes], None]) -> None:
        """Use a data channel of the current connection instead of the one before."""
        self.unbind()
        self.raw = raw
        raw.attach(opened=opened, message=message, room=self.pump)

    def unbind(self) -> None:
        """Stop using the data channel, which is gone."""
        raw, self.raw = self.raw, None
        if raw is not None:
            raw.detach()
            self._endpoint.disconnected()
            self.queue.flush()
            if self.source is not None:
                self.source.connection_lost()

    def opened(self) -> None:
        """Send the hello on a data channel that has opened.

        Raises:
            ChannelProtocolError: the other end accepts less than a frame.
        """
        assert self.raw is not None
        if self.raw.max_message_size < MIN_FRAME:
            raise ChannelProtocolError(f"the other end accepts {self.raw.max_message_size} bytes, less than a frame")
        self._frame_limit = min(MAX_FRAME, self.raw.max_message_size)
        self._endpoint.connected()
        self.pump()
        if not self._endpoint.reliable:
            self._repeat_hello()

    def stop(self) -> None:
        """Cancel the timers."""
        for timer in (self._ack_timer, self._hello_timer):
            if timer is not None:
                timer.cancel()

    # --- messages

    def accept(self, payload: bytes, *, is_text: bool) -> None:
        """Add a message to the window, which must have room."""
        self.messages_sent += 1
        self.bytes_sent += len(payload)
        self._endpoint.accept(payload, is_text=is_text)

    def pump(self) -> None:
        """Hand frames to the data channel while it has room, and accept queued sends while the window has room."""
        while True:
            self.hand_out()
            if not self.queue.flush():
                break
        if self.drained and self.is_drained:
            self.drained.release()

    @property
    def is_drained(self) -> bool:
        """Whether no message waits in the queue or the window."""
        return not self.queue and not self._endpoint.window

    def hand_out(self) -> None:
        """Hand frames to the data channel while it has room."""
        raw = self.raw
        if raw is None or not raw.is_open:
            return
        while raw.has_room:
            frame = self._endpoint.next_frame(self._frame_limit)
            if frame is not None:
                raw.send(frame)
            elif not self._accept_from_source():
                return

    def _accept_from_source(self) -> bool:
        """Accept a message of the source if it can be sent at once. Return whether there was one."""
        source, endpoint = self.source, self._endpoint
        if source is None or not endpoint.greeted or not endpoint.window.fits(source.max_message):
            return False
        message = source.next_message()
        if message is None:
            return False
        self.accept(message, is_text=False)
        return True

    def send_farewell(self) -> None:
        """Send control frames only: the channel has ended."""
        while self.raw is not None and self.raw.is_open and (frame := self._endpoint.next_farewell()) is not None:
            self.raw.send(frame)

    # --- for the queue

    def has_room(self, size: int) -> bool:
        """Return whether the window has room for a message."""
        return self._endpoint.window.fits(size)

    def send_queued(self, message: tuple[bytes, bool], size: int) -> None:
        """Accept a message that has waited in the queue.

        Raises:
            MessageTooLargeError: the other end has announced a smaller maximum in the meantime.
        """
        if size > self.max_message_size:
            raise MessageTooLargeError(size, self.max_message_size)
        payload, is_text = message
        self.accept(payload, is_text=is_text)

    def send_withdrawn(self) -> None:
        """Accept the sends behind a cancelled one that fit."""
        self.pump()

    # --- acknowledgements and repetitions

    def _repeat_hello(self) -> None:
        """Repeat the hello of a lossy channel until the other end has answered it."""
        self._hello_timer = None
        if self.raw is not None and not self._endpoint.greeted:
            self._endpoint.remind()
            self.hand_out()
            self._hello_timer = self._loop.call_later(HELLO_INTERVAL, self._repeat_hello)

    def arm_ack(self) -> None:
        """Acknowledge what has arrived after `ACK_DELAY`, unless acknowledgements are held back."""
        is_due = self.raw is not None and self._endpoint.ack_owed and not self._endpoint.holds_acks
        if is_due and self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY, self._acknowledge)

    def hold_acks(self, held: bool) -> None:
        """Hold acknowledgements back, which makes the other end wait, or send those that are held."""
        if self._endpoint.holds_acks and not held:
            self._endpoint.holds_acks = False
            self._endpoint.acknowledge()
            self.hand_out()
        self._endpoint.holds_acks = held

    def _acknowledge(self) -> None:
        self._ack_timer = None
        self._endpoint.acknowledge()
        self.hand_out()
