"""Two connected ends for a test, closed afterwards, and virtual time for the tests that need no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.support.peer_fixtures import no_socket_left_behind, room
from tests.support.rpc.world import Raw, World
from tests.support.virtual_time import VirtualLoop

__all__ = ["no_socket_left_behind", "raw", "raw_json", "room", "world"]

IN_VIRTUAL_TIME = ("test_binding", "test_deadline_timer", "test_random_lives", "test_strain", "test_transports")
"""Modules whose tests run in memory: timeouts pass exactly when everything waits, at any load of the machine."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem in IN_VIRTUAL_TIME:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


@pytest.fixture(params=["jsonrpc-2.0", "msgpack-rpc"])
async def raw(request: pytest.FixtureRequest) -> AsyncIterator[Raw]:
    made = Raw(request.param)
    made.serve()
    yield made
    await made.close()


@pytest.fixture
async def raw_json() -> AsyncIterator[Raw]:
    made = Raw()
    made.serve()
    yield made
    await made.close()
