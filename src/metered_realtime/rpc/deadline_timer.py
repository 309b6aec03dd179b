"""A timer for the earliest of many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class DeadlineTimer:
    """Calls `on_due` once the earliest deadline that was scheduled has come. Times are those of the event loop."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_due = on_due
        self._handle: asyncio.TimerHandle | None = None

    def schedule(self, deadline: float | None) -> None:
        """Call `on_due` at `deadline`, or earlier if that is scheduled already. None schedules nothing."""
        if deadline is None or (self._handle is not None and self._handle.when() <= deadline):
            return
        self.cancel()
        self._handle = self._loop.call_at(deadline, self._fire)

    def cancel(self) -> None:
        """Forget what is scheduled."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._on_due()
