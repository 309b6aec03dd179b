"""A real Chromium for tests: pages that fail the test on unexpected errors, and no processes left behind."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, async_playwright, expect

from tests.support.patience import PATIENCE

EXECUTABLE = os.environ.get("CHROMIUM") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(
    EXECUTABLE is None and "CI" not in os.environ,
    reason="Chromium is needed: apt-get install chromium, or set CHROMIUM to its path",
)
"""Skips where there is no browser, except in CI: there the test runs, and fails."""

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # The pop-ups of the address bar are web pages, and each new context would load them: two thirds of its CPU time.
    "--disable-features=WebRtcHideLocalIpsWithMdns,WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    "--autoplay-policy=no-user-gesture-required",
)

_FUNCTION = re.compile(r"(async\s*)?\([^()]*\)\s*=>")

EXIT_TIMEOUT = 5.0
"""Seconds that the browser's processes get to go away before they are killed."""

DEFAULT_TIMEOUT = PATIENCE * 1000
"""Milliseconds that a page's wait takes at most."""

expect.set_options(timeout=DEFAULT_TIMEOUT)

PROBE = """
(() => {
  const watched = (name) => {
    const Original = window[name];
    const made = [];
    window[name] = class extends Original {
      constructor(...args) { super(...args); made.push(this); }
    };
    return made;
  };
  window.probe = { sockets: watched("WebSocket"), connections: watched("RTCPeerConnection") };
})()
"""
"""Runs before the page's own code: `probe.sockets` and `probe.connections` are all that the page ever made."""


async def until(page: Page, condition: str, arg: Any = None) -> Any:
    """Wait until a JavaScript expression, or a function of `arg`, maybe async, is truthy; return its value.

    playwright's own wait_for_function takes the promise of an async function for the truth, and evaluates text in the
    page at times when the page's security policy forbids it.
    """
    function = condition if _FUNCTION.match(condition) else f"() => ({condition})"
    loop = """async (arg) => {
      for (;;) {
        const value = await (CONDITION)(arg);
        if (value) return value;
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    }""".replace("CONDITION", function)
    try:
        async with asyncio.timeout(PATIENCE):
            return await page.evaluate(loop, arg)
    except TimeoutError:
        raise AssertionError(f"never became true: {condition}") from None


class Chromium:
    """A browser with a fresh profile. Every page has storage of its own.

    Leaving the context fails the test if a page logged an error or threw one, unless `allow` matches its text.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = [*ARGUMENTS, *arguments]
        self._allowed: list[re.Pattern[str]] = []
        self.errors: list[str] = []
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._others: set[int] = set()

    async def __aenter__(self) -> Self:
        self._others = _descendants(os.getpid())
        self._playwright = await async_playwright().start()
        try:
            # Without a given profile, launch() makes a temporary one and removes it afterwards.
            self._browser = await self._playwright.chromium.launch(
                executable_path=EXECUTABLE, args=self._arguments, headless=True
            )
        except BaseException:
            await self._playwright.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started = _descendants(os.getpid()) - self._others
        assert self._browser is not None
        assert self._playwright is not None
        try:
            await self._browser.close()
        finally:
            await self._playwright.stop()
            left = await _gone(started)
        if kind is None:
            assert not left, f"processes that outlived the browser: {left}"
            self._check()

    def allow(self, pattern: str) -> None:
        """Let errors whose text matches pass until the next `clean`."""
        self._allowed.append(re.compile(pattern))

    async def clean(self) -> None:
        """Close every page and check what they logged: for fixtures that use one browser for several tests."""
        assert self._browser is not None
        for context in self._browser.contexts:
            await context.close()
        self._allowed.clear()
        self._check()

    def _check(self) -> None:
        errors, self.errors = self.errors, []
        assert not errors, "unexpected errors in pages:\n" + "\n".join(errors)

    async def context(self, **options: Any) -> BrowserContext:
        """Open a profile of its own, with `probe` in its pages."""
        assert self._browser is not None
        context = await self._browser.new_context(**options)
        context.set_default_timeout(DEFAULT_TIMEOUT)
        await context.add_init_script(PROBE)
        return context

    async def page(self, url: str, *, name: str = "page", **options: Any) -> Page:
        """Open a page; `name` marks its errors, `options` are those of a playwright context."""
        page = await (await self.context(**options)).new_page()
        page.on("console", lambda message: self._console(name, message))
        page.on("pageerror", lambda error: self._error(f"{name}: uncaught {error}"))
        await page.goto(url)
        return page

    async def room(
        self, server_url: str, *, channel: str, name: str, media: str = "canvas", key: str | None = None, **options: Any
    ) -> Page:
        """Open the room page and join; returns when the page is in the channel."""
        wishes = {"channel": channel, "name": name, "media": media, "autojoin": "1"} | ({"key": key} if key else {})
        page = await self.page(f"{server_url}/?{urlencode(wishes)}", name=name, **options)
        await until(page, "window.room?.state === 'joined'")
        return page

    def _console(self, name: str, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            self._error(f"{name}: console {message.type}: {message.text}")

    def _error(self, text: str) -> None:
        if not any(pattern.search(text) for pattern in self._allowed):
            self.errors.append(text)


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # The name before the last parenthesis may contain anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def _descendants(pid: int) -> set[int]:
    parents = _parents() if Path("/proc").is_dir() else {}
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def _gone(pids: set[int]) -> set[int]:
    """Wait until the processes are gone; kill and return those that stay."""
    deadline = asyncio.get_running_loop().time() + EXIT_TIMEOUT
    while left := {pid for pid in pids if _alive(pid)}:
        if asyncio.get_running_loop().time() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return left
        await asyncio.sleep(0.02)
    return set()
