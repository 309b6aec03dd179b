"""A timer that is put off far more often than it fires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class PostponedTimer:
    """Calls a function once a time has passed, unless it is started again or stopped before.

    Starting it again later than before leaves the timer of the event loop alone: it looks at the new time when it
    fires. Cancelling one and making another with each packet would cost more than all else that is done for it.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._due: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it is going to fire."""
        return self._due is not None

    def start(self, delay: float) -> None:
        """Start it, or start it again, to fire after a delay in seconds."""
        self._due = due = self._loop.time() + delay
        handle = self._handle
        if handle is not None and handle.when() > due:
            handle.cancel()
            handle = None
        if handle is None:
            self._handle = self._loop.call_at(due, self._fire)

    def pause(self) -> None:
        """Let it not fire. What the event loop has is left alone: it is going to be started again soon."""
        self._due = None

    def stop(self) -> None:
        """Let it not fire, and leave nothing to the event loop. Idempotent."""
        self._due = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._handle = self._loop.call_at(self._due, self._fire)
        else:
            self._due = None
            self._callback()
