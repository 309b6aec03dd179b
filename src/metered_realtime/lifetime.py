"""What is still open when its event loop ends is told, and closed.

`asyncio.run` cancels every task at the end, and waits for them. A task of each open client and peer takes that for the
end of the program: it warns, as `asyncio` does of transports, and closes in good order. Objects that a program merely
drops live on in their tasks and handlers until then. An event loop that is closed by hand without cancelling its tasks
tells nothing.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable


class Lifetime:
    """Watches over one object from `begin` to `end`."""

    def __init__(self, owner: object, close: Callable[[], Awaitable[None]]) -> None:
        self._owner = owner
        self._close = close
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch from now on. Idempotent."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
            self._task = asyncio.ensure_future(self._watch(self._ended))

    def end(self) -> None:
        """Watch no longer: it is closed. Idempotent."""
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
