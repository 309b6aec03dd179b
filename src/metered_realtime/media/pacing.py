"""Pacing by absolute deadline: errors of single sleeps do not add up, and lost time is lost once."""

from __future__ import annotations

import asyncio
from fractions import Fraction

SKIP_AFTER = 0.1
"""Seconds behind the deadline from which deadlines are left out instead of made up for in a burst.

Less than this a receiver's jitter buffer absorbs; a burst of more than five audio frames it would throw away.
"""


class Pacer:
    """Let one caller through per `period` seconds, the first at once.

    Deadline n is the first call plus n periods in exact arithmetic, so there is no drift. A caller that comes more
    than `SKIP_AFTER` seconds late gets the latest deadline that has passed: what is stamped by these numbers stays on
    the clock, and sources that lost the same time stay together. `skipped` counts the deadlines left out.
    """

    def __init__(self, period: Fraction) -> None:
        self.skipped = 0
        self._period = period
        self._anchor: float | None = None
        self._next = 0

    async def wait(self) -> int:
        """Return the number of the next deadline, at it.

        Cancellation uses up no deadline; concurrent callers get one each.
        """
        await self.until_due()
        if self.lateness > SKIP_AFTER:
            self.skip_late()
        return self.take()

    async def until_due(self) -> None:
        """Return at the next deadline, and leave it for `take`."""
        if self._anchor is None:
            self._anchor = asyncio.get_running_loop().time()
        while (delay := -self.lateness) > 0:  # noqa: ASYNC110 - time is all it waits for
            await asyncio.sleep(delay)

    @property
    def lateness(self) -> float:
        """Seconds since the next deadline; below 0 before it, and 0 before the first."""
        if self._anchor is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._anchor - float(self._next * self._period)

    def skip_late(self, spared: float = 0.0) -> None:
        """Leave out the deadlines that have passed, but those of the last so many seconds."""
        self.skip(max(0, int((self.lateness - spared) / self._period)))

    def take(self) -> int:
        """Use up the next deadline, and return its number."""
        self._next += 1
        return self._next - 1

    def skip(self, deadlines: int) -> None:
        """Leave out deadlines."""
        self._next += deadlines
        self.skipped += deadlines
