"""Real processes: a Redis, nodes of the server on it, and what stands in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from metered_realtime.server.keys import new_publishable_key, new_secret_pair
from tests.support.patience import PATIENCE

CONFIG = """
[server]
port = {port}

[cluster]
redis = ["{redis_url}"]
node_id = "n{number}"

[limits]  # all clients of a test have one address
connects_per_address = 100_000
rest_per_second = 1_000
rest_burst = 1_000

[[publishable_keys]]
key = "{api_key}"
actions = ["publish", "subscribe", "presence", "send"]

[[secret_keys]]
id = "{secret_id}"
secret = "{secret}"
"""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def accepts(port: int) -> None:
    """Wait until something listens on a port of this machine."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return


class Program:
    """A process that can be killed, stopped and started again with the same arguments."""

    def __init__(self, *command: str, port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there, stopped or not."""
        return self._process is not None and self._process.returncode is None

    @property
    def resident_bytes(self) -> int:
        """The memory of the process."""
        if self._process is None:
            return 0
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return 0

    async def start(self) -> None:
        """Start it and wait until it listens."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        listening = asyncio.ensure_future(accepts(self.port))
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait((listening, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not listening.done():
            listening.cancel()
            raise RuntimeError(f"{self._command[:4]} has ended: {self.log.read_text()[-2_000:]}")
        await listening

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process and wait for it."""
        self.send(number)
        if self._process is not None:
            await self._process.wait()


class Balancer:
    """Carries connections to one of several ports, by turns, and cuts some of them on request."""

    def __init__(self, ports: Sequence[int], seed: int = 1) -> None:
        self.port = 0
        self._ports = list(ports)
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._turn = 0

    async def start(self) -> None:
        """Start listening."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            self.cut(len(self._connections))
            await self._server.wait_closed()

    def cut(self, count: int) -> None:
        """Abort so many connections, without a goodbye to either end."""
        for writer in self._random.sample(sorted(self._connections, key=id), min(count, len(self._connections))):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            found = await self._dial()
            if found is not None:
                back, there = found
                pumps = [asyncio.ensure_future(it) for it in (_pump(reader, there), _pump(back, writer))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        finally:
            self._connections.discard(writer)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._ports:
            self._turn += 1
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._ports[self._turn % len(self._ports)])
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


class Cluster:
    """A Redis with nodes on it, and a balancer in front of them. `url` is what clients connect to."""

    def __init__(self, nodes: int, *, stores: bool = False) -> None:
        self.api_key = new_publishable_key()
        self.secret_id, self.secret = new_secret_pair()
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        port = free_port()
        saving = ("--appendonly", "yes", "--appendfsync", "always") if stores else ("--appendonly", "no")
        self.redis = Program(
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *saving),
            *("--dir", str(self.folder)),
            port=port,
            log=self.folder / "redis.log",
        )
        self.redis_url = f"redis://127.0.0.1:{port}"
        self.nodes = [self._node(number) for number in range(nodes)]
        self.balancer = Balancer([node.port for node in self.nodes])

    @property
    def url(self) -> str:
        """The URL of the balancer."""
        return f"ws://127.0.0.1:{self.balancer.port}"

    async def __aenter__(self) -> Self:
        try:
            await self.redis.start()
            await asyncio.gather(*(node.start() for node in self.nodes))
            await self.balancer.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def redis_command(self, *words: str) -> str:
        """Send Redis a command, and return what `redis-cli` prints."""
        process = await asyncio.create_subprocess_exec(
            *("redis-cli", "-p", str(self.redis.port), *words), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()

    def _node(self, number: int) -> Program:
        port = free_port()
        config = self.folder / f"n{number}.toml"
        config.write_text(
            CONFIG.format(
                port=port,
                number=number,
                redis_url=self.redis_url,
                api_key=self.api_key,
                secret_id=self.secret_id,
                secret=self.secret,
            )
        )
        return Program(
            *(sys.executable, "-m", "metered_realtime", "serve", "--config", str(config), "--log-format", "json"),
            port=port,
            log=self.folder / f"n{number}.log",
        )

    async def _end(self) -> None:
        await self.balancer.stop()
        for program in (*self.nodes, self.redis):
            program.send(signal.SIGCONT)
            await program.end()
        shutil.rmtree(self.folder)
