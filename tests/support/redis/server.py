"""Real Redis servers for tests, each with its own process, and nothing on the disk unless it is asked for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def __init__(
        self,
        directory: Path,
        *options: str,
        port: int = 0,
        executable: str | None = EXECUTABLE,
        configuration: Path | None = None,
    ) -> None:
        assert executable is not None, "redis-server is needed: apt-get install redis-server"
        self.directory = directory
        self.port = port
        self.path = directory / "socket"
        head = [executable] if configuration is None else [executable, str(configuration)]
        self._command = [*head, *options, "--dir", str(directory), "--port", str(port)]
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


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def watched_by_sentinel(directory: Path) -> Iterator[tuple[RedisProcess, str]]:
    """Run a primary, a replica and a Sentinel. Yield the primary, and the URL that follows whichever is one."""
    ports = [free_port() for _ in range(3)]
    folders = [directory / name for name in ("one", "two", "watch")]
    for folder in folders:
        folder.mkdir()
    configuration = folders[2] / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor pair 127.0.0.1 {ports[0]} 1\n"
        "sentinel down-after-milliseconds pair 300\nsentinel failover-timeout pair 3000\n"
    )
    primary = in_memory(folders[0], port=ports[0])
    replica = in_memory(
        folders[1], "--replicaof", "127.0.0.1", str(ports[0]), "--repl-diskless-sync-delay", "0", port=ports[1]
    )
    sentinel = RedisProcess(folders[2], port=ports[2], executable=SENTINEL, configuration=configuration)
    with primary, replica:
        with primary.admin() as admin:
            _wait_until(lambda: "online" in str(admin.info("replication").get("slave0")))
        with sentinel, sentinel.admin() as admin:
            _wait_until(lambda: admin.execute_command("SENTINEL REPLICAS", "pair"))
            yield primary, f"redis+sentinel://127.0.0.1:{ports[2]}/pair"


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_memory(directory: Path, *options: str, port: int = 0) -> RedisProcess:
    """Return a Redis without storage."""
    return RedisProcess(directory, "--save", "", "--appendonly", "no", *options, port=port)


def short_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory whose name fits into the address of a Unix socket."""
    return tempfile.TemporaryDirectory(prefix="redis-")
