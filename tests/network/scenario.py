"""Tests that run at the same time: most of their time goes by in waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.network.segment import Segment, segment

Story = Callable[[Segment], Coroutine[Any, Any, None]]
Running = dict[Story, asyncio.Task[None]]


def at_once(story: Story) -> Callable[[Running], Coroutine[Any, Any, None]]:
    """Make a test of a story: it begins together with all others that were selected, and the test awaits its end."""

    async def test(running: Running) -> None:
        await running[story]

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    vars(test)["story"] = story
    return test


async def happen(story: Story, directory: Path) -> None:
    """Let a story happen on a segment of its own. What the programs tell and log belongs to its failure."""
    async with segment(directory) as net:
        try:
            await story(net)
        except Exception as error:
            error.add_note(net.what_happened())
            raise
