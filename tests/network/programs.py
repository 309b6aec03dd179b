"""Programs in network namespaces, which tell what happens to them in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]

SHOWN_LINES = 60
"""Lines of each kind that a failure shows."""

Line = dict[str, Any]


class Program:
    """A process and what it told, from its start on.

    Both of its standard streams are one socket, whose end is the end of the process: asyncio's own subprocesses would
    have a thread each to wait for it.
    """

    def __init__(self, name: str, namespace: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.lines: list[Line] = []
        self._log = log
        self._grew = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        inside = ("ip", "netns", "exec", namespace, *command)
        with theirs, log.open("ab") as errors:
            both = theirs.fileno()
            self._process = subprocess.Popen(inside, stdin=both, stdout=both, stderr=errors, cwd=ROOT)
        self._reading = asyncio.ensure_future(self._read())

    def of(self, event: str, *, after: float = 0.0, **fields: Any) -> list[Line]:
        """Return what it told of an event with these values since a time."""
        wanted = {"event": event, **fields}
        return [it for it in self.lines if it["at"] >= after and wanted.items() <= it.items()]

    async def until(
        self, event: str, *, count: int = 1, after: float = 0.0, within: float = PATIENCE, **fields: Any
    ) -> Line:
        """Return line number `count` that tells of an event with these values since a time, past or to come."""
        try:
            async with asyncio.timeout(within):
                while len(found := self.of(event, after=after, **fields)) < count:
                    self._grew.clear()
                    await self._grew.wait()
        except TimeoutError:
            wanted = f"{event} {fields}, {count} times, within {within:g} s"
            raise AssertionError(f"{self.name} did not tell of {wanted}") from None
        return found[count - 1]

    async def tell(self, **command: Any) -> None:
        """Send it a command."""
        line = json.dumps(command).encode() + b"\n"
        await asyncio.get_running_loop().sock_sendall(self._socket, line)

    def suspend(self) -> None:
        """Stop it in its tracks until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill it as `kill -9` does, and wait for its end. Idempotent."""
        self._process.kill()
        self._process.wait()
        await self._reading

    def story(self) -> str:
        """Tell what it told, but for frames and messages, and what it logged."""
        told = [json.dumps(it) for it in self.lines if it["event"] not in ("frame", "message")]
        logged = self._log.read_text(errors="replace").splitlines()
        heading = f"--- {self.name} told, until {time.monotonic():.1f}:"
        return "\n".join([heading, *told[-SHOWN_LINES:], f"--- {self.name} logged:", *logged[-SHOWN_LINES:]])

    async def _read(self) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        with self._socket:
            while data := await self._receive(loop):
                *lines, rest = (rest + data).split(b"\n")
                at = time.monotonic()
                self.lines += [{"event": "said", "at": at, **json.loads(line)} for line in lines]
                self._grew.set()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._socket, 65_536)
        except ConnectionError:  # it was killed with commands unread
            return b""
