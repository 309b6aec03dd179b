"""A timer that is put off again and again, in virtual time."""

from __future__ import annotations

import asyncio

from metered_realtime.aiortc_compat.timer import PostponedTimer
from tests.aiortc_compat.support.sctp_wire import in_virtual_time


def test_it_fires_once_after_the_last_start() -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        timer = PostponedTimer(lambda: fired.append(loop.time()))
        began = loop.time()
        for _ in range(5):
            timer.start(1.0)
            await asyncio.sleep(0.5)
        assert fired == []
        assert timer.is_running
        await asyncio.sleep(5.0)
        assert [round(at - began, 3) for at in fired] == [3.0]
        assert not timer.is_running

    in_virtual_time(program())


def test_an_earlier_time_counts_as_well() -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        timer = PostponedTimer(lambda: fired.append(loop.time()))
        began = loop.time()
        timer.start(3.0)
        timer.start(1.0)
        await asyncio.sleep(5.0)
        assert [round(at - began, 3) for at in fired] == [1.0]

    in_virtual_time(program())


def test_paused_or_stopped_it_does_not_fire() -> None:
    async def program() -> None:
        fired: list[str] = []
        paused, stopped = (
            PostponedTimer(lambda: fired.append("paused")),
            PostponedTimer(lambda: fired.append("stopped")),
        )
        for timer in (paused, stopped):
            timer.start(1.0)
        paused.pause()
        stopped.stop()
        stopped.stop()
        await asyncio.sleep(2.0)
        assert fired == []
        paused.start(1.0)
        await asyncio.sleep(2.0)
        assert fired == ["paused"]

    in_virtual_time(program())
