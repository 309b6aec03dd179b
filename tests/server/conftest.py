"""Fixtures: a server on loopback, and a check that no transport stays open."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from metered_realtime.server import SignallingServer


@pytest.fixture(autouse=True, scope="module")
def _leaves_no_transport_open() -> Iterator[None]:
    yield
    gc.collect()  # an unclosed transport warns when it is collected, and warnings are errors


@pytest.fixture
async def server() -> AsyncIterator[SignallingServer]:
    async with SignallingServer() as running:
        yield running
