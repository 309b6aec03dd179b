"""The tracks that this peer sends: their attachments, a fan-out for each, and their metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from ..core.negotiation.attachments import AlreadyAttachedError, Attachment, Attachments
from ..core.negotiation.signals import MetadataSignal
from ..errors import (
    MeteredPeerReplaceTrackError,
    MeteredPeerStateError,
    ReplaceTrackFailure,
)
from ..events import Event, LocalTrackEnded
from ..log import Logger
from ..media.stream import MediaStream, StreamMetadata
from ..signalling.scrubbing import scrub_error
from .webrtc_extra import connection_class

if TYPE_CHECKING:
    from ..connection.sections import Outgoing
    from ..media.sending.fanout import TrackFanout
    from ..media.sending.shared_fanouts import FanoutLease
    from .remote_peer import RemotePeer

CheckFn = Callable[[MetadataSignal], None]
"""Raises MeteredPeerOversizedError for metadata that cannot be sent."""


class LocalMediaOwner(Protocol):
    """The peer whose tracks are sent."""

    @property
    def remote_peers(self) -> list[RemotePeer]: ...
    def emit(self, event: Event) -> None: ...
    def _tell_metadata(self, remote: RemotePeer, signal: MetadataSignal) -> None: ...


class OneRemote:
    """Owns the tracks that one remote alone is sent."""

    def __init__(self, remote: RemotePeer, peer: LocalMediaOwner) -> None:
        self._remote = remote
        self._tell_metadata = peer._tell_metadata

    @property
    def remote_peers(self) -> list[RemotePeer]:
        """The remote."""
        return [self._remote]

    def emit(self, event: Event) -> None:
        """Emit an event on the remote."""
        self._remote.emit(event)


class LocalMedia:
    """The tracks of one `MeteredPeer`, sent to every current and future remote, or those that one remote alone is sent.

    The metadata of a track is sent before the track itself, so that it is known when the track arrives. `check` refuses
    metadata that is too large. `common` are the tracks that all remotes are sent, None if these are they.
    """

    def __init__(
        self, owner: LocalMediaOwner, check: CheckFn, logger: Logger, *, common: LocalMedia | None = None
    ) -> None:
        self.tracks_failed = 0
        self._owner = owner
        self._check = check
        self._common = common
        self._individual: list[LocalMedia] = []
        self._ended: WeakKeyDictionary[Any, tuple[MediaStream | None, StreamMetadata | None]] = WeakKeyDictionary()
        self._book = Attachments(lambda: [other._book for other in self._others])
        self._leases: dict[int, FanoutLease] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._logger = logger

    # --- what the program asks for

    def attach(
        self, tracks: Iterable[Any], stream: MediaStream | None, metadata: StreamMetadata | None, method: str
    ) -> None:
        """Send tracks to everybody: all of them, or none if one cannot be sent. Raises like `_enter`."""
        added = []
        try:
            for track in tracks:
                attachment = self._enter(track, stream, metadata, method)
                if attachment is not None:
                    added.append(attachment)
                    if getattr(track, "reads_ahead", False):
                        self._fanout(track)
        except Exception:
            for attachment in added:
                self._book.remove(attachment.track)
            raise
        for remote in self._owner.remote_peers:
            for attachment in added:
                self._tell_all_of(remote, attachment)
                self._send(remote, attachment)

    def attach_stream(self, stream: MediaStream, metadata: StreamMetadata | None) -> None:
        """Send the tracks of a stream to everybody. Raises like `attach`."""
        if not isinstance(stream, MediaStream):
            raise TypeError(f"a MediaStream is needed, not {stream!r}")
        self.attach(stream.get_tracks(), stream, metadata, "add_stream")

    def detach_stream(self, stream: MediaStream) -> None:
        """Stop sending the tracks of a stream. Does nothing for an unknown one."""
        for attachment in self._book.of_stream(stream):
            self.detach(attachment.track)

    def for_one(self, remote: RemotePeer) -> LocalMedia:
        """Return the tracks that one remote is sent beside these. Close it when the remote has left."""
        own = LocalMedia(OneRemote(remote, self._owner), self._check, self._logger, common=self)
        self._individual.append(own)
        return own

    def detach(self, track: Any) -> None:
        """Stop sending a track to everybody. Does nothing for an unknown one.

        Raises:
            MeteredPeerStateError: `track_already_attached`, everybody is sent it and not one remote, or the other way
                round.
        """
        self._check_elsewhere(track, "remove_track")
        attachment = self._book.remove(track)
        if attachment is None:
            return
        self._close_fanout(id(track))
        for remote in self._owner.remote_peers:
            if attachment.metadata is not None:
                self._owner._tell_metadata(remote, attachment.clear_signal())
            if remote._connection is not None:
                remote._connection.detach(id(track))

    def replace(self, old: Any, new: Any | None) -> None:
        """Replace a track on every remote that carries it, metadata included.

        In the place of a track that has ended, `new` is attached with its stream and metadata.

        Raises:
            TypeError: `old` is None, or `new` is not a track.
            ValueError: the kinds differ.
            MeteredPeerStateError: `track_already_attached`, `new` is attached itself.
            MeteredPeerReplaceTrackError: it failed on some remotes. The book holds `new` if any remote has it.
        """
        if old is None:
            raise TypeError("old_track must be a track, not None")
        self._check_elsewhere(old, "replace_track")
        self._check_elsewhere(new, "replace_track")
        before = self._book.get(old)
        if before is None and new is not None and self._is_ended(old):
            self._check_kinds(old, new)
            stream, metadata = self._ended[old]
            self.attach([new], stream, metadata, "replace_track")
            del self._ended[old]
            return
        try:
            self._replace(self._owner.remote_peers, old, new)
        finally:
            if before is not None and before.metadata is not None and self._book.get(old) is None:
                after = self._book.get(new)
                for remote in self._owner.remote_peers:
                    self._owner._tell_metadata(remote, before.clear_signal())
                    if after is not None:
                        self._tell_all_of(remote, after)

    @property
    def is_any(self) -> bool:
        """Whether any track is attached."""
        return len(self._book) > 0

    def get(self, track: Any) -> Attachment | None:
        """Return the attachment of a track, None if it has none."""
        return self._book.get(track)

    def metadata_of(self, track: Any) -> StreamMetadata | None:
        """Return a copy of the metadata that a track was attached with, None if it has none."""
        attachment = self._book.get(track)
        return dict(attachment.metadata) if attachment is not None and attachment.metadata is not None else None

    def metadata_of_stream(self, stream: Any) -> StreamMetadata | None:
        """Return a copy of the metadata of the first attached track of a stream."""
        attachments = self._book.of_stream(stream)
        return self.metadata_of(attachments[0].track) if attachments else None

    def of_stream(self, stream: Any) -> list[Attachment]:
        """Return the attachments of a stream."""
        return self._book.of_stream(stream)

    # --- what a remote is sent

    def tell_metadata(self, remote: RemotePeer) -> None:
        """Send a remote the metadata of every track."""
        for attachment in self._book:
            self._tell_all_of(remote, attachment)

    def send_everything(self, remote: RemotePeer) -> None:
        """Send a remote every track that has not ended."""
        for attachment in self._book:
            if getattr(attachment.track, "readyState", "live") != "ended":
                self._send(remote, attachment)
            elif not self._fanout(attachment.track).is_reading:
                self._track_ended(attachment.track, None)  # it was not read, so its end was not noticed

    # --- inside

    def _tell_all_of(self, remote: RemotePeer, attachment: Attachment) -> None:
        signal = attachment.metadata_signal()
        if signal is not None:
            self._owner._tell_metadata(remote, signal)

    def _send(self, remote: RemotePeer, attachment: Attachment) -> None:
        remote._connect().attach(id(attachment.track), self._outgoing(attachment))

    def _enter(
        self, track: Any, stream: MediaStream | None, metadata: StreamMetadata | None, method: str
    ) -> Attachment | None:
        """Attach a track. Returns None if it is attached already with the same stream.

        Raises:
            ImportError: aiortc is missing, or is a release that is not supported.
            TypeError: not a track, a stream or a metadata object.
            ValueError: the metadata is not JSON.
            MeteredPeerStateError: `track_already_attached`, with another stream.
            MeteredPeerOversizedError: `check` finds the metadata too large to be sent. Nothing was remembered.
        """
        _check_track(track)
        connection_class()
        if stream is not None and not isinstance(stream, MediaStream):
            raise TypeError(f"stream must be a MediaStream or None, not {stream!r}")
        if metadata is not None and not isinstance(metadata, dict):
            raise TypeError(f"metadata must be a dict or None, not {metadata!r}")
        if self._is_sent_to_all(track, stream):
            return None
        self._check_elsewhere(track, method)
        try:
            attachment = self._book.prepare(track, stream, metadata)
        except AlreadyAttachedError:
            raise _already_attached(track, method) from None
        if attachment is None:
            return None
        signal = attachment.metadata_signal()
        if signal is not None:
            self._check(signal)
        self._book.add(attachment)
        if self._is_ended(track):
            del self._ended[track]
        return attachment

    @property
    def _others(self) -> list[LocalMedia]:
        """What some of the same remotes are sent as well."""
        return [self._common] if self._common is not None else self._individual

    def _is_sent_to_all(self, track: Any, stream: MediaStream | None) -> bool:
        """Return whether a remote that alone is to be sent a track gets it already, with the same stream."""
        common = self._common.get(track) if self._common is not None else None
        return common is not None and common.stream is stream

    def _check_elsewhere(self, track: Any, method: str) -> None:
        """Refuse a track that is sent to all remotes, where it is about one, or the other way round."""
        if track is None or all(other.get(track) is None for other in self._others):
            return
        whom = "everybody" if self._common is not None else "one remote"
        text = f"track {track.id} is sent to {whom}: change that there"
        raise MeteredPeerStateError("track_already_attached", method, text)

    def _check_kinds(self, old: Any, new: Any) -> None:
        _check_track(new)
        if old.kind != new.kind:
            raise ValueError(f"a track of kind {old.kind!r} cannot be replaced by one of kind {new.kind!r}")

    def _replace(self, remotes: list[RemotePeer], old: Any, new: Any | None) -> None:
        present = self._book.get(old)
        if new is old:
            return
        if new is not None:
            self._check_kinds(old, new)
        if present is None:
            # No remote has it, or an earlier replacement left it on some of them: those follow now.
            attachment = self._book.get(new)
            self._finish(old, *self._swap(remotes, old, attachment))
            return
        if self._book.get(new) is not None:
            raise _already_attached(new, "replace_track")
        attachment = self._book.replacement(present, new) if new is not None else None
        succeeded, failed = self._swap(remotes, old, attachment)
        if succeeded or not failed:
            if attachment is not None:
                self._book.swap(present, attachment)
            else:
                self._book.remove(old)
        self._finish(old, succeeded, failed)

    def _finish(self, old: Any, succeeded: list[str], failed: list[ReplaceTrackFailure]) -> None:
        if failed:
            raise MeteredPeerReplaceTrackError(tuple(succeeded), tuple(failed))
        self._close_fanout(id(old))

    def _swap(
        self, remotes: list[RemotePeer], old: Any, attachment: Attachment | None
    ) -> tuple[list[str], list[ReplaceTrackFailure]]:
        succeeded: list[str] = []
        failed: list[ReplaceTrackFailure] = []
        key = id(old)
        for remote in remotes:
            connection = remote._connection
            if connection is None or not connection.carries(key):
                continue
            try:
                if attachment is None:
                    connection.detach(key, negotiate=False)
                else:
                    connection.replace(key, id(attachment.track), self._outgoing(attachment))
            except Exception as error:  # aggregated: one remote must not keep the others on the old track
                failed.append(ReplaceTrackFailure(remote.id, scrub_error(error)))
            else:
                succeeded.append(remote.id)
        return succeeded, failed

    async def close(self) -> None:
        """Stop pulling the tracks. They belong to the caller and go on."""
        if self._common is not None and self in self._common._individual:
            self._common._individual.remove(self)
        for track_id in tuple(self._leases):
            self._close_fanout(track_id)
        if self._closing:
            await asyncio.wait(self._closing)

    def _outgoing(self, attachment: Attachment) -> Outgoing:
        from ..connection.sections import Outgoing

        return Outgoing(
            attachment.kind,
            attachment.track_id,
            attachment.stream_id,
            self._fanout(attachment.track),
            has_metadata=attachment.metadata is not None,
        )

    def _fanout(self, track: Any) -> TrackFanout:
        from ..media.sending.shared_fanouts import FanoutLease

        lease = self._leases.get(id(track))
        if lease is None:
            lease = self._leases[id(track)] = FanoutLease(track, self._logger, self._track_ended)
        return lease.fanout

    def _track_ended(self, track: Any, error: BaseException | None) -> None:
        """Remove a track that has ended by itself."""
        attachment = self._book.get(track)
        if attachment is None:
            return
        self.tracks_failed += error is not None
        self.detach(track)
        with suppress(TypeError):  # a track of the program's own class that cannot be referred to weakly
            self._ended[track] = attachment.stream, attachment.metadata
        self._owner.emit(LocalTrackEnded(track, error))

    def _is_ended(self, track: Any) -> bool:
        try:
            return track in self._ended
        except TypeError:
            return False

    def _close_fanout(self, track_id: int) -> None:
        lease = self._leases.pop(track_id, None)
        if lease is not None:
            task = asyncio.ensure_future(lease.release())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _check_track(track: Any) -> None:
    if getattr(track, "kind", None) not in ("audio", "video") or not callable(getattr(track, "recv", None)):
        raise TypeError(f"an aiortc MediaStreamTrack of kind audio or video is needed, not {track!r}")


def _already_attached(track: Any, method: str) -> MeteredPeerStateError:
    return MeteredPeerStateError(
        "track_already_attached", method, f"track {track.id} is already attached with another stream or on its own"
    )
