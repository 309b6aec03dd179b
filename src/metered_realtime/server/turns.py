"""The order of what one connection asks for: for each channel one thing after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Turns:
    """Requests of one connection by channel.

    A request that waits for an outcome calls `begin`, and `end` when the outcome is there. Requests for the same
    channel that come meanwhile wait for that.
    """

    __slots__ = ("_busy", "_waiting")

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._waiting

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def run(self, name: str, request: Callable[[], None]) -> None:
        """Do a request at once, or after those before it."""
        waiting = self._waiting.get(name)
        if waiting is None:
            request()
        else:
            waiting.append(request)

    def begin(self, name: str) -> None:
        """Have later requests for a channel wait."""
        self._busy.add(name)
        if name not in self._waiting:
            self._waiting[name] = deque()

    def end(self, name: str) -> None:
        """Do the requests that wait for a channel, up to the next one that has others wait."""
        self._busy.discard(name)
        waiting = self._waiting[name]
        while waiting and name not in self._busy:
            waiting.popleft()()
        if name not in self._busy and self._waiting.get(name) is waiting:
            del self._waiting[name]
