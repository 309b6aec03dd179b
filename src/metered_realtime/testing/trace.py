"""What happened in a virtual world, with times: kept as it is, put into words only when somebody wants to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

FAULT = "FAULT:"
"""Marks what should not have happened."""


class Trace:
    """A list of notes with the virtual time of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._time = loop.time
        self._notes: list[tuple[float, str, str, tuple[Any, ...]]] = []

    def __call__(self, who: str, what: str, *values: object) -> None:
        """Note what somebody did. `what` is a %-format for the values, which must not change any more."""
        self._notes.append((self._time(), who, what, values))

    def __len__(self) -> int:
        return len(self._notes)

    def fault(self, who: str, what: str) -> None:
        """Note what should not have happened."""
        self(who, f"{FAULT} %s", what)

    def lines(self) -> Iterator[str]:
        """Write the notes out: seconds, who, what."""
        for at, who, what, values in self._notes:
            yield f"{at:10.4f}  {who:<9} {what % values if values else what}"


class TraceLogger:
    """A logger of the product that writes into a trace. Errors are kept: there should be none."""

    def __init__(self, trace: Trace, who: str, errors: list[str]) -> None:
        self._trace = trace
        self._who = who
        self._errors = errors

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Drop the message."""

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message."""
        self._trace(self._who, "log: %s %s", msg, ctx or "")

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message."""
        self._trace(self._who, "log: %s %s", msg, ctx or "")

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        """Note the message as a fault."""
        self._trace.fault(self._who, f"error logged: {msg} {ctx or ''}")
        self._errors.append(f"{self._who} logged an error: {msg} {ctx or ''}")
