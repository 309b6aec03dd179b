"""Firefox as Debian and Mozilla ship it, over WebDriver BiDi."""

from __future__ import annotations

import os
import shutil
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from playwright.async_api import Browser as Launched
from playwright.async_api import Playwright

from tests.support.browsers.browser import Browser

PREFERENCES: dict[str, str | float | bool] = {
    # A fake camera and a fake microphone, without a question to the user.
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    # Host candidates with addresses in place of .local names, as with Chromium's switch.
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    # No downloads, not of plugins either, and nothing that Firefox sends home.
    "media.gmp-manager.updateEnabled": False,
    "media.gmp-provider.enabled": False,
    "app.normandy.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.server": "",
    "network.connectivity-service.enabled": False,
    # Pages of tests are of one site: one process for them, and none in reserve, saves memory and start time.
    "dom.ipc.processCount": 1,
    "dom.ipc.processPrelaunch.enabled": False,
}


class Firefox(Browser):
    """Firefox with a fake camera and a fake microphone.

    `preferences` are set over `PREFERENCES`. `display` names the X screen that pages may capture: one without windows.
    """

    NAME = "firefox"
    MISSING = "Firefox is needed: apt-get install firefox-esr, or set FIREFOX to its path"

    def __init__(self, *arguments: str, preferences: dict[str, Any] | None = None, display: str | None = None) -> None:
        super().__init__(*arguments)
        self._display = display
        self._home: TemporaryDirectory[str] | None = None  # has the caches that Firefox keeps beside its profile
        self._preferences = PREFERENCES | (preferences or {})

    @staticmethod
    def executable() -> str | None:
        return os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")

    async def _launch(self, playwright: Playwright) -> Launched:
        self._home = TemporaryDirectory(prefix="firefox-home-")
        environment = {**os.environ, "HOME": self._home.name, "XDG_CACHE_HOME": self._home.name}
        # playwright's own protocol needs a patched build. The channels "moz-" speak BiDi, with any Firefox.
        return await playwright.firefox.launch(
            channel="moz-firefox",
            executable_path=self.executable(),
            args=list(self._arguments),
            firefox_user_prefs=self._preferences,
            env=environment | ({"DISPLAY": self._display} if self._display else {}),
            headless=True,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            assert self._home is not None
            self._home.cleanup()
