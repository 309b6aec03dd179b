"""Two connected ends for a test, closed in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.peer_fixtures import no_socket_left_behind, room
from tests.support.rpc_world import Raw, World

__all__ = ["no_socket_left_behind", "raw", "raw_json", "room", "world"]


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
