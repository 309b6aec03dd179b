"""Log lines of commands as objects of JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from metered_realtime import StdlibLogger
from metered_realtime.cli.logs import JsonFormatter
from metered_realtime.log import log_exception


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("metered_realtime")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_message_and_its_context_apart(stream: io.StringIO) -> None:
    context = {"code": 4001, "why": 'a "quoted"\nline', "peer": object, "level": "x"}
    StdlibLogger().warning("connection refused", context)
    (line,) = lines(stream)
    assert (line["message"], line["level"], line["code"]) == ("connection refused", "warning", 4001)
    assert (line["why"], line["peer"]) == ('a "quoted"\nline', str(object))
    assert line["time"].endswith("+00:00")


def test_an_exception_is_one_line_with_its_traceback(stream: io.StringIO) -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        log_exception(StdlibLogger(), "handler failed", error)
    (line,) = lines(stream)
    assert line["error"] == "ValueError: no"
    assert "test_logs.py" in line["traceback"]


def test_lines_of_others_are_objects_too(stream: io.StringIO) -> None:
    logging.getLogger("metered_realtime.x").warning("%d of %s", 3, "four")
    assert lines(stream)[0]["message"] == "3 of four"
