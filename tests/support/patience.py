"""How long tests wait for what has to happen, and how long that may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 90.0
"""Seconds after which a wait counts as hung. It only bounds a hang: a busy machine stays far below it."""

TICK = 0.01
"""Seconds between two looks at the time that passes."""


@asynccontextmanager
async def takes_less_than(seconds: float) -> AsyncIterator[None]:
    """Fail if a block waits for longer.

    Time passes in ticks of the event loop: it stands still while the machine does not run this program.
    """
    ticks = 0

    async def count() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(TICK)
            ticks += 1

    counting = asyncio.ensure_future(count())
    try:
        yield
    finally:
        counting.cancel()
        await asyncio.wait([counting])
    assert ticks * TICK < seconds
