"""Holds the messages of a channel from their arrival until a handler, a stream or an iteration reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .unread import UnreadCounter


class Inbox:
    """Passes messages to handlers and streams as they arrive, and holds them while there are none.

    An iteration reads the held messages. Once one has started, every message is held for it, even if handlers receive
    it too. Held messages are counted in `unread`; `bytes` counts text as UTF-8. `when_held` is called for each.
    """

    def __init__(
        self, emit: Callable[[str | bytes], None], is_heard: Callable[[], bool], unread: UnreadCounter | None = None
    ) -> None:
        self.bytes = 0
        self.when_held: Callable[[], None] | None = None
        self.is_iterated = False
        self._emit = emit
        self._is_heard = is_heard
        self._held: deque[tuple[str | bytes, int]] = deque()
        self._unread = unread if unread is not None else UnreadCounter()
        self._unread.join(self)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = False

    def __len__(self) -> int:
        return len(self._held)

    def put(self, message: str | bytes, size: int) -> bool:
        """Deliver or hold a message of `size` bytes. Return whether those held for the remote are in bounds."""
        heard = (self.is_iterated or not self._held) and self._is_heard()
        if heard:
            self._emit(message)
        if self.is_iterated or not heard:
            self._held.append((message, size))
            self.bytes += size
            fits = self._unread.note(size, 1)
            self._wake()
            if self.when_held is not None:
                self.when_held()
            return fits
        return True

    def release(self) -> None:
        """Deliver held messages to handlers and streams, if there are any and no iteration has started."""
        while self._held and not self.is_iterated and self._is_heard():
            self._emit(self._pop())

    async def get(self) -> str | bytes:
        """Return the next message, for an iteration.

        Raises:
            StopAsyncIteration: the inbox has ended and is empty.
        """
        while not self._held:
            if self._ended:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        return self._pop()

    def get_nowait(self) -> str | bytes | None:
        """Return the next held message, None if there is none."""
        return self._pop() if self._held else None

    def end(self) -> None:
        """End the iterations after the held messages."""
        self._ended = True
        self._wake()

    def clear(self) -> None:
        """Drop the held messages."""
        self._unread.note(-self.bytes, -len(self._held))
        self._held.clear()
        self.bytes = 0

    def _pop(self) -> str | bytes:
        message, size = self._held.popleft()
        self.bytes -= size
        self._unread.note(-size, -1)
        return message

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not self._ended:
                    return
