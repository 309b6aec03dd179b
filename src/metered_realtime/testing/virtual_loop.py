"""An asyncio event loop without I/O and with virtual time: a minute of waiting takes no real time.

When nothing is ready, the clock jumps to the next timer. The order in which callbacks run depends only on how they were
scheduled, so that a program without other sources of randomness behaves the same in every run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any


class NothingLeftToDo(Exception):
    """The program waits for something that never happens. A real loop would hang."""


class VirtualClock:
    """The selector of the loop: instead of waiting it advances the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> tuple[()]:
        """Advance the time by `timeout` seconds.

        Raises:
            NothingLeftToDo: there is no timer to wait for.
        """
        if timeout is None:
            raise NothingLeftToDo("every task waits, and no timer is set")
        if timeout > 0:
            self.now += timeout
        return ()


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs tasks, callbacks and timers of asyncio in virtual time, which starts at 0.

    It has no sockets, pipes, signals or threads. Unhandled exceptions are kept in `failures` instead of being logged.
    Use `run`, or `run_until_complete` and then `close`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._ready: deque[Any]
        self._scheduled: list[asyncio.TimerHandle]
        self._selector = VirtualClock()
        self._clock_resolution = 1e-9
        self.set_exception_handler(_keep_failure)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._selector.now

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are set, in no particular order."""
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def _process_events(self, event_list: Sequence[Any]) -> None:
        """Do nothing: there are no events."""

    def _write_to_self(self) -> None:
        """Do nothing: the selector never blocks."""


def _keep_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    detail = f": {type(error).__name__}: {error}" if error is not None else ""
    loop.failures.append(f"{context['message']}{detail}")
