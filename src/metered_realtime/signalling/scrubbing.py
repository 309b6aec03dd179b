"""Masks credentials in texts, exceptions and log lines before they leave the package."""

from __future__ import annotations

import re
from typing import Any

from ..errors import SignallingError
from ..log import ExceptionLogger, Level, Logger, NoopLogger, log_exception

MASK = "***"

MAX_DEPTH = 8
"""Maximum length of an exception chain. Real chains are shorter, cyclic ones have no end."""

_QUERY = re.compile(r"(?i)\b([\w-]*(?:token|key|resume)=)[^&\s#\"'<>()\[\],;]+")
_FIELD = re.compile(
    r"(?i)\b(ice-pwd|ice-ufrag|credential|resumeToken)"
    r"(\\*[\"']?\s*[:=]\s*)"
    # The value without its closing quote: in escaped quotes (JSON inside JSON), in quotes, or unquoted.
    r"(\\+\"(?:(?!\\+\").)*|\"(?:[^\"\\]|\\.)*|'(?:[^'\\]|\\.)*|[^\s\"',;\\}\])]+)"
)
_USERINFO = re.compile(r"(?<=://)[^/\s@\"']+@")
_OPENING_QUOTE = re.compile(r"\\*[\"']?")


def scrub_text(text: str) -> str:
    """Replace secrets by `***`.

    Secrets are the values of `token=`, `key=`, `resume=`, `ice-pwd`, `ice-ufrag`, `credential` and `resumeToken`, and
    the userinfo of URLs, for instance of a proxy.
    """
    return _FIELD.sub(_mask_field, _QUERY.sub(rf"\g<1>{MASK}", _USERINFO.sub(f"{MASK}@", text)))


def _mask_field(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    opening = _OPENING_QUOTE.match(value)
    return f"{name}{between}{opening[0] if opening else ''}{MASK}"


def scrub_error(error: Exception) -> Exception:
    """Return the exception with credentials masked: same class, same attributes, same traceback.

    An exception without credentials is returned unchanged. One that cannot be copied becomes a `SignallingError` that
    names its class.
    """
    scrubbed = _scrub_exception(error, 0)
    return scrubbed if isinstance(scrubbed, Exception) else error


def _scrub_exception(error: BaseException, depth: int) -> BaseException:
    if not _leaks(error, depth):
        return error
    masked = _rebuild(error)
    if depth < MAX_DEPTH:
        for link in ("__cause__", "__context__"):
            linked = getattr(error, link)
            setattr(masked, link, None if linked is None else _scrub_exception(linked, depth + 1))
    masked.__suppress_context__ = error.__suppress_context__
    return masked.with_traceback(error.__traceback__)


def _leaks(error: BaseException | None, depth: int) -> bool:
    if error is None or depth > MAX_DEPTH:
        return False
    texts = [str(error), *(it for it in (*error.args, *vars(error).values()) if isinstance(it, str))]
    if any(scrub_text(text) != text for text in texts):
        return True
    return _leaks(error.__cause__, depth + 1) or _leaks(error.__context__, depth + 1)


def _rebuild(error: BaseException) -> BaseException:
    """Copy an exception without calling its constructor, whose signature is unknown."""
    kind = type(error)
    try:
        masked = kind.__new__(kind, *(_scrub_value(it) for it in error.args))
        for name, value in vars(error).items():
            setattr(masked, name, _scrub_value(value))
        text = str(masked)
    except Exception:
        text = None
    if text is None or text != scrub_text(str(error)):
        return SignallingError(f"{kind.__name__}: {scrub_text(str(error))}")
    return masked


def _scrub_value(value: Any) -> Any:
    return scrub_text(value) if isinstance(value, str) else value


class ScrubbingLogger(ExceptionLogger):
    """Forwards log lines with credentials masked."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at DEBUG."""
        self._logger.debug(scrub_text(msg), _scrub_context(ctx))

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at INFO."""
        self._logger.info(scrub_text(msg), _scrub_context(ctx))

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at WARNING."""
        self._logger.warning(scrub_text(msg), _scrub_context(ctx))

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Log at ERROR."""
        self._logger.error(scrub_text(msg), _scrub_context(ctx))

    def log_exception(self, level: Level, msg: str, error: BaseException, ctx: dict[str, Any]) -> None:
        """Log an exception."""
        log_exception(self._logger, scrub_text(msg), _scrub_exception(error, 0), _scrub_context(ctx), level=level)


class _SilentLogger(NoopLogger, ExceptionLogger):
    """Logs exceptions only, with credentials masked."""

    def log_exception(self, level: Level, msg: str, error: BaseException, ctx: dict[str, Any]) -> None:
        ScrubbingLogger(NoopLogger()).log_exception(level, msg, error, ctx)


def scrubbing(logger: Logger | None) -> Logger:
    """Return a logger that forwards to `logger`, or to the default one, with credentials masked."""
    return _SilentLogger() if logger is None else ScrubbingLogger(logger)


def _scrub_context(ctx: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if ctx is None else {key: _scrub_value(value) for key, value in ctx.items()}
