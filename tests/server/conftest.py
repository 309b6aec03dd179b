"""Fixtures: a server on loopback, and a check that a test leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import pytest

from metered_realtime.server import SignallingServer


@pytest.fixture(autouse=True)
async def _leaves_nothing_behind() -> AsyncIterator[None]:
    threads = set(threading.enumerate())
    yield
    await asyncio.sleep(0)  # transports that were closed tell their protocols in the next turn
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks
    assert set(threading.enumerate()) <= threads
    gc.collect()  # an unclosed transport warns when it is collected, and warnings are errors


@pytest.fixture
async def server() -> AsyncIterator[SignallingServer]:
    async with SignallingServer() as running:
        yield running
