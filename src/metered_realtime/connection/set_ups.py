"""The number of connections of a peer that are made, and closed, at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

MAX_SET_UPS = 64
"""Connections that are being made or closed. Each has sockets, timers and a handshake, and costs some milliseconds;
a mesh of 50 comes up at once. If presence lets peers come and go faster than that, they wait."""

SET_UP_TIME = 5.0
"""Seconds for which a connection counts as being made. A remote that never answers must not delay the others for
long."""


class Turn:
    """The right of one connection to be made. `granted` is called when it has it."""

    def __init__(self, granted: Callable[[], None]) -> None:
        self.granted = granted
        self.is_granted = False


class SetUps:
    """Grants turns in the order of the requests, at once while there is room.

    A turn that is given up while it waits has cost nothing. Waiting ones are granted one in each iteration of the event
    loop, so that other work goes on in between.
    """

    def __init__(self) -> None:
        self.busy = 0
        self._waiting: dict[Turn, None] = {}
        self._is_granting = False

    @property
    def waiting(self) -> int:
        """The number of connections that wait for their turn."""
        return len(self._waiting)

    def request(self, turn: Turn) -> None:
        """Grant a turn at once, or when there is room."""
        if self._waiting or self.busy >= MAX_SET_UPS:
            self._waiting[turn] = None
        else:
            self._grant(turn)

    def end(self, turn: Turn) -> None:
        """End a turn, granted or not."""
        if turn.is_granted:
            self._release()
        else:
            self._waiting.pop(turn, None)

    def count(self, teardown: asyncio.Future[Any]) -> None:
        """Count a connection that is being closed, until it is. It does not wait for a turn."""
        self.busy += 1
        teardown.add_done_callback(lambda _: self._release())

    def _release(self) -> None:
        self.busy -= 1
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._is_granting:
            self._is_granting = True
            asyncio.get_running_loop().call_soon(self._grant_next)

    def _grant_next(self) -> None:
        self._is_granting = False
        if self._waiting and self.busy < MAX_SET_UPS:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            self._grant(turn)
            self._go_on()

    def _grant(self, turn: Turn) -> None:
        self.busy += 1
        turn.is_granted = True
        turn.granted()
