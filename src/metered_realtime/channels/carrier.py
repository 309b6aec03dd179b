"""The data channel of aiortc that carries a managed channel during one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..aiortc_compat.message_size import max_message_size

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_BUFFERED = 1024 * 1024
"""Maximum bytes in the buffer of aiortc. The rest stays in the window, where it can still be dropped."""

LOW_FRACTION = 2
"""The buffer is refilled when it has drained to one part in this many, early enough to keep the network busy."""


class RawChannel:
    """A data channel of aiortc. `own`: this end opened it. `closed` is called when it closes while attached."""

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
        """Whether messages can be sent."""
        return bool(self._channel.readyState == "open")

    @property
    def has_room(self) -> bool:
        """Whether the buffer has room. If not, the `room` callback of `attach` reports when it has."""
        return bool(self._channel.bufferedAmount < self._max_buffered)

    @property
    def max_message_size(self) -> int:
        """Maximum message size that the other end accepts, in bytes."""
        return max_message_size(self._channel)

    def attach(
        self, *, opened: Callable[[], None], message: Callable[[str | bytes], None], room: Callable[[], None]
    ) -> None:
        """Register callbacks for opening (called at once if it is open), messages, and room in the buffer."""
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
        """Remove the callbacks."""
        listeners, self._listeners = self._listeners, {}
        for event, listener in listeners.items():
            if listener in self._channel.listeners(event):
                self._channel.remove_listener(event, listener)

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        self._channel.send(frame)

    def close(self) -> None:
        """Close the data channel after the buffered frames. Idempotent."""
        self._channel.close()
