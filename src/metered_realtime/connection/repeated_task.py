"""A task that runs again when it was asked for meanwhile, and can be stopped for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

CANCEL_AGAIN = 0.05
"""Seconds after which a run that is still going on is cancelled again."""


class RepeatedTask:
    """Runs a coroutine function, one call at a time. `run` returns whether to go on if it was requested meanwhile."""

    def __init__(self, run: Callable[[], Awaitable[bool]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None
        self._is_requested = False

    @property
    def is_running(self) -> bool:
        """Whether a call goes on."""
        return self._task is not None and not self._task.done()

    def request(self) -> None:
        """Run now, or again after the call that goes on."""
        self._is_requested = True
        if not self.is_running:
            self._task = asyncio.ensure_future(self._repeat())

    async def stop(self) -> None:
        """Cancel the call that goes on, and wait for its end.

        Cancelling once is not enough: `asyncio.wait_for` of Python 3.11, in which the TLS handshake waits, swallows the
        cancellation when the awaited result has just arrived (python/cpython#86296).
        """
        self._is_requested = False
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_AGAIN)

    async def _repeat(self) -> None:
        goes_on = True
        while self._is_requested and goes_on:
            self._is_requested = False
            goes_on = await self._run()
