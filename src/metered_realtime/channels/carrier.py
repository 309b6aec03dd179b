"""One of aiortc's data channels, as what a channel that survives is carried by for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..aiortc_compat.message_size import max_message_size

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_BUFFERED = 1024 * 1024
"""Bytes handed to aiortc and not sent. More would only age there: the window keeps the rest."""

LOW_FRACTION = 2
"""More is handed over when what waits has come down to this part of that, early enough that the network is never
idle."""


class RawChannel:
    """A data channel from its opening to its end. `own`: this end opened it."""

    def __init__(
        self,
        channel: RTCDataChannel,
        *,
        own: bool,
        closed: Callable[[RawChannel], None],
        max_buffered: int = MAX_BUFFERED,
    ) -> None:
        self.own = own
        self._max_buffered = max_buffered
        self._channel: Any = channel
        self._closed = closed
        self._listeners: dict[str, Callable[..., Any]] = {}

    @property
    def is_open(self) -> bool:
        """Tell whether it takes messages."""
        return bool(self._channel.readyState == "open")

    @property
    def has_room(self) -> bool:
        """Tell whether more is to be handed over now. If not, it tells when."""
        return bool(self._channel.bufferedAmount < self._max_buffered)

    @property
    def max_message_size(self) -> int:
        """The bytes of a message that the other end takes."""
        return max_message_size(self._channel)

    def attach(
        self, *, opened: Callable[[], None], message: Callable[[str | bytes], None], room: Callable[[], None]
    ) -> None:
        """Tell what happens: the opening, also if it has been, messages, and when there is room again."""
        self._channel.bufferedAmountLowThreshold = self._max_buffered // LOW_FRACTION
        self._listeners = {
            "open": opened,
            "message": message,
            "bufferedamountlow": room,
            "close": lambda: self._closed(self),
        }
        for event, listener in self._listeners.items():
            self._channel.on(event, listener)
        if self.is_open:
            opened()

    def detach(self) -> None:
        """Tell nothing any more."""
        listeners, self._listeners = self._listeners, {}
        for event, listener in listeners.items():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)

    def send(self, frame: bytes) -> None:
        """Hand over a frame."""
        self._channel.send(frame)

    def close(self) -> None:
        """Close it, after what was handed over. Idempotent."""
        self._channel.close()
