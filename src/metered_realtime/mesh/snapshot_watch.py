"""Asks for the snapshot of a channel that does not come after a reconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..core.session.subscriptions import PASSING_CODES
from ..errors import MeteredRealtimeError, NotConnectedError, ServerRequestError
from ..log import Logger

RECONCILE_TIMEOUT = 10.0
"""Seconds after a reconnect within which the snapshot has to come, before it is asked for again."""

RECONCILE_RETRIES = 2


class SnapshotWatch:
    """Subscribes again when no snapshot comes, `RECONCILE_RETRIES` times, and then gives up.

    Refusals of a server that cannot serve the channel at the moment do not count: it says what is wrong.
    """

    def __init__(self, subscribe: Callable[[], Awaitable[None]], give_up: Callable[[], None], logger: Logger) -> None:
        self._subscribe = subscribe
        self._give_up = give_up
        self._logger = logger
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to wait for the snapshot."""
        self.stop()
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """Stop waiting for the snapshot."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    async def _run(self) -> None:
        retries = 0
        while retries < RECONCILE_RETRIES:
            await asyncio.sleep(RECONCILE_TIMEOUT)
            retries += 1
            try:
                await self._subscribe()
            except NotConnectedError:
                return  # the next welcome starts again
            except MeteredRealtimeError as error:
                self._logger.warning("subscribing again failed", {"error": str(error)})
                if isinstance(error, ServerRequestError) and error.code in PASSING_CODES:
                    retries -= 1
        await asyncio.sleep(RECONCILE_TIMEOUT)
        self._give_up()
