"""Real Redis servers for tests, each with its own process, and nothing on the disk unless it is asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.patience import PATIENCE

EXECUTABLE = shutil.which("redis-server")
SENTINEL = shutil.which("redis-sentinel")

needs_redis = pytest.mark.skipif(
    EXECUTABLE is None and "CI" not in os.environ, reason="redis-server is needed: apt-get install redis-server"
)
"""Skips the test where Redis is missing, except in CI, where it fails."""

needs_sentinel = pytest.mark.skipif(
    (EXECUTABLE is None or SENTINEL is None) and "CI" not in os.environ,
    reason="redis-sentinel is needed: apt-get install redis-sentinel",
)


class RedisProcess:
    """A Redis at a Unix socket, or at a port of loopback."""

    def __init__(self, directory: Path, *options: str, port: int = 0, executable: str | None = EXECUTABLE) -> None:
        assert executable is not None, "redis-server is needed: apt-get install redis-server"
        self.directory = directory
        self.port = port
        self.path = directory / "socket"
        self._command = [executable, *options, "--dir", str(directory), "--port", str(port)]
        if not port:
            self._command += ["--unixsocket", str(self.path)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.path}"

    def admin(self) -> Redis:
        """Return a client of its own, to look and to do harm."""
        return Redis.from_url(self.url)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self.admin() as client:
                    client.ping()
                return
            except (RedisError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError("redis-server does not start") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill the process: it has no time to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process in the middle of whatever it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RedisProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def in_memory(directory: Path, *options: str, port: int = 0) -> RedisProcess:
    """Return a Redis without storage."""
    return RedisProcess(directory, "--save", "", "--appendonly", "no", *options, port=port)


def short_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory whose name fits into the address of a Unix socket."""
    return tempfile.TemporaryDirectory(prefix="redis-")
