"""The log of a command on stderr: lines for people, or an object of JSON a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from ..log import CONTEXT


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """Formats a record as an object: `time` (RFC 3339), `level`, `logger`, `message`, and the fields of its context.

    A field of the context never replaces one of these four. Values that JSON lacks become text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        message, context = getattr(record, CONTEXT, None) or (record.getMessage(), {})
        line = {
            **context,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def log_to_stderr(level: int, log_format: LogFormat = LogFormat.TEXT) -> None:
    """Log what is at this level or above."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = log_format is LogFormat.JSON
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)
