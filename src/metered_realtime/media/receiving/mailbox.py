"""A bounded queue from one writer to readers on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiortc.mediastreams import MediaStreamError

T = TypeVar("T")


@dataclass(slots=True)
class Tally:
    """A counter that also counts in `whole`, the counter of all."""

    whole: Tally | None = None
    count: int = 0

    def add(self, count: int = 1) -> None:
        """Add to the count."""
        self.count += count
        if self.whole is not None:
            self.whole.add(count)


class Mailbox(Generic[T]):
    """A queue of the newest `limit` items. Concurrent readers share the items, each item going to one of them.

    With `newest`, a reader that was too slow gets the newest item next, and the others are dropped. `drops` counts the
    items that no reader got.
    """

    def __init__(self, limit: int, drops: Tally, *, newest: bool = False) -> None:
        self._drops = drops
        self._limit = limit
        self._newest = newest
        self._late = False
        self._ended = False
        self._items: deque[T] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether another item drops the oldest one."""
        return len(self._items) >= self._limit

    @property
    def is_awaited(self) -> bool:
        """Whether a reader waits in `get`, or has been woken but has not run yet."""
        return self._waiting > 0

    def put(self, item: T, limit: int | None = None) -> None:
        """Add an item. Drops the oldest ones beyond the limit of the mailbox, or `limit` if that is smaller."""
        if self._ended:
            return
        limit = min(self._limit, limit or self._limit)
        while len(self._items) >= limit:
            self._items.popleft()
            self._drops.add()
            self._late = self._newest
        self._items.append(item)
        self._wake_one()

    async def get(self) -> T:
        """Return the next item. Cancellation loses no item.

        Raises:
            MediaStreamError: the mailbox has ended and is empty.
        """
        while not self._items:
            if self._ended:
                raise MediaStreamError
            await self._wait()
        if self._late:
            self._late = False
            self._drops.add(len(self._items) - 1)
            while len(self._items) > 1:
                self._items.popleft()
        return self._items.popleft()

    def clear(self) -> None:
        """Drop all items."""
        self._drops.add(len(self._items))
        self._items.clear()

    def end(self) -> None:
        """Stop accepting items. Readers get those that are left, then `MediaStreamError`."""
        self._ended = True
        while self._readers:
            self._wake_one()

    async def _wait(self) -> None:
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        self._waiting += 1
        try:
            await reader
        except asyncio.CancelledError:
            if reader.done() and not reader.cancelled():
                self._wake_one()
            raise
        finally:
            self._waiting -= 1
            if reader in self._readers:
                self._readers.remove(reader)

    def _wake_one(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                return
