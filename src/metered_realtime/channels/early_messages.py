"""Holds messages that arrive on an inbound data channel before it has a listener.

aiortc emits a message once, to the listeners registered at that moment. A channel opened by the remote is open, and may
receive messages, before the program has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..log import Logger
from .unread import message_size, unread_of

MAX_HELD_MESSAGES = 65_536
MAX_HELD_BYTES = 16 * 1024 * 1024
"""Bounds of the messages held for one channel. Beyond them the channel is closed, because dropping messages silently
would be worse. All channels of a remote share the bounds in `unread`."""

MAX_SHOWN = 200
"""Characters of a label in a log line: the label of a remote may have 65,535 bytes."""


class EarlyMessages:
    """Holds the messages of one channel until the first `message` listener is registered."""

    def __init__(self, channel: Any, logger: Logger) -> None:
        self._channel = channel
        self._logger = logger
        self._held: list[str | bytes] = []
        self.bytes = 0
        self._unread = unread_of(channel)
        self._unread.join(self)
        self._released = False
        for event, listener in self._listeners():
            channel.on(event, listener)

    def __len__(self) -> int:
        return len(self._held)

    def _listeners(self) -> tuple[tuple[str, Callable[..., Any]], ...]:
        return ("message", self._hold), ("new_listener", self._on_new_listener), ("close", self._on_close)

    def _hold(self, message: str | bytes) -> None:
        if self._released:
            self._release()  # the new listener receives this message right after
            return
        size = message_size(message)
        self._held.append(message)
        self.bytes += size
        fits = self._unread.note(size, 1)
        if not fits or self.bytes > MAX_HELD_BYTES or len(self._held) > MAX_HELD_MESSAGES:
            self._give_up()

    def _give_up(self) -> None:
        """Close the channel. Only the first one of a remote is logged, because it can open any number."""
        self._unread.closed += 1
        if self._unread.closed == 1:
            details = {"label": self._channel.label[:MAX_SHOWN], "messages": len(self._held), "bytes": self.bytes}
            self._logger.warning("data channel closed: too much unread", details)
        self._clear()
        self._detach()
        self._channel.close()

    def _clear(self) -> list[str | bytes]:
        self._unread.note(-self.bytes, -len(self._held))
        held, self._held, self.bytes = self._held, [], 0
        return held

    def _on_new_listener(self, event: str, listener: Callable[..., Any]) -> None:
        # The listener is added right after this event; delivery waits until the program has registered all of them.
        if event == "message" and not self._released:
            self._released = True
            asyncio.get_running_loop().call_soon(self._release)

    def _on_close(self) -> None:
        # aiortc removes every listener right after this event. A later listener still receives the held messages.
        if self._held and not self._released:
            asyncio.get_running_loop().call_soon(self._channel.on, "new_listener", self._on_new_listener)

    def _release(self) -> None:
        self._detach()
        for message in self._clear():
            self._channel.emit("message", message)

    def _detach(self) -> None:
        self._released = True
        for event, listener in self._listeners():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)
