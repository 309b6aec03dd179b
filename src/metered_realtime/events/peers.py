"""Events of `MeteredPeer` and `RemotePeer`: the channel, media, connections and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .base import Event

# Imported for type checkers only, from higher layers: channels.py says why.
if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

    from ..media.receiving.remote_track import RemoteTrack
    from ..media.stream import MediaStream, StreamMetadata
    from ..mesh.remote_peer import RemotePeer as RemotePeer  # rooms below mesh that emit these events name it from here


@dataclass(frozen=True, slots=True)
class Joined(Event):
    """This peer entered a channel."""

    peer_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    """This peer left the channel."""

    peer_id: str | None
    channel: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PeerJoined(Event):
    """A remote is in the channel: it was there before this peer, or has joined."""

    peer: RemotePeer


@dataclass(frozen=True, slots=True)
class PeerLeft(Event):
    """A remote left the channel."""

    peer: RemotePeer


@dataclass(frozen=True, slots=True)
class NameChanged(Event):
    """A remote has another name than before: see `RemotePeer.name`. None if it has none any more."""

    peer: RemotePeer
    name: str | None


@dataclass(frozen=True, slots=True)
class Data(Event):
    """Application data from a remote arrived through the signalling server."""

    sender_peer_id: str
    data: Any
    kind: Literal["broadcast", "direct"]
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage(Event):
    """Somebody wrote in the chat, to everybody or to this peer alone. `name` is None if the sender gives none.

    `text` may have several lines and any characters: it is what the sender sent, at most 4000 characters of it.
    `sender` is None if the sender has left.
    """

    sender_peer_id: str
    name: str | None
    text: str
    is_private: bool
    sender: RemotePeer | None = None


@dataclass(frozen=True, slots=True)
class LocalTrackEnded(Event):
    """A local track ended by itself and is no longer sent.

    `err` is the exception that it failed with, None if it reached its end. `replace_track` replaces it.
    """

    track: MediaStreamTrack
    err: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FatalError(Event):
    """A failure that the program has to react to.

    `code` identifies it, stable between releases: `invalid_token`, `token_expired`, `channel_not_authorized`,
    `account_suspended`, `admin_disconnect`, `reconnect_exhausted`, `token_provider_failed`, `reconcile_timeout`,
    `subscription_lost` (after a reconnect the server did not answer a subscription), or the code of an error frame.
    """

    err: Exception
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Track(Event):
    """The remote sends a track. Emitted before the `StreamAdded` of its stream."""

    track: RemoteTrack
    streams: tuple[MediaStream, ...] = ()
    metadata: StreamMetadata | None = None


@dataclass(frozen=True, slots=True)
class TrackEnded(Event):
    """The remote stopped sending a track for good: its source ended, or it was removed there. Its readers end too.

    A track that is replaced there, paused, or whose connection is being repaired does not end. Emitted before the
    `StreamRemoved` of its stream. After a `ConnectionReset` it is emitted only for tracks that do not come back.
    """

    track: RemoteTrack


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
    """A picture of a `RemoteTrack` has more pixels than `limit`, its `max_picture_pixels`.

    It is dropped, with the pictures that depend on it. Emitted once per track; `pictures_refused` counts them.
    """

    track: RemoteTrack
    width: int
    height: int
    limit: int


@dataclass(frozen=True, slots=True)
class ConnectionReset(Event):
    """The connection to the remote was replaced by a new one. Its data channels are closed, its media continues."""


@dataclass(frozen=True, slots=True)
class NegotiationError(Event):
    """An offer, an answer or the recovery of a connection failed.

    `track_ids` are local tracks that this remote does not get: their offer or metadata cannot be delivered, because it
    exceeds the server's limit (`MeteredPeerOversizedError`, `PayloadTooLargeError`) or is refused
    (`ServerRequestError`). Other media continues.
    """

    err: Exception
    track_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IceCandidateError(Event):
    """An ICE candidate of the remote was refused. Usually harmless."""

    err: Exception


@dataclass(frozen=True, slots=True)
class FileOffered(Event):
    """A remote offers a file, or the rest of one. `name` is sanitised, `size` is in bytes.

    `mtime` is its time of last change in unix seconds, as the remote reports it, or None.
    """

    peer: RemotePeer
    name: str
    size: int
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class FileReceived(Event):
    """A file arrived complete and is stored at `path`. `digest` is its BLAKE2b-512 (hex), equal to the sender's."""

    peer: RemotePeer
    path: Path
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class FileFailed(Event):
    """A file that a remote began to send did not arrive. The received part is kept if the transfer can be resumed."""

    peer: RemotePeer
    name: str
    err: Exception
