"""After a reconnect the server has to say who is in the channel; who waits for it in vain asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import MeteredRealtimeError, NotConnectedError
from ..log import Logger

RECONCILE_TIMEOUT = 10.0
"""Seconds after a reconnect within which the server has to say who is there, before it is asked again."""

RECONCILE_RETRIES = 2


class SnapshotWatch:
    """Subscribes again when no snapshot comes, a few times, and then gives up."""

    def __init__(self, subscribe: Callable[[], Awaitable[None]], give_up: Callable[[], None], logger: Logger) -> None:
        self._subscribe = subscribe
        self._give_up = give_up
        self._logger = logger
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self.stop()
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """The snapshot came, or nobody waits for it any more."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    async def _run(self) -> None:
        for _ in range(RECONCILE_RETRIES):
            await asyncio.sleep(RECONCILE_TIMEOUT)
            try:
                await self._subscribe()
            except NotConnectedError:
                return  # the next welcome starts anew
            except MeteredRealtimeError as error:
                self._logger.warning("subscribing again failed", {"error": str(error)})
        await asyncio.sleep(RECONCILE_TIMEOUT)
        self._give_up()
