"""A server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from metered_realtime.server import SignallingServer


@pytest.fixture
async def server() -> AsyncIterator[SignallingServer]:
    async with SignallingServer() as running:
        yield running
