"""Timers by name, each of them set at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """Calls functions at times of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def set(self, name: str, deadline: float | None, action: Callable[[], None]) -> None:
        """Call a function at a time, instead of what was set under this name. None: not at all."""
        self.cancel(name)
        if deadline is not None:

            def fire() -> None:
                self._handles.pop(name, None)
                action()

            self._handles[name] = self._loop.call_at(deadline, fire)

    def cancel(self, name: str) -> None:
        """Forget what was set under a name."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Forget everything."""
        for name in tuple(self._handles):
            self.cancel(name)
