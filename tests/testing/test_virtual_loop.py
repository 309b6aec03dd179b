"""Virtual time: waiting takes no real time, the order is fixed, and endless waiting raises."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime.testing import NothingLeftToDo, VirtualLoop


def test_waiting_takes_no_time_and_moves_the_clock() -> None:
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    loop.close()


def test_timers_fire_in_the_order_of_their_times() -> None:
    loop, fired = VirtualLoop(), []
    for delay in (3.0, 1.0, 2.0):
        loop.call_later(delay, fired.append, delay)
    loop.run_until_complete(asyncio.sleep(5))
    assert fired == [1.0, 2.0, 3.0]
    loop.close()


def test_timeouts_count_virtual_seconds() -> None:
    async def wait_too_long() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(31)
        return asyncio.get_running_loop().time()

    loop = VirtualLoop()
    assert loop.run_until_complete(wait_too_long()) == pytest.approx(30)
    loop.close()


def test_waiting_for_something_that_never_happens_raises_instead_of_hanging() -> None:
    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    task = loop.create_task(wait_for_ever())
    with pytest.raises(NothingLeftToDo):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()


def test_unhandled_exceptions_are_kept() -> None:
    async def fail() -> None:
        raise ValueError("lost")

    loop = VirtualLoop()
    loop.call_soon(lambda: 1 / 0)
    task = loop.create_task(fail())
    loop.run_until_complete(asyncio.sleep(1))
    del task
    assert len(loop.failures) == 2
    assert "ZeroDivisionError" in loop.failures[0]
    assert "ValueError: lost" in loop.failures[1]
    loop.close()


def test_the_timers_that_are_set_are_listed() -> None:
    loop = VirtualLoop()
    kept, cancelled = loop.call_later(1, print), loop.call_later(2, print)
    cancelled.cancel()
    assert loop.timers() == [kept]
    loop.close()
