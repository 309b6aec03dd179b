"""An X screen that shows nothing but its background: what programs and browsers capture."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_display = pytest.mark.skipif(
    shutil.which("Xvfb") is None and "CI" not in os.environ, reason="Xvfb is needed: apt-get install xvfb"
)
"""Skips where there is no Xvfb, except in CI: there the test runs, and fails."""

EXIT_TIMEOUT = 10.0
"""Seconds in which the X server ends."""


@contextmanager
def white_screen() -> Iterator[str]:
    """Run an X server whose screen is 320 x 240 and white, and return its name."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "320x240x24", "-wr", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        try:
            os.close(writing)
            with os.fdopen(reading) as pipe:
                number = pipe.readline().strip()
            assert number, "Xvfb did not start"
            yield f":{number}"
        finally:
            server.terminate()
            server.wait(EXIT_TIMEOUT)
