"""A thread for each recorded file: a disk that hangs or is full affects that file, but no call and no other file."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

T = TypeVar("T", contravariant=True)
U = TypeVar("U")

MAX_WAITING = 1_000
"""Items that wait for the disk: 12 s of sound and pictures. More are dropped, to bound memory."""

MAX_FRAMES = 120
"""Items that wait before decoded frames are dropped: a picture at 720p takes 1.4 MB."""


class Writer(Protocol[T]):
    """Writes items to a file. Called in the thread of a `FileThread`."""

    def write(self, item: T, /) -> None:
        """Write an item."""

    def close(self) -> None:
        """Finish the file."""


class FileThread(Generic[U]):
    """Passes items to a writer in a thread. `failed` is called on the event loop with the writer's first error."""

    def __init__(self, writer: Writer[U], failed: Callable[[Exception], None]) -> None:
        self.dropped = 0
        self._writer = writer
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[U | None] = queue.SimpleQueue()
        self._has_failed = False
        self._finished = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metered-realtime-recorder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait for the disk."""
        return self._inbox.qsize()

    def put(self, item: U, limit: int = MAX_WAITING) -> bool:
        """Queue an item. Returns False if it was dropped because `limit` are waiting or the file has failed."""
        if self._has_failed or self._inbox.qsize() >= limit:
            self.dropped += 1
            return False
        self._inbox.put(item)
        return True

    def finish(self) -> None:
        """Finish the file after the queued items, even if the event loop ends now."""
        self._inbox.put(None)

    async def wait_finished(self) -> None:
        """Wait until the file is finished, after `finish`."""
        await self._finished.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (item := self._inbox.get()) is not None:
                if not self._has_failed:
                    self._attempt(partial(self._writer.write, item))
            self._attempt(self._writer.close)
        finally:
            self._on_loop(self._finished.set)

    def _attempt(self, step: Callable[[], None]) -> None:
        """Run a step, and report the first error. After an error only `close` is tried."""
        try:
            step()
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                self._on_loop(partial(self._failed, error))

    def _on_loop(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            self._loop.call_soon_threadsafe(call)
