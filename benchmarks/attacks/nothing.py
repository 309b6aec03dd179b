"""No attack at all: what the stage itself costs."""

from __future__ import annotations

import asyncio

from benchmarks.attacks.stage import Attack, Stage


async def nothing(stage: Stage) -> None:
    async with stage.watch():
        await asyncio.sleep(1.0)


ATTACKS: dict[str, Attack] = {"nothing": nothing}
