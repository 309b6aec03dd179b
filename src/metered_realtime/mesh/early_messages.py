"""Keeps what arrives on an inbound data channel before anybody listens.

aiortc emits a message once, to whoever listens at that moment. A channel that the remote opened is open, and may have
messages, before the program has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..log import Logger

MAX_HELD_MESSAGES = 65_536
MAX_HELD_BYTES = 16 * 1024 * 1024
"""What one channel may pile up unheard. Beyond that it is closed: losing messages silently would be worse."""


class EarlyMessages:
    """Holds the messages of one channel until the first listener for them has been registered."""

    def __init__(self, channel: Any, logger: Logger) -> None:
        self._channel = channel
        self._logger = logger
        self._held: list[str | bytes] = []
        self._bytes = 0
        self._released = False
        for event, listener in self._listeners():
            channel.on(event, listener)

    def _listeners(self) -> tuple[tuple[str, Callable[..., Any]], ...]:
        return ("message", self._hold), ("new_listener", self._on_new_listener), ("close", self._on_close)

    def _hold(self, message: str | bytes) -> None:
        if self._released:
            self._release()  # the new listener is handed this message right after
            return
        self._held.append(message)
        self._bytes += len(message)
        if self._bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_MESSAGES:
            self._logger.warning(
                "data channel closed: nobody listens", {"label": self._channel.label, "messages": len(self._held)}
            )
            self._held.clear()
            self._detach()
            self._channel.close()

    def _on_new_listener(self, event: str, listener: Callable[..., Any]) -> None:
        # The listener is added right after this event; what is held goes out once the program is done registering.
        if event == "message" and not self._released:
            self._released = True
            asyncio.get_running_loop().call_soon(self._release)

    def _on_close(self) -> None:
        # aiortc drops every listener right after this event. Who comes now still gets what came before.
        if self._held and not self._released:
            asyncio.get_running_loop().call_soon(self._channel.on, "new_listener", self._on_new_listener)

    def _release(self) -> None:
        self._detach()
        held, self._held = self._held, []
        for message in held:
            self._channel.emit("message", message)

    def _detach(self) -> None:
        self._released = True
        for event, listener in self._listeners():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)
