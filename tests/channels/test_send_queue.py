"""The send queue of a channel, without a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from metered_realtime import DataChannelOverflowError
from metered_realtime.channels.send_queue import SendQueue
from metered_realtime.channels.waiters import Waiters


class Target:
    """Sends messages while there is room for them, and fails on one of them."""

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[str] = []
        self.withdrawn = 0

    def has_room(self, size: int) -> bool:
        return size <= self.room

    def send_queued(self, message: str, size: int) -> None:
        if message == "bad":
            raise ValueError(message)
        self.room -= size
        self.sent.append(message)

    def send_withdrawn(self) -> None:
        self.withdrawn += 1


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def queue(target: Target) -> SendQueue[str]:
    return SendQueue(target, max_sends=3, max_bytes=10)


async def started(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


async def test_messages_are_sent_in_order_as_room_appears(target: Target, queue: SendQueue[str]) -> None:
    sends = [await started(queue.wait(queue.add(name, size))) for name, size in (("a", 4), ("b", 1), ("c", 2))]
    target.room = 3
    assert not queue.flush()
    assert (len(queue), queue.bytes, queue.next_size) == (3, 7, 4)
    target.room = 5
    assert queue.flush()
    assert target.sent == ["a", "b"]
    await asyncio.gather(*sends[:2])
    assert (len(queue), queue.bytes, queue.next_size) == (1, 2, 2)
    target.room = 2
    queue.flush()
    await sends[2]
    assert (len(queue), queue.bytes, queue.next_size) == (0, 0, None)


async def test_the_number_of_calls_is_bounded(queue: SendQueue[str]) -> None:
    for name in "abc":
        queue.add(name, 1)
    with pytest.raises(DataChannelOverflowError) as error:
        queue.add("d", 1)
    assert (error.value.queued, error.value.cap, error.value.unit) == (3, 3, "sends")
    assert len(queue) == queue.bytes == 3


async def test_the_bytes_in_the_calls_are_bounded(queue: SendQueue[str]) -> None:
    queue.add("a", 6)
    with pytest.raises(DataChannelOverflowError) as error:
        queue.add("b", 5)
    assert (error.value.queued, error.value.cap, error.value.unit) == (11, 10, "bytes")
    queue.add("c", 4)
    assert (len(queue), queue.bytes) == (2, 10)


async def test_cancelling_a_call_withdraws_its_message(target: Target, queue: SendQueue[str]) -> None:
    sends = [await started(queue.wait(queue.add(name, size))) for name, size in (("a", 4), ("b", 1))]
    sends[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await sends[0]
    assert (target.withdrawn, len(queue), queue.bytes) == (1, 1, 1)
    target.room = 10
    queue.flush()
    await sends[1]
    assert target.sent == ["b"]


async def test_a_message_that_was_cancelled_in_the_same_step_is_not_sent(target: Target, queue: SendQueue[str]) -> None:
    sends = [await started(queue.wait(queue.add(name, 1))) for name in "ab"]
    sends[0].cancel()
    target.room = 10
    queue.flush()
    await asyncio.gather(*sends, return_exceptions=True)
    assert (target.sent, target.withdrawn, len(queue)) == (["b"], 0, 0)


async def test_a_message_that_cannot_be_sent_fails_its_own_call_only(target: Target, queue: SendQueue[str]) -> None:
    sends = [await started(queue.wait(queue.add(name, 1))) for name in ("bad", "good")]
    target.room = 10
    assert queue.flush()
    with pytest.raises(ValueError, match="bad"):
        await sends[0]
    await sends[1]
    assert target.sent == ["good"]


async def test_failing_the_queue_fails_every_call(queue: SendQueue[str]) -> None:
    sends = [await started(queue.wait(queue.add(name, 1))) for name in "ab"]
    queue.fail(lambda: EOFError("closed"))
    errors = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(error) for error in errors] == [EOFError, EOFError]
    assert errors[0] is not errors[1]
    assert (len(queue), queue.bytes) == (0, 0)


async def test_waiters_are_released_together_and_only_once() -> None:
    waiters = Waiters()
    first, second = waiters.wait(), waiters.wait()
    assert waiters
    waiters.release()
    await asyncio.gather(first, second)
    assert not waiters
    third = waiters.wait()
    await asyncio.sleep(0)
    assert not third.done()
    waiters.fail(lambda: EOFError("closed"))
    with pytest.raises(EOFError):
        await third


async def test_a_waiter_that_was_cancelled_is_forgotten() -> None:
    waiters = Waiters()
    waiters.wait().cancel()
    await asyncio.sleep(0)
    assert not waiters
