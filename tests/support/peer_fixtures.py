"""Fixtures of every test of real peers: a server with an empty channel, and the check that no socket stays open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime.server import SignallingServer
from tests.support.peers import Room, eventually


@asynccontextmanager
async def no_open_socket() -> AsyncIterator[None]:
    """Fail if sockets of this event loop are open at the end of a block."""
    loop: Any = asyncio.get_running_loop()
    yield

    def open_transports() -> list[Any]:
        return [transport for transport in loop._transports.values() if not transport.is_closing()]

    try:
        await eventually(lambda: not open_transports())
    except TimeoutError:
        pytest.fail(f"sockets left behind: {[it.get_extra_info('sockname') for it in open_transports()]}")


@asynccontextmanager
async def open_room(**options: Any) -> AsyncIterator[Room]:
    """Run a server with an empty channel, and let every peer that was made leave in the end."""
    async with SignallingServer(port=0, **options) as server:
        room = Room(server)
        yield room
        await asyncio.gather(*(peer.close() for peer in room.peers))


@pytest.fixture(autouse=True)
async def no_socket_left_behind() -> AsyncIterator[None]:
    """Fail a test after which sockets are open."""
    async with no_open_socket():
        yield


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """Give a test a server with an empty channel, which every peer of it leaves in the end."""
    async with open_room() as room:
        yield room
