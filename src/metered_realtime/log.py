"""What the package logs to: a small protocol, a logger that is silent, and one over the standard library."""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Logger(Protocol):
    """Takes a message and a flat context. Messages and contexts never hold credentials."""

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...


class NoopLogger:
    """Log nothing: the default."""

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""


class StdlibLogger:
    """Log to a standard library logger, `metered_realtime` by default, as `message key=value ...`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger if logger is not None else logging.getLogger("metered_realtime")

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, msg, ctx)

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at INFO."""
        self._log(logging.INFO, msg, ctx)

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, msg, ctx)

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, msg, ctx)

    def _log(self, level: int, msg: str, ctx: dict[str, Any] | None) -> None:
        if not self._logger.isEnabledFor(level):
            return
        pairs = "".join(f" {key}={value!r}" for key, value in (ctx or {}).items())
        # The caller's frame is two up: _log, then debug/info/warning/error.
        self._logger.log(level, "%s%s", msg, pairs, stacklevel=3)
