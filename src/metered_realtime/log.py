"""Logging: a small protocol, a silent logger, and one that logs to the standard library.

Exceptions in the program's own code (in a handler, in the `recv` of a track) are logged by `log_exception` with their
traceback, and are not silent by default.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

Level: TypeAlias = Literal["warning", "error"]

CONTEXT = "metered_realtime_context"
"""The attribute of a record of `StdlibLogger` with the message and its context, for formatters of structured logs."""


@runtime_checkable
class Logger(Protocol):
    """A logger of messages with a flat context. Neither ever contains credentials."""

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...


class ExceptionLogger:
    """Base of loggers that accept an exception object. Other loggers get the traceback as text."""

    def log_exception(self, level: Level, msg: str, error: BaseException, ctx: dict[str, Any]) -> None:
        """Log a message with the traceback of an exception."""
        raise NotImplementedError


class NoopLogger:
    """Log nothing. The default.

    Exceptions in the program's own code that no caller can catch (in handlers, tracks, providers) still go to the
    standard library's logger `metered_realtime`, with their traceback: without any configuration, to stderr.
    """

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""


class StdlibLogger(ExceptionLogger):
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

    def log_exception(self, level: Level, msg: str, error: BaseException, ctx: dict[str, Any]) -> None:
        """Log with the exception as `exc_info`."""
        self._log(logging.WARNING if level == "warning" else logging.ERROR, msg, ctx, error)

    def _log(self, level: int, msg: str, ctx: dict[str, Any] | None, error: BaseException | None = None) -> None:
        if not self._logger.isEnabledFor(level):
            return
        pairs = "".join(f" {key}={value!r}" for key, value in (ctx or {}).items())
        # The caller's frame is two up: _log, then debug/info/warning/error.
        context = {CONTEXT: (msg, ctx or {})}
        self._logger.log(level, "%s%s", msg, pairs, exc_info=error, stacklevel=3, extra=context)


def log_exception(
    logger: Logger, msg: str, error: BaseException, ctx: dict[str, Any] | None = None, *, level: Level = "error"
) -> None:
    """Log an exception of the program's own code with its traceback.

    A `Logger` gets the class and the text of the exception as `error`, and the traceback as `traceback`.
    """
    context = {**(ctx or {}), "error": "".join(traceback.format_exception_only(error)).strip()}
    logger = StdlibLogger() if type(logger) is NoopLogger else logger
    if isinstance(logger, ExceptionLogger):
        logger.log_exception(level, msg, error, context)
    else:
        text = "".join(traceback.format_exception(error)).rstrip()
        getattr(logger, level)(msg, {**context, "traceback": text})
