"""Pacing by absolute deadlines: the errors of single sleeps do not add up."""

from __future__ import annotations

import asyncio
from fractions import Fraction

SKIP_AFTER = 0.1
"""Seconds behind the deadline from which deadlines are skipped instead of caught up with in a burst.

A receiver's jitter buffer absorbs less than this, but would drop a burst of more than five audio frames.
"""


class Pacer:
    """Lets one caller through per `period` seconds, the first one at once.

    Deadline n is the first call plus n periods in exact arithmetic, so there is no drift. A caller that is more than
    `SKIP_AFTER` seconds late gets the latest deadline that has passed: timestamps made from these numbers stay on the
    clock, and sources that lost the same time stay in sync. `skipped` counts the skipped deadlines.
    """

    def __init__(self, period: Fraction) -> None:
        self.skipped = 0
        self._period = period
        self._anchor: float | None = None
        self._next = 0

    async def wait(self) -> int:
        """Wait for the next deadline and return its number. Late callers skip deadlines.

        Cancellation consumes no deadline; concurrent callers get one each.
        """
        await self.wait_until_due()
        if self.lateness > SKIP_AFTER:
            self.skip_late_deadlines()
        return self.take_deadline()

    async def wait_until_due(self) -> None:
        """Wait for the next deadline without consuming it."""
        if self._anchor is None:
            self._anchor = asyncio.get_running_loop().time()
        while (delay := -self.lateness) > 0:  # noqa: ASYNC110 - time is all it waits for
            await asyncio.sleep(delay)

    @property
    def lateness(self) -> float:
        """Seconds since the next deadline, negative before it; 0 before the first call."""
        if self._anchor is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._anchor - float(self._next * self._period)

    def skip_late_deadlines(self, spared: float = 0.0) -> None:
        """Skip the deadlines that have passed, except those of the last `spared` seconds."""
        self.skip_deadlines(max(0, int((self.lateness - spared) / self._period)))

    def take_deadline(self) -> int:
        """Consume the next deadline and return its number."""
        self._next += 1
        return self._next - 1

    def skip_deadlines(self, deadlines: int) -> None:
        """Skip a number of deadlines."""
        self._next += deadlines
        self.skipped += deadlines
