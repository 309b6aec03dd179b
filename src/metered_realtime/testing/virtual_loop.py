"""An asyncio event loop without I/O and with virtual time: a minute of waiting takes no time at all.

When nothing is ready the clock jumps to the next timer. What runs, and in which order, follows from what was scheduled
alone, so that a program without other sources of chance does the same thing in every run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any


class NothingLeftToDo(Exception):
    """The program waits for something that nobody is going to do. A real loop would hang."""


class VirtualClock:
    """What the loop has in the place of a selector: instead of waiting it moves the time on."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> tuple[()]:
        """Move on by `timeout` seconds.

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

    There are no sockets, pipes, signals or threads in it. Exceptions that nobody takes are kept in `failures` instead
    of being logged. Use `run`, or `run_until_complete` and then `close`.
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
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits who had to be woken."""


def _keep_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    detail = f": {type(error).__name__}: {error}" if error is not None else ""
    loop.failures.append(f"{context['message']}{detail}")
