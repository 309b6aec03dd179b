"""The phases of a long run: each one is told when it begins, and none waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from tests.support.patience import PATIENCE


class StuckError(Exception):
    """A phase did not come to its end. The text says which one, and why."""


class Phases:
    """Tells the phases of a run on stderr, with the seconds since its beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(stderr=True)
        self._bound: asyncio.Timeout | None = None
        self._reason: str | None = None

    @asynccontextmanager
    async def phase(self, text: str, bound: float = PATIENCE) -> AsyncIterator[None]:
        """Tell what is being done, and let it take that many seconds at most.

        Raises:
            StuckError: it took longer, or `fail` was called.
        """
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", highlight=False)
        if self._reason is not None:
            raise StuckError(f"{text}: {self._reason}")
        try:
            async with asyncio.timeout(bound) as self._bound:
                yield
        except TimeoutError as error:
            raise StuckError(f"{text}: {self._reason or f'not done within {bound:.0f} s'}") from error
        finally:
            self._bound = None

    def fail(self, reason: str) -> None:
        """End the phase that runs, or the next one: what the run needs is gone."""
        self._reason = self._reason or reason
        if self._bound is not None:
            self._bound.reschedule(asyncio.get_running_loop().time())
