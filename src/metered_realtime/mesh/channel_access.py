"""A remote as its channels see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..events import Event

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

    from .remote_peer import RemotePeer


class ChannelAccess:
    """Gives the channels of a remote its connection, which is made when the first of them needs one."""

    def __init__(self, remote: RemotePeer) -> None:
        self._remote = remote
        self.id = remote.id

    @property
    def polite(self) -> bool:
        """Whether this end gives way when both open a channel at once."""
        return self._remote.polite

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and it is up."""
        connection = self._remote._connection
        return connection is not None and connection.is_connected

    def emit(self, event: Event) -> None:
        """Emit an event on the remote."""
        self._remote.emit(event)

    def create_data_channel(self, label: str, **kwargs: Any) -> RTCDataChannel:
        """Open a data channel, like `RemotePeer.create_data_channel`."""
        return self._remote.create_data_channel(label, **kwargs)

    def when_free(self, action: Callable[[], None]) -> None:
        """Call an action that needs a connection, now or when a connection may be made."""
        self._remote._when_free(action)
