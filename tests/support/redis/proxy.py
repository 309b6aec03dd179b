"""A TCP proxy before a Redis, that can behave like a bad network."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

CHUNK = 65_536


class BadPath:
    """Forwards connections to a Unix socket.

    `swallow`: nothing comes through any more, and nothing is closed, until `forward`. `cut`: connections are closed and
    refused, until `mend`.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self._doomed: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}"

    def swallow(self) -> None:
        """Let the connections there are be half open for ever. New ones work."""
        self._doomed |= self._writers

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self._is_cut = True
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        """Let new connections through."""
        self._is_cut = False

    async def __aenter__(self) -> BadPath:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        redis_reader, redis_writer = await asyncio.open_unix_connection(str(self._target))
        self._writers |= {writer, redis_writer}
        for source, sink in ((reader, redis_writer), (redis_reader, writer)):
            task = asyncio.ensure_future(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                if sink not in self._doomed:
                    sink.write(data)
                    await sink.drain()
        if sink not in self._doomed:
            sink.close()
