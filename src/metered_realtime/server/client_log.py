"""A log whose lines clients cause, and cannot flood."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

from ..log import Logger
from .limits import TokenBucket

LINES_PER_SECOND, LINE_BURST = 20.0, 1_000
"""Lines of one level: an address may connect once in a second, and a line has 0.2 KB. What goes on for hours costs
15 MB an hour, and a burst of clients that come back after a restart is told in full."""

MAX_TEXT = 200
"""Characters of a text that a client chose."""


class ClientLog:
    """Passes lines on to a logger, so many in a second. How many were left out is told with the next one."""

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._left_out: dict[str, int] = {}

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at DEBUG."""
        self._pass("debug", self._logger.debug, msg, ctx)

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at INFO."""
        self._pass("info", self._logger.info, msg, ctx)

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at WARNING."""
        self._pass("warning", self._logger.warning, msg, ctx)

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at ERROR."""
        self._pass("error", self._logger.error, msg, ctx)

    def _pass(self, level: str, log: Callable[..., None], msg: str, ctx: dict[str, Any] | None) -> None:
        now = self._clock()
        bucket = self._buckets.setdefault(level, TokenBucket(LINES_PER_SECOND, LINE_BURST, now))
        if not bucket.take(now):
            self._left_out[level] = self._left_out.get(level, 0) + 1
            return
        if left_out := self._left_out.pop(level, 0):
            log("lines were left out", {"count": left_out})
        log(msg, ctx)


class HttpLog(logging.Logger):
    """What aiohttp logs of requests, in a log for clients.

    It shows requests that it cannot read, credentials in the query included, with a traceback for each.
    """

    def __init__(self, log: Logger) -> None:
        super().__init__("metered_realtime.http", logging.WARNING)
        self._log_of_clients = log

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record on, without what the client sent."""
        error, what = record.exc_info[1] if record.exc_info else None, shortened(record.getMessage())
        if isinstance(error, HttpProcessingError):
            self._log_of_clients.warning("request not understood", {"what": what, "error": type(error).__name__})
        else:
            detail = shortened(f"{type(error).__name__}: {error}")
            self._log_of_clients.error("request failed", {"what": what, "error": detail})


def shortened(text: str) -> str:
    """Return a text that a client chose, as a log may hold it."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
