"""Events of data channels, of channels that survive their connection, and of byte streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Event

# The one exception from the direction of imports: an event carries the object of a higher layer that emits it, and type
# checkers need its class to give handlers a precise type. At run time nothing of those layers is imported.
if TYPE_CHECKING:
    from ..channels.managed_channel import ManagedChannel
    from ..mesh.remote_peer import RemotePeer
    from ..streams.reader import StreamReader


@dataclass(frozen=True, slots=True)
class DataChannelOpened(Event):
    """The remote opened a data channel. `channel` is aiortc's; wrap it in `DataChannel`.

    Nothing that arrives before the wrapper, or its `DCMessage` handler, exists is lost.
    """

    channel: Any


@dataclass(frozen=True, slots=True)
class DCOpen(Event):
    """The channel opened."""


@dataclass(frozen=True, slots=True)
class DCClose(Event):
    """The channel closed underneath."""


@dataclass(frozen=True, slots=True)
class DCError(Event):
    """The channel failed."""

    err: Exception


@dataclass(frozen=True, slots=True)
class DCMessage(Event):
    """A message arrived, text as str and binary as bytes."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class ChannelOpened(Event):
    """The remote opened a channel that survives its connection, and this end has not opened it.

    Nothing that arrives before a `DCMessage` handler exists, or the iteration begins, is lost.
    """

    channel: ManagedChannel


@dataclass(frozen=True, slots=True)
class ChannelResumed(Event):
    """A channel goes on, on another connection.

    `resent` messages go out again: whether they had arrived is not known, and who had them does not get them again.
    `dropped` ones were given up: those of a channel that is not reliable, or too large for the other end. `restarted`:
    it is another program than before, which gets what the first one had not acknowledged.
    """

    resent: int
    dropped: int
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class ChannelMessage(Event):
    """A message of a remote arrived on a channel to everybody."""

    remote: RemotePeer
    data: str | bytes


@dataclass(frozen=True, slots=True)
class ChannelError(Event):
    """A channel to everybody failed towards one remote. `ReplayOverflowError`: it did not keep up, and goes on."""

    remote: RemotePeer
    err: Exception


@dataclass(frozen=True, slots=True)
class StreamOpened(Event):
    """The remote `peer` opened a stream. `MeteredPeer` tells it as well. Without a handler at either, it is refused."""

    peer: RemotePeer
    reader: StreamReader
