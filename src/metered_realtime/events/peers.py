"""Events of `MeteredPeer` and `RemotePeer`: the channel they meet in, media, connections and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .base import Event

# Imported for type checkers only, from higher layers: channels.py says why.
if TYPE_CHECKING:
    from ..media.stream import MediaStream, StreamMetadata
    from ..mesh.remote_peer import RemotePeer


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
