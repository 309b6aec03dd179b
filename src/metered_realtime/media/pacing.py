"""Pacing by absolute deadline: errors of single sleeps do not add up."""

from __future__ import annotations

import asyncio
from fractions import Fraction

REANCHOR_AFTER = 0.1
"""Seconds behind the deadline from which the clock starts afresh instead of catching up in a burst.

Less than this a receiver's jitter buffer absorbs; a burst of more than five audio frames it would throw away.
"""


class Pacer:
    """Let one caller through per `period` seconds, the first at once.

    Deadline n is the anchor plus n periods in exact arithmetic, so there is no drift. `reanchored` counts how
    often the caller came more than `REANCHOR_AFTER` seconds late and the anchor moved.
    """

    def __init__(self, period: Fraction) -> None:
        self.reanchored = 0
        self._period = period
        self._anchor: float | None = None
        self._ticks = 0

    async def wait(self) -> None:
        """Return at the next deadline. Cancellation uses up no deadline; concurrent callers get one each."""
        clock = asyncio.get_running_loop().time
        if self._anchor is None:
            self._anchor = clock()
        while (delay := self._deadline() - clock()) > 0:  # noqa: ASYNC110 - time is all it waits for
            await asyncio.sleep(delay)
        if -delay > REANCHOR_AFTER:
            self.reanchored += 1
            self._anchor, self._ticks = clock(), 0
        self._ticks += 1

    def _deadline(self) -> float:
        assert self._anchor is not None
        return self._anchor + float(self._ticks * self._period)
