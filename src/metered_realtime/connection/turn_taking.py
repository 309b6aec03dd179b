"""The turn of one connection among those of its peer that are being made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .set_ups import SET_UP_TIME, SetUps, Turn


class TurnTaking:
    """Asks for a turn when one is needed, and gives it back: when the connection is up, or after `SET_UP_TIME`."""

    def __init__(self, set_ups: SetUps) -> None:
        self._set_ups = set_ups
        self._turn: Turn | None = None
        self._waiting: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_granted(self) -> bool:
        """Whether it is the turn of this connection."""
        return self._turn is not None and self._turn.is_granted

    def when_granted(self, action: Callable[[], None]) -> None:
        """Call a function now, or when it is the turn of this connection."""
        if self.is_granted:
            action()
        else:
            self._waiting.append(action)
            if self._turn is None:
                self._turn = Turn(self._granted)
                self._set_ups.request(self._turn)

    async def wait(self) -> None:
        """Wait for the turn of this connection."""
        granted = asyncio.Event()
        self.when_granted(granted.set)
        await granted.wait()

    def end(self) -> None:
        """Give the turn back, or stop waiting for it. Functions that wait go on waiting for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        turn, self._turn = self._turn, None
        if turn is not None:
            self._set_ups.end(turn)

    def count(self, teardown: asyncio.Future[None]) -> None:
        """Count a connection that is being closed."""
        self._set_ups.count(teardown)

    def close(self) -> None:
        """Give the turn back and forget what waits for it."""
        self._waiting.clear()
        self.end()

    def _granted(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SET_UP_TIME, self.end)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()
