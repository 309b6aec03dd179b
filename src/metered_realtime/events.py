"""The events, typed and frozen, and the close codes.

Register for a class with `on`, `once` or `events`; registering for `Event` itself receives every event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .options import IceServerConfig

if TYPE_CHECKING:
    from .channels.managed_channel import ManagedChannel
    from .media.stream import MediaStream, StreamMetadata
    from .mesh.remote_peer import RemotePeer as RemotePeer  # rooms below mesh name the type of events from here
    from .streams.reader import StreamReader


class WsCloseCode(IntEnum):
    """The WebSocket close codes that have a meaning here. 1006 has no member: no frame carries it."""

    GOING_AWAY = 1001
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    CLIENT_INACTIVITY = 4000
    INVALID_TOKEN = 4001
    TOKEN_EXPIRED = 4002
    CHANNEL_NOT_AUTHORIZED = 4003
    OVER_CONCURRENT_LIMIT = 4010
    OVER_MESSAGE_RATE = 4011
    ACCOUNT_SUSPENDED = 4012
    ADMIN_DISCONNECT = 4020


@dataclass(frozen=True, slots=True)
class PresencePeer:
    """A peer as presence names it, with the metadata of its token. `expelled` if the server made it leave for good."""

    peer_id: str
    metadata: dict[str, Any] | None = None
    expelled: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event."""


@dataclass(frozen=True, slots=True)
class StateChange(Event):
    """The state of a client, a peer or a remote changed."""

    from_: str
    to: str


# --- SignallingClient


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The server welcomed this client. `expires_at` and `server_time` are unix seconds."""

    peer_id: str
    server_time: int
    expires_at: int | None
    is_reconnect: bool
    max_message_size: int
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """A connection that had opened ended."""

    code: int
    reason: str
    will_reconnect: bool


@dataclass(frozen=True, slots=True)
class Message(Event):
    """Somebody published on a subscribed channel."""

    channel: str
    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Direct(Event):
    """Somebody sent this peer a direct message."""

    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Presence(Event):
    """Peers joined or left a subscribed channel. The first after a subscribe lists everybody in `joined`."""

    channel: str
    joined: tuple[PresencePeer, ...]
    left: tuple[PresencePeer, ...]


@dataclass(frozen=True, slots=True)
class ServerError(Event):
    """An error frame that answers no pending request."""

    code: str
    message: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class GoingAway(Event):
    """The server is about to shut down and asks to wait `retry_after_ms` milliseconds."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class TokenRefreshed(Event):
    """The connection goes on with a fresh token, until `expires_at` (unix seconds; None: not known).

    `ice_servers` are those that came with it, None if none did.
    """

    expires_at: int | None
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenProviderError(Event):
    """The token provider failed, or the server did not take its token, three times in a row or more."""

    consecutive_failures: int
    err: Exception


@dataclass(frozen=True, slots=True)
class Reconnecting(Event):
    """The connection is down; attempt number `attempt` since the last welcome starts in `delay` seconds."""

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Resubscribed(Event):
    """After a reconnect the server took a remembered subscription again."""

    channel: str


@dataclass(frozen=True, slots=True)
class SubscriptionLost(Event):
    """After a reconnect the server refused a remembered subscription, or did not answer, in every try.

    It is remembered still, and tried again after the next reconnect; `unsubscribe` forgets it.
    """

    channel: str
    err: Exception


# --- MeteredPeer


@dataclass(frozen=True, slots=True)
class Joined(Event):
    """This peer entered a channel."""

    peer_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    """This peer left for good."""

    peer_id: str | None
    channel: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PeerJoined(Event):
    """Somebody is in the channel, there already or new."""

    peer: RemotePeer


@dataclass(frozen=True, slots=True)
class PeerLeft(Event):
    """Somebody left the channel."""

    peer: RemotePeer


@dataclass(frozen=True, slots=True)
class Data(Event):
    """Somebody sent application data through the signalling server."""

    sender_peer_id: str
    data: Any
    kind: Literal["broadcast", "direct"]
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LocalTrackEnded(Event):
    """A track that this peer sends ended by itself, and is sent to nobody any more.

    `err` is what it failed of, None if it came to its end. `replace_track` puts another one in its place.
    """

    track: Any
    err: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FatalError(Event):
    """Something failed that the program has to react to.

    `code` names what, and stays the same between releases: `invalid_token`, `token_expired`, `channel_not_authorized`,
    `account_suspended`, `admin_disconnect`, `reconnect_exhausted`, `token_provider_failed`, `reconcile_timeout`,
    `subscription_lost` (after a reconnect the server did not answer a subscription), or the code of an error frame.
    """

    err: Exception
    code: str | None = None


# --- RemotePeer


@dataclass(frozen=True, slots=True)
class Track(Event):
    """The remote sends a track. Comes before the `StreamAdded` of its stream."""

    track: Any
    streams: tuple[MediaStream, ...] = ()
    metadata: StreamMetadata | None = None


@dataclass(frozen=True, slots=True)
class TrackEnded(Event):
    """The remote stopped sending a track: it ended there, or was removed.

    Comes before the `StreamRemoved` of its stream. A connection that is replaced (`ConnectionReset`) tells it only of
    what does not come back.
    """

    track: Any


@dataclass(frozen=True, slots=True)
class StreamAdded(Event):
    """The first track of a stream of the remote arrived."""

    stream: MediaStream
    metadata: StreamMetadata | None = None


@dataclass(frozen=True, slots=True)
class StreamRemoved(Event):
    """The last track of a stream of the remote ended."""

    stream: MediaStream


@dataclass(frozen=True, slots=True)
class PictureRefused(Event):
    """A picture of a `RemoteTrack` that is read has more pixels than its `max_picture_pixels`, here `limit`.

    It is dropped with the pictures that depend on it. Emitted for the first one of a track; `pictures_refused` counts.
    """

    track: Any
    width: int
    height: int
    limit: int


@dataclass(frozen=True, slots=True)
class DataChannelOpened(Event):
    """The remote opened a data channel. `channel` is aiortc's; wrap it in `DataChannel`.

    Nothing that arrives before the wrapper, or its `DCMessage` handler, exists is lost.
    """

    channel: Any


@dataclass(frozen=True, slots=True)
class ConnectionReset(Event):
    """The connection to the remote was replaced by a new one. Its data channels are gone, its media comes back."""


@dataclass(frozen=True, slots=True)
class NegotiationError(Event):
    """An offer, an answer or the recovery of a connection failed.

    With `track_ids` it names local tracks that this remote is not sent: the offer of them, or their metadata, can never
    be delivered, because it is larger than the server takes (`MeteredPeerOversizedError`, `PayloadTooLargeError`) or is
    refused (`ServerRequestError`). What flows goes on.
    """

    err: Exception
    track_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IceCandidateError(Event):
    """A candidate of the remote was refused. Usually harmless."""

    err: Exception


@dataclass(frozen=True, slots=True)
class StreamOpened(Event):
    """The remote `peer` opened a stream. `MeteredPeer` tells it as well. Without a handler at either, it is refused."""

    peer: RemotePeer
    reader: StreamReader


# --- files, told by `MeteredPeer` and by the `RemotePeer` that sends


@dataclass(frozen=True, slots=True)
class FileOffered(Event):
    """A remote wants to send a file, or to go on with one. `name` is made safe already, `size` is in bytes.

    `mtime` is when it was changed last, in unix seconds, as the remote says, or None.
    """

    peer: RemotePeer
    name: str
    size: int
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class FileReceived(Event):
    """A file arrived whole: its BLAKE2b-512 `digest` (hex) is the sender's. It is on the disk as `path`."""

    peer: RemotePeer
    path: Path
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class FileFailed(Event):
    """A file that a remote began to send did not arrive. What did is kept for the next attempt if there can be one."""

    peer: RemotePeer
    name: str
    err: Exception


# --- DataChannel


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


# --- channels that survive their connection


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
