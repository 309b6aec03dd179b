"""A rate-limited log for lines that clients cause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

from ..log import Logger
from .limits import TokenBucket

LINES_PER_SECOND, LINE_BURST = 20.0, 1_000
"""The rate limit of each level. A line has 0.2 KB, which bounds a flood to 15 MB an hour. The burst is large enough to
log all clients that reconnect after a restart."""

MAX_TEXT = 200
"""Maximum length of client-controlled text, in characters."""


class ClientLog:
    """Forwards lines to a logger at a limited rate. The next line after omitted ones reports their number."""

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
        if not bucket.take_tokens(now):
            self._left_out[level] = self._left_out.get(level, 0) + 1
            return
        if left_out := self._left_out.pop(level, 0):
            log("lines were left out", {"count": left_out})
        log(msg, ctx)


class HttpLog(logging.Logger):
    """Forwards aiohttp's log of requests, without their content.

    aiohttp logs requests that it cannot parse with a traceback, credentials in the query included.
    """

    def __init__(self, log: Logger) -> None:
        super().__init__("metered_realtime.http", logging.WARNING)
        self._log_of_clients = log

    def handle(self, record: logging.LogRecord) -> None:
        """Forward a record without the data that the client sent."""
        error, what = record.exc_info[1] if record.exc_info else None, shortened(record.getMessage())
        if isinstance(error, HttpProcessingError):
            self._log_of_clients.warning("request not understood", {"what": what, "error": type(error).__name__})
        else:
            detail = shortened(f"{type(error).__name__}: {error}")
            self._log_of_clients.error("request failed", {"what": what, "error": detail})


def shortened(text: str) -> str:
    """Return client-controlled text, cut to the length that a log line may hold."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
