"""Keeps what arrives on an inbound data channel before anybody listens.

aiortc emits a message once, to whoever listens at that moment. A channel that the remote opened is open, and may have
messages, before the program has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..log import Logger
from .unheard import message_size, unheard_of

MAX_HELD_MESSAGES = 65_536
MAX_HELD_BYTES = 16 * 1024 * 1024
"""What one channel may pile up unheard. Beyond that it is closed: losing messages silently would be worse. All channels
of a remote share the bounds in `unheard`."""

MAX_SHOWN = 200
"""Characters of a label in a log line: a remote may choose 65,535 bytes."""


class EarlyMessages:
    """Holds the messages of one channel until the first listener for them has been registered."""

    def __init__(self, channel: Any, logger: Logger) -> None:
        self._channel = channel
        self._logger = logger
        self._held: list[str | bytes] = []
        self.bytes = 0
        self._unheard = unheard_of(channel)
        self._unheard.join(self)
        self._released = False
        for event, listener in self._listeners():
            channel.on(event, listener)

    def __len__(self) -> int:
        return len(self._held)

    def _listeners(self) -> tuple[tuple[str, Callable[..., Any]], ...]:
        return ("message", self._hold), ("new_listener", self._on_new_listener), ("close", self._on_close)

    def _hold(self, message: str | bytes) -> None:
        if self._released:
            self._release()  # the new listener is handed this message right after
            return
        size = message_size(message)
        self._held.append(message)
        self.bytes += size
        fits = self._unheard.note(size, 1)
        if not fits or self.bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_MESSAGES:
            self._give_up()

    def _give_up(self) -> None:
        """Close the channel. Only the first one of a remote is told: it can open any number."""
        self._unheard.closed += 1
        if self._unheard.closed == 1:
            figures = {"label": self._channel.label[:MAX_SHOWN], "messages": len(self._held), "bytes": self.bytes}
            self._logger.warning("data channel closed: nobody listens", figures)
        self._take_held()
        self._detach()
        self._channel.close()

    def _take_held(self) -> list[str | bytes]:
        self._unheard.note(-self.bytes, -len(self._held))
        held, self._held, self.bytes = self._held, [], 0
        return held

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
        for message in self._take_held():
            self._channel.emit("message", message)

    def _detach(self) -> None:
        self._released = True
        for event, listener in self._listeners():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)
