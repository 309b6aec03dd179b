"""What every test gets: it has to leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from metered_realtime.emitter import OWN_EVENTS, AsyncEventEmitter
from metered_realtime.events import Event

# How long an example takes depends on what else runs on the machine: it decides nothing.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells of every pair that it checks

SETTLE_TURNS = 20
"""Turns of the event loop that finished work may need to be collected. No time passes in them."""

THREAD_TIMEOUT = 30.0
"""Seconds that a thread which has been told to end may take."""

LONG = (
    "testing/test_simulation.py",
    "network/",
    "interop/test_python_and_browsers.py",
    "interop/",
    "foreign_ends/",
    "bridge/test_browser.py",
    "mesh/test_slow_paths.py",
)
"""Where the tests are that take longest, of which a file is the smallest part that a worker takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones, so that no worker is left with one when the others are done."""
    tests = Path(__file__).parent
    paths = {item.path: item.path.relative_to(tests).as_posix() for item in items}
    places = {path: [name.startswith(it) for it in LONG] for path, name in paths.items()}
    items.sort(key=lambda item: places[item.path], reverse=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what collection has made, which lives to the end."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that lets aiortc go its own way wherever this package has something faster."""
    parser.addoption(
        "--slow-paths", action="store_true", help="run with everything off that Tuning and guards turn off"
    )
    parser.addoption("--uvloop", action="store_true", help="run on uvloop: for tests of the server")
    parser.addoption("--every-browser", action="store_true", help="run all rows of tests/interop in Firefox too")


@pytest.fixture(autouse=True, scope="session")
def only_known_events() -> Iterator[None]:
    """Fail what dispatches an event of the package that its object does not say it emits."""
    route = AsyncEventEmitter._route

    def checked(emitter: AsyncEventEmitter, event_type: type[Event]) -> Any:
        known, is_ours = type(emitter)._EMITS, event_type.__module__.startswith(OWN_EVENTS)
        assert known is None or not is_ours or event_type in known, f"{emitter!r}: {event_type.__name__}"
        return route(emitter, event_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncEventEmitter, "_route", checked)
        yield


@pytest.fixture(scope="session", autouse=True)
def fast_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have all event loops be uvloop's if `--uvloop` asks for it."""
    if not request.config.getoption("--uvloop"):
        yield
        return
    import uvloop

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


@pytest.fixture(autouse=True)
def slow_paths(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave everything to aiortc and aioice if `--slow-paths` asks for it."""
    if not request.config.getoption("--slow-paths"):
        yield
        return
    from tests.support.changed_releases import without_fast_paths

    with without_fast_paths():
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a task or a thread running."""
    threads_before = set(threading.enumerate())
    if request.node.get_closest_marker("asyncio") is not None:  # others need no event loop
        request.getfixturevalue("no_task_left_behind")
    yield
    threads = {thread for thread in threading.enumerate() if not _belongs_to_executor(thread)} - threads_before
    for thread in threads:
        thread.join(THREAD_TIMEOUT)
    threads = {thread for thread in threads if thread.is_alive()}
    assert not threads, f"threads left behind: {threads}"


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail a test that leaves a task running."""
    yield
    for _ in range(SETTLE_TURNS):
        if len(asyncio.all_tasks()) == 1:
            break
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks, f"tasks left behind: {tasks}"


def _belongs_to_executor(thread: threading.Thread) -> bool:
    """The event loop keeps the threads of its executor until it is closed."""
    return thread.name.startswith("asyncio_")
