"""Two connected ends for a test, closed in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.rpc.support import Raw, World


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
