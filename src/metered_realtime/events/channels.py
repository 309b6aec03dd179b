"""Events of data channels, of channels that survive their connection, and of byte streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Event

# The one exception from the direction of imports: an event carries the object of a higher layer that emits it, and type
# checkers need its class to give handlers a precise type. At run time nothing of those layers is imported.
if TYPE_CHECKING:
    from aiortc import RTCDataChannel

    from ..channels.managed_channel import ManagedChannel
    from ..mesh.remote_peer import RemotePeer
    from ..streams.reader import StreamReader


@dataclass(frozen=True, slots=True)
class DataChannelOpened(Event):
    """The remote opened a data channel. `channel` is the `RTCDataChannel` of aiortc; wrap it in `DataChannel`.

    Messages that arrive before the wrapper has a `DCMessage` handler are kept for it.
    """

    channel: RTCDataChannel


@dataclass(frozen=True, slots=True)
class DCOpen(Event):
    """The channel opened."""


@dataclass(frozen=True, slots=True)
class DCClose(Event):
    """The channel closed."""


@dataclass(frozen=True, slots=True)
class DCError(Event):
    """The channel failed."""

    err: Exception


@dataclass(frozen=True, slots=True)
class DCMessage(Event):
    """A message arrived: text as `str`, binary as `bytes`."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class ChannelOpened(Event):
    """The remote opened a channel that survives its connection, and this end has not opened it yet.

    Messages that arrive before a `DCMessage` handler is registered or the iteration begins are kept for it.
    """

    channel: ManagedChannel


@dataclass(frozen=True, slots=True)
class ChannelResumed(Event):
    """A channel continues on another connection.

    `resent` messages were not acknowledged and are sent again; the remote discards those that it has. `dropped` ones
    were given up: the channel is not reliable, or they are too large for the remote. `restarted`: the remote is
    another run of its program, which gets the messages that the previous one had not acknowledged.
    """

    resent: int
    dropped: int
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class ChannelMessage(Event):
    """A message from a remote arrived on a channel to everybody."""

    remote: RemotePeer
    data: str | bytes


@dataclass(frozen=True, slots=True)
class ChannelError(Event):
    """A channel to everybody failed for one remote. After a `ReplayOverflowError`, a slow remote, it continues."""

    remote: RemotePeer
    err: Exception


@dataclass(frozen=True, slots=True)
class StreamOpened(Event):
    """The remote `peer` opened a stream. Emitted by `MeteredPeer` too; without a handler on either it is refused."""

    peer: RemotePeer
    reader: StreamReader
