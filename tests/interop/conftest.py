"""One browser for the tests of a module, and a server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from metered_realtime.server import SignallingServer
from tests.support.chromium import Chromium


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Chromium]:
    """A browser for all tests of a module."""
    async with Chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def chromium(browser: Chromium, server: SignallingServer) -> AsyncIterator[Chromium]:
    """The same one, with its pages closed and their errors looked at after the test, while their server still runs."""
    yield browser
    await browser.clean()


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[SignallingServer]:
    """A server of the test's own."""
    async with SignallingServer(port=0) as running:
        yield running
