"""The timer for the earliest of many deadlines."""

from __future__ import annotations

import asyncio

from metered_realtime.rpc.deadline_timer import DeadlineTimer


class Due:
    """The times at which a timer was due."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.timer = DeadlineTimer(self._note)

    def _note(self) -> None:
        self.times.append(asyncio.get_running_loop().time())


async def test_the_earliest_deadline_is_due_and_no_later_one_before_it_is_scheduled_again() -> None:
    due, now = Due(), asyncio.get_running_loop().time()
    for after in (5.0, 3.0, 4.0):
        due.timer.schedule(now + after)
    due.timer.schedule(None)
    await asyncio.sleep(9.0)
    assert due.times == [now + 3.0]
    due.timer.schedule(now + 10.0)
    await asyncio.sleep(9.0)
    assert due.times == [now + 3.0, now + 10.0]


async def test_a_cancelled_deadline_is_not_due() -> None:
    due, now = Due(), asyncio.get_running_loop().time()
    due.timer.schedule(now + 1.0)
    due.timer.cancel()
    due.timer.cancel()
    await asyncio.sleep(2.0)
    assert due.times == []
