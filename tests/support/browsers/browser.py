"""A real browser for tests: pages that fail the test on unexpected errors, and no processes left behind."""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlencode

from playwright.async_api import Browser as Launched
from playwright.async_api import BrowserContext, ConsoleMessage, Page, Playwright, async_playwright, expect

from tests.support.browsers.processes import children, descendants, gone
from tests.support.patience import PATIENCE

_FUNCTION = re.compile(r"(async\s*)?\([^()]*\)\s*=>")

VIEWPORT = {"width": 800, "height": 600}
"""The size of pages, in pixels: half of what playwright has, since painting costs most."""

DEFAULT_TIMEOUT = PATIENCE * 1000
"""Milliseconds that a page's wait takes at most."""

expect.set_options(timeout=DEFAULT_TIMEOUT)

LOST_SERVER = "WebSocket connection to .* failed|ERR_CONNECTION_REFUSED|can’t establish a connection|was interrupted"
"""Matches what browsers log when their server is gone."""

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
  // The page wishes for large pictures. Where it takes what it gets, small ones cost a tenth.
  const devices = navigator.mediaDevices;
  const capture = devices?.getUserMedia.bind(devices);
  const small = { width: { ideal: 160 }, height: { ideal: 120 }, frameRate: { ideal: 10, max: 10 } };
  if (capture) devices.getUserMedia = (wish) => capture(wish?.video?.width?.ideal ? { ...wish, video: small } : wish);
  // So with the picture that it draws, of 640 x 360: the drawing stays the same, at a quarter of the size.
  const captureStream = HTMLCanvasElement.prototype.captureStream;
  HTMLCanvasElement.prototype.captureStream = function (fps) {
    if (this.width !== 640 || this.height !== 360) return captureStream.call(this, fps);
    this.width /= 4;
    this.height /= 4;
    this.getContext("2d").scale(1 / 4, 1 / 4);
    return captureStream.call(this, Math.min(fps, 10));
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


class Browser(ABC):
    """A browser with a fresh profile. Every page has storage of its own.

    Leaving the context fails the test if a page logged an error or threw one, unless `allow` matches its text.
    """

    NAME: ClassVar[str]
    """Names the browser in tests' ids, and the marker of its tests."""

    MISSING: ClassVar[str]
    """What to install where the browser is missing."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._allowed: list[re.Pattern[str]] = []
        self.errors: list[str] = []
        self._playwright: Playwright | None = None
        self._browser: Launched | None = None
        self._driver: set[int] = set()

    @staticmethod
    @abstractmethod
    def executable() -> str | None:
        """The path of the browser, or None if it is not installed."""

    @abstractmethod
    async def _launch(self, playwright: Playwright) -> Launched:
        """Start the browser. Without a given profile, launch() makes a temporary one and removes it afterwards."""

    def processes(self) -> list[int]:
        """Return all processes that run for the browser at the moment."""
        return sorted(self._driver | descendants(self._driver))

    async def __aenter__(self) -> Self:
        others = children(os.getpid())
        self._playwright = await async_playwright().start()
        self._driver = children(os.getpid()) - others
        try:
            self._browser = await self._launch(self._playwright)
        except BaseException:
            await self._playwright.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started = set(self.processes())
        assert self._browser is not None
        assert self._playwright is not None
        try:
            await self._browser.close()
        finally:
            await self._playwright.stop()
            left = await gone(started)
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
        context = await self._browser.new_context(**{"viewport": VIEWPORT} | options)
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
