"""One browser of each kind for all tests, and a server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from metered_realtime.server import SignallingServer
from tests.support.browsers import BROWSERS, Browser, Chromium, needs

LaunchFn = Callable[[type[Browser]], Awaitable[Browser]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in the browsers that its marker `browsers` names: in Chromium if there is none.

    Those under `thorough` run with `--every-browser` only.
    """
    if "launched" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("browsers")
        names = list(marker.args) if marker else [Chromium.NAME]
        if marker is not None and metafunc.config.getoption("--every-browser"):
            names += marker.kwargs.get("thorough", ())
        kinds = [BROWSERS[name] for name in names]
        parameters = [pytest.param(it, id=it.NAME, marks=[getattr(pytest.mark, it.NAME), needs(it)]) for it in kinds]
        metafunc.parametrize("launched", parameters, indirect=True, scope="module")


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def launch() -> AsyncIterator[LaunchFn]:
    """Return the browser of a kind. It is started when it is first wanted, and ends after the last test."""
    running: dict[type[Browser], Browser] = {}
    async with AsyncExitStack() as stack:

        async def launch(kind: type[Browser]) -> Browser:
            if kind not in running:
                running[kind] = await stack.enter_async_context(kind())
            return running[kind]

        yield launch


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def launched(request: pytest.FixtureRequest, launch: LaunchFn) -> Browser:
    """The browser of a kind. Who uses it cleans it."""
    return await launch(request.param)


@pytest_asyncio.fixture(loop_scope="package")
async def browser(launched: Browser, server: SignallingServer) -> AsyncIterator[Browser]:
    """The same one, with its pages closed and their errors looked at after the test, while their server still runs."""
    yield launched
    await launched.clean()


@pytest.fixture
def chromium(browser: Browser) -> Chromium:
    """The browser of tests that run in Chromium only."""
    assert isinstance(browser, Chromium)
    return browser


@pytest_asyncio.fixture(loop_scope="package")
async def server() -> AsyncIterator[SignallingServer]:
    """A server of the test's own."""
    async with SignallingServer(port=0) as running:
        yield running
