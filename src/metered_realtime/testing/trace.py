"""The trace of a virtual world: notes with their times, formatted only when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

FAULT = "FAULT:"
"""Marks notes of faults."""


class Trace:
    """A list of notes with their virtual times."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._time = loop.time
        self._notes: list[tuple[float, str, str, tuple[Any, ...]]] = []

    def __call__(self, source: str, what: str, *values: object) -> None:
        """Add a note. `what` is a %-format for the values, which must not change afterwards."""
        self._notes.append((self._time(), source, what, values))

    def __len__(self) -> int:
        return len(self._notes)

    def fault(self, source: str, what: str) -> None:
        """Add a note of a fault."""
        self(source, f"{FAULT} %s", what)

    def lines(self) -> Iterator[str]:
        """Yield the notes as text: seconds, source, what."""
        for at, source, what, values in self._notes:
            yield f"{at:10.4f}  {source:<9} {what % values if values else what}"


class TraceLogger:
    """A `Logger` that writes into a trace. Errors are also added to `errors`."""

    def __init__(self, trace: Trace, source: str, errors: list[str]) -> None:
        self._trace = trace
        self._source = source
        self._errors = errors

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message."""
        self._trace(self._source, "log: %s %s", msg, ctx or "")

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message."""
        self._trace(self._source, "log: %s %s", msg, ctx or "")

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message as a fault."""
        self._trace.fault(self._source, f"error logged: {msg} {ctx or ''}")
        self._errors.append(f"{self._source} logged an error: {msg} {ctx or ''}")
