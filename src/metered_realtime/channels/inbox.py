"""Keeps the messages of a channel between their arrival and whoever reads them: a handler, a stream, an iteration."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .unheard import Unheard


class Inbox:
    """Gives messages to handlers and streams as they come, and holds them while there are none.

    An iteration reads what is held. Once one has begun, messages are held for it whether or not handlers get them too.
    What is held counts in `unheard`, and `bytes` are those of UTF-8.
    """

    def __init__(
        self, emit: Callable[[str | bytes], None], is_heard: Callable[[], bool], unheard: Unheard | None = None
    ) -> None:
        self.bytes = 0
        self.when_held: Callable[[], None] | None = None
        self.is_iterated = False
        self._emit = emit
        self._is_heard = is_heard
        self._held: deque[tuple[str | bytes, int]] = deque()
        self._unheard = unheard if unheard is not None else Unheard()
        self._unheard.join(self)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended = False

    def __len__(self) -> int:
        return len(self._held)

    def put(self, message: str | bytes, size: int) -> bool:
        """Take a message of so many bytes that has arrived. Return whether all that waits is within its bounds."""
        heard = (self.is_iterated or not self._held) and self._is_heard()
        if heard:
            self._emit(message)
        if self.is_iterated or not heard:
            self._held.append((message, size))
            self.bytes += size
            fits = self._unheard.note(size, 1)
            self._wake()
            if self.when_held is not None:
                self.when_held()
            return fits
        return True

    def release(self) -> None:
        """Give what is held to the handlers and streams, if there are any now and no iteration has begun."""
        while self._held and not self.is_iterated and self._is_heard():
            self._emit(self._pop())

    async def get(self) -> str | bytes:
        """Return the next message, for an iteration.

        Raises:
            StopAsyncIteration: there will be no more.
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
        """Return the next message that is held, None if there is none."""
        return self._pop() if self._held else None

    def end(self) -> None:
        """End the iterations, after what is held."""
        self._ended = True
        self._wake()

    def clear(self) -> None:
        """Forget what is held."""
        self._unheard.note(-self.bytes, -len(self._held))
        self._held.clear()
        self.bytes = 0

    def _pop(self) -> str | bytes:
        message, size = self._held.popleft()
        self.bytes -= size
        self._unheard.note(-size, -1)
        return message

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not self._ended:
                    return
