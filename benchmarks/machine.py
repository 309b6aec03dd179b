"""What a figure depends on: the machine and the versions that it was measured with."""

from __future__ import annotations

import os
import platform
import re
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("aiohttp", "websockets", "picows", "uvloop", "redis")


def describe_machine() -> str:
    """Return a line with the machine, its load, and the versions that matter to the server."""
    found = [f"{name} {number}" for name in PACKAGES if (number := _version(name))]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    parts = [
        f"{os.cpu_count()} CPUs ({_processor()})",
        f"{platform.system()} {platform.release()}",
        f"load {os.getloadavg()[0]:.1f}",
        f"{most:,} file descriptors",
        f"Python {platform.python_version()}",
        *found,
    ]
    return ", ".join(parts)


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
