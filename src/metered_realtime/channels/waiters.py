"""Callers that wait for the same thing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Waiters:
    """Futures that complete together."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._futures)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that completes with the next `release` or `fail`. It can be cancelled."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def release(self) -> None:
        """Complete every future."""
        futures, self._futures = self._futures, set()
        for future in futures:
            if not future.done():
                future.set_result(None)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fail every future, each with an exception of its own."""
        futures, self._futures = self._futures, set()
        for future in futures:
            if not future.done():
                future.set_exception(error())
