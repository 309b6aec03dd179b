"""The processes that a test starts: which there are, and whether they are gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

EXIT_TIMEOUT = 5.0
"""Seconds that processes get to go away before they are killed."""


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").glob("*"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # The name before the last parenthesis may contain anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def children(pid: int) -> set[int]:
    """Return the processes that a process has started itself."""
    return {child for child, parent in _parents().items() if parent == pid}


def descendants(pids: set[int]) -> set[int]:
    """Return the processes that these have started, and those that these have started, and so on."""
    parents = _parents()
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | pids} - found:
        found |= new
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that these processes have used so far, in seconds. Those that are gone do not count."""
    ticks = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            # User and system time, fields 14 and 15 of proc_pid_stat(5).
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pids: set[int]) -> set[int]:
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
