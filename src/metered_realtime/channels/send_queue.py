"""The send queue of a channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ..errors import DataChannelOverflowError

MAX_QUEUED_SENDS = 256
"""Calls of `send` that may wait for room."""

Message = TypeVar("Message")
_Taken = TypeVar("_Taken", contravariant=True)


class SendTarget(Protocol[_Taken]):
    """What the queue sends to."""

    def has_room(self, size: int) -> bool:
        """Return whether a message of this size, in bytes, can be sent now."""

    def send_queued(self, message: _Taken, size: int) -> None:
        """Send a message for which there is room. An exception goes to the caller of `SendQueue.wait`."""

    def send_withdrawn(self) -> None:
        """Handle the cancellation of a call in the queue: the one behind it may fit."""


class QueuedSend(Generic[Message]):
    """One call of `send` that waits for room."""

    __slots__ = ("done", "message", "size")

    def __init__(self, message: Message, size: int, done: asyncio.Future[None]) -> None:
        self.message = message
        self.size = size
        self.done = done


class SendQueue(Generic[Message]):
    """Calls of `send` that wait for room, in the order in which they were made.

    A message that fits never overtakes one that does not. At most `max_sends` calls wait, with at most `max_bytes` in
    their messages; None is no bound.
    """

    def __init__(
        self, target: SendTarget[Message], *, max_sends: int = MAX_QUEUED_SENDS, max_bytes: int | None = None
    ) -> None:
        self.bytes = 0
        self._target = target
        self._max_sends = max_sends
        self._max_bytes = max_bytes
        self._waiting: deque[QueuedSend[Message]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_size(self) -> int | None:
        """Bytes of the message that is sent next, None if the queue is empty."""
        return self._waiting[0].size if self._waiting else None

    def add(self, message: Message, size: int) -> QueuedSend[Message]:
        """Queue a message. Pass the result to `wait`.

        Raises:
            DataChannelOverflowError: too many calls, or too many bytes in them, wait already. Nothing was queued.
        """
        if len(self._waiting) >= self._max_sends:
            raise DataChannelOverflowError(len(self._waiting), self._max_sends)
        if self._max_bytes is not None and self.bytes + size > self._max_bytes:
            raise DataChannelOverflowError(self.bytes + size, self._max_bytes, unit="bytes")
        queued = QueuedSend(message, size, asyncio.get_running_loop().create_future())
        self._waiting.append(queued)
        self.bytes += size
        return queued

    async def wait(self, queued: QueuedSend[Message]) -> None:
        """Return when the message was sent. Cancellation removes it from the queue.

        Raises:
            Exception: what sending it raised, or the error given to `fail`.
        """
        try:
            await queued.done
        except asyncio.CancelledError:
            if queued in self._waiting:
                self._waiting.remove(queued)
                self.bytes -= queued.size
                self._target.send_withdrawn()
            raise

    def flush(self) -> bool:
        """Send messages from the head of the queue as long as there is room. Return whether any was sent."""
        target, sent = self._target, False
        while self._waiting and (self._waiting[0].done.done() or target.has_room(self._waiting[0].size)):
            queued = self._waiting.popleft()
            self.bytes -= queued.size
            if queued.done.done():
                continue
            try:
                target.send_queued(queued.message, queued.size)
            except Exception as error:
                queued.done.set_exception(error)
            else:
                queued.done.set_result(None)
                sent = True
        return sent

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fail every call that waits, each with an exception of its own."""
        waiting, self._waiting, self.bytes = self._waiting, deque(), 0
        for queued in waiting:
            if not queued.done.done():
                queued.done.set_exception(error())
