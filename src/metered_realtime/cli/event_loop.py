"""The event loop that the server runs on: asyncio's own, or uvloop's, which is compiled."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

import typer


class EventLoop(StrEnum):
    """The choices of `serve --loop`."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


def run(main: Coroutine[Any, Any, None], choice: EventLoop) -> None:
    """Run a coroutine on an event loop. `auto` is uvloop if it is installed.

    Raises:
        typer.BadParameter: uvloop is chosen and not installed.
    """
    try:
        factory = _factory_of(choice)
    except typer.BadParameter:
        main.close()
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _factory_of(choice: EventLoop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if choice is EventLoop.ASYNCIO:
        return None
    try:
        uvloop = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        if choice is EventLoop.UVLOOP:
            raise typer.BadParameter("uvloop is not installed: pip install 'metered-realtime-mesh[fast]'") from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
