"""Starts the stories of the tests that were selected, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.network.scenario import Running, happen
from tests.network.segment import remove_stale


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Let the stories happen, in the event loop of their module."""
    remove_stale()
    functions = [item.function for item in request.session.items if isinstance(item, pytest.Function)]
    stories = [vars(it)["story"] for it in functions if "story" in vars(it)]
    tasks: Running = {}
    for story in stories:
        directory = tmp_path_factory.mktemp(story.__name__, numbered=False)
        tasks[story] = asyncio.ensure_future(happen(story, directory))
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
