"""A real Janus with its VideoRoom on loopback: https://janus.conf.meetecho.com."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from examples.sfu_bridge.janus import PROTOCOL
from websockets.asyncio.client import connect

from tests.support.patience import PATIENCE

EXECUTABLE = shutil.which("janus")

needs_janus = pytest.mark.skipif(
    EXECUTABLE is None and "CI" not in os.environ, reason="janus is needed: apt-get install janus"
)
"""Skips the test where Janus is missing, except in CI, where it fails."""

ATTEMPTS = 5
"""Starts before giving up: between its choice and its use another program may take the port."""

PARTS = {"plugins": "libjanus_videoroom.so*", "transports": "libjanus_websockets.so*", "loggers": "-", "events": "-"}
"""The files of each kind that it loads. A folder of its own for each kind keeps all others out."""

READY = "JANUS WebSockets transport plugin initialized!"

CONFIGURATION = """
general: {{
    configs_folder = "{folder}"
    plugins_folder = "{folder}/plugins"
    transports_folder = "{folder}/transports"
    loggers_folder = "{folder}/loggers"
    events_folder = "{folder}/events"
    debug_colors = false
}}
certificates: {{ rsa_private_key = {rsa} }}
media: {{ ipv6 = false }}
nat: {{ ice_lite = {ice_lite} }}
"""

WEBSOCKETS = """
general: {{ json = "compact", ws = true, ws_ip = "127.0.0.1", ws_port = {port} }}
admin: {{ admin_ws = false }}
"""


class Janus:
    """A Janus that can be killed and started again. `log` is what it has printed so far."""

    def __init__(self, folder: Path, *, ice_lite: bool = False, rsa: bool = False) -> None:
        self.log = ""
        self.port = _free_port()
        self._folder = folder
        self._settings = {"ice_lite": str(ice_lite).lower(), "rsa": str(rsa).lower()}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, on the same port as before if there was one, and return when it answers."""
        assert EXECUTABLE is not None, "janus is needed: apt-get install janus"
        for _ in range(ATTEMPTS):
            self._configure()
            if await self._run(EXECUTABLE):
                await self._answers()
                return
            self.port = _free_port()
        raise AssertionError(f"Janus does not start:\n{self.log}")

    async def kill(self) -> None:
        """End it as a crash would. Does nothing when it does not run."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        assert self._reading is not None
        await self._reading
        self._process = None

    def _configure(self) -> None:
        for kind, pattern in PARTS.items():
            (self._folder / kind).mkdir(exist_ok=True)
            for file in _installed(kind, pattern):
                link = self._folder / kind / file.name
                if not link.is_symlink():
                    link.symlink_to(file)
        for name, text in {"janus": CONFIGURATION, "janus.transport.websockets": WEBSOCKETS}.items():
            settings = {**self._settings, "folder": self._folder, "port": self.port}
            (self._folder / f"{name}.jcfg").write_text(text.format(**settings))
        (self._folder / "janus.plugin.videoroom.jcfg").write_text("general: {}\n")

    async def _run(self, executable: str) -> bool:
        """Run it. Return whether it is ready, and not about to end."""
        self._ready.clear()
        self._process = await asyncio.create_subprocess_exec(
            executable,
            f"--configs-folder={self._folder}",
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.ensure_future(self._read(self._process))
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait([ready, self._reading], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self.kill()
            return False
        return True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace")
            self.log += text
            if READY in text:
                self._ready.set()

    async def _answers(self) -> None:
        """Ask it whether it is there."""
        async with asyncio.timeout(PATIENCE), connect(self.url, subprotocols=[PROTOCOL]) as socket:
            await socket.send(json.dumps({"janus": "ping", "transaction": "start"}))
            answer = json.loads(await socket.recv())
        assert answer["janus"] == "pong", answer


@asynccontextmanager
async def janus(folder: Path, *, ice_lite: bool = False, rsa: bool = False) -> AsyncIterator[Janus]:
    """Run a Janus with its configuration in a folder. Its rooms are made by those who use it."""
    running = Janus(folder, ice_lite=ice_lite, rsa=rsa)
    try:
        await running.start()
        yield running
    finally:
        await running.kill()


def _installed(kind: str, pattern: str) -> Iterator[Path]:
    """Return the files of Janus' package, /usr/lib/x86_64-linux-gnu/janus/plugins for instance."""
    for folder in ("/usr/lib/*/janus", "/usr/lib/janus", "/usr/local/lib/janus", "/opt/janus/lib/janus"):
        yield from map(Path, glob.glob(f"{folder}/{kind}/{pattern}"))


def _free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
