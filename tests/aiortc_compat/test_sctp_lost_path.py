"""The fast SCTP association while there is no path: control chunks are lost like any packet, and nothing is raised."""

from __future__ import annotations

import asyncio

from tests.aiortc_compat.support.sctp_wire import Ends, in_virtual_time, until


def no_path(packet: bytes) -> bool:
    raise ConnectionError("Cannot send data, not connected")


def test_an_association_is_established_once_there_is_a_path() -> None:
    async def program() -> None:
        both = Ends()
        both.to_a.passes = both.to_b.passes = no_path
        establishing = asyncio.ensure_future(both.establish())
        await asyncio.sleep(2)
        assert len(both.to_b.sent) > 1, "the timer has repeated it"
        both.to_a.passes = both.to_b.passes = lambda packet: True
        await establishing

    in_virtual_time(program())


def test_a_path_that_is_lost_while_the_association_is_set_up_fails_no_task() -> None:
    async def program() -> None:
        both = Ends()
        establishing = asyncio.ensure_future(both.establish())
        await until(lambda: both.to_b.sent)
        both.to_a.passes = both.to_b.passes = no_path
        await until(lambda: both.a.state == both.b.state == "closed")
        establishing.cancel()
        await asyncio.wait([establishing])

    in_virtual_time(program())
