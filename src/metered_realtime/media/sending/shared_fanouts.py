"""The fan-outs of tracks that several connections send: one reader of each track, whoever sends it."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from ...log import Logger
from .fanout import EndedFn, TrackFanout


class FanoutLease:
    """One use of the fan-out of a track, until `release`.

    All uses in one event loop share it: each codec is encoded once, and no connection takes the frames of another.
    `ended` is called once when the track has ended, with the track and its error, None if it ended normally.
    """

    def __init__(self, track: Any, logger: Logger, ended: EndedFn) -> None:
        self.ended = ended
        self._shared = _shared_fanout(track, logger)
        self._shared.leases.append(self)

    @property
    def fanout(self) -> TrackFanout:
        """The fan-out of the track."""
        return self._shared.fanout

    async def release(self) -> None:
        """End this use. The last one stops reading the track, which stays open. Idempotent."""
        if self in self._shared.leases:
            self._shared.leases.remove(self)
            if not self._shared.leases:
                await self._shared.close()


class _SharedFanout:
    def __init__(self, track: Any, logger: Logger, known: dict[int, _SharedFanout]) -> None:
        self.fanout = TrackFanout(track, logger, self._ended)
        self.leases: list[FanoutLease] = []
        self._known = known
        known[id(track)] = self  # the fan-out keeps the track, so that its id stays its own

    async def close(self) -> None:
        self._forget()
        await self.fanout.close()

    def _ended(self, track: Any, error: BaseException | None) -> None:
        self._forget()
        for lease in tuple(self.leases):
            lease.ended(track, error)

    def _forget(self) -> None:
        if self._known.get(id(self.fanout.track)) is self:
            del self._known[id(self.fanout.track)]


_fanouts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _SharedFanout]] = WeakKeyDictionary()


def _shared_fanout(track: Any, logger: Logger) -> _SharedFanout:
    known = _fanouts.setdefault(asyncio.get_running_loop(), {})
    return known.get(id(track)) or _SharedFanout(track, logger, known)
