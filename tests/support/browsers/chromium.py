"""Chromium, as Debian and others package it."""

from __future__ import annotations

import os
import shutil

from playwright.async_api import Browser as Launched
from playwright.async_api import Playwright

from tests.support.browsers.browser import Browser

PROGRAMS = ("chromium-headless-shell", "chromium")
"""The first one found is driven. They have the same engine; the shell has no windows, and opens pages sooner."""

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream=fps=10",
    "--use-fake-ui-for-media-stream",
    # The pop-ups of the address bar are web pages, and each new context would load them: two thirds of its CPU time.
    "--disable-features=WebRtcHideLocalIpsWithMdns,WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    "--autoplay-policy=no-user-gesture-required",
)


class Chromium(Browser):
    """Chromium with a fake camera and a fake microphone."""

    NAME = "chromium"
    MISSING = "Chromium is needed: apt-get install chromium, or set CHROMIUM to its path"

    @staticmethod
    def executable() -> str | None:
        return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)

    async def _launch(self, playwright: Playwright) -> Launched:
        return await playwright.chromium.launch(
            executable_path=self.executable(), args=[*ARGUMENTS, *self._arguments], headless=True
        )
