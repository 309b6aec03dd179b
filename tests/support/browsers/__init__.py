"""Real browsers for tests, all with the same pages and helpers."""

from __future__ import annotations

import os

import pytest

from tests.support.browsers.browser import LOST_SERVER, Browser, until
from tests.support.browsers.chromium import Chromium
from tests.support.browsers.firefox import Firefox

__all__ = [
    "BROWSERS",
    "LOST_SERVER",
    "Browser",
    "Chromium",
    "Firefox",
    "needs",
    "needs_chromium",
    "needs_firefox",
    "until",
]

BROWSERS: dict[str, type[Browser]] = {kind.NAME: kind for kind in (Chromium, Firefox)}


def needs(kind: type[Browser]) -> pytest.MarkDecorator:
    """Skip where there is no such browser, except in CI: there the test runs, and fails."""
    return pytest.mark.skipif(kind.executable() is None and "CI" not in os.environ, reason=kind.MISSING)


needs_chromium = needs(Chromium)
needs_firefox = needs(Firefox)
