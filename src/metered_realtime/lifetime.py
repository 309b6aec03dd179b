"""Warn about clients and peers that are still open when their event loop ends, and close them.

At its end `asyncio.run` cancels all tasks and waits for them. Each open client and peer has a task that treats this as
the end of the program: it warns, as `asyncio` does for transports, and closes its owner properly. Objects that a
program merely drops stay alive in their tasks and handlers until then. There is no warning without cancellation, as in
an event loop that is closed by hand.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable


class Lifetime:
    """Watches one object from `begin` to `end`."""

    def __init__(self, owner: object, close: Callable[[], Awaitable[None]]) -> None:
        self._owner = owner
        self._close = close
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start watching. Idempotent."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
            self._task = asyncio.ensure_future(self._watch(self._ended))

    def end(self) -> None:
        """Stop watching, when the object is closed. Idempotent."""
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_result(None)

    async def _watch(self, ended: asyncio.Future[None]) -> None:
        try:
            await ended
        except asyncio.CancelledError:
            if self._ended is not ended:
                raise
            warnings.warn(f"unclosed {self._owner!r}", ResourceWarning, stacklevel=1, source=self._owner)
            await self._close()
            raise
