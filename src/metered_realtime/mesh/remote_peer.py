"""A remote peer of the channel: its state, media and data channels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..channels.managed_channel import ManagedChannel
from ..channels.options import ChannelOptions, check_names
from ..channels.registry import RemoteChannels
from ..connection.remote_media import RemoteMedia
from ..core.negotiation.delivery import concerns_everybody
from ..core.negotiation.signals import GREETING, NAME_ID, MetadataSignal, Signal
from ..core.streams.frames import Attributes, StreamKind
from ..core.wire.frames import MAX_MESSAGE_SIZE
from ..core.wire.shown_names import name_in
from ..emitter import AsyncEventEmitter
from ..errors import MeteredRealtimeError, SignallingError
from ..events import Event, NameChanged, StreamOpened
from ..events.emitted import BY_REMOTE
from ..log import Logger
from ..media.stream import MediaStream, StreamMetadata
from ..options import PeerConnectionState
from ..rpc.client import RpcClient
from ..rpc.codec import format_of, is_foreign
from ..rpc.methods import RpcMethods
from ..rpc.remote import RemoteRpc
from ..streams.binding import StreamBinding
from ..streams.writer import StreamWriter
from .channel_access import ChannelAccess
from .local_media import LocalMedia
from .remote_reports import RemoteReports
from .stats import RemoteStats, remote_stats

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack, RTCDataChannel, RTCPeerConnection

    from ..connection.remote_connection import RemoteConnection
    from ..files.progress import ProgressFn, TransferResult
    from ..files.transfers import FileTransfers
    from ..media.receiving.remote_track import RemoteTrack

SendFn = Callable[[str, Any], Awaitable[None]]
ConnectionFactory = Callable[["RemotePeer"], "RemoteConnection"]


class ServerLimits(Protocol):
    """What the server accepts."""

    @property
    def max_message_size(self) -> int: ...


class RemoteOwner(Protocol):
    """The peer of a remote, as the remote needs it."""

    rpc: RpcMethods
    _media: LocalMedia
    _files: FileTransfers

    @property
    def channel(self) -> str | None: ...
    @property
    def _seat(self) -> ServerLimits: ...
    def emit(self, event: Event) -> None: ...
    def _send_metadata_to(self, remote: RemotePeer) -> None: ...
    def _tell_metadata(self, remote: RemotePeer, signal: MetadataSignal) -> None: ...
    def _stream_opened(self, event: StreamOpened) -> bool: ...


class RemotePeer(AsyncEventEmitter):
    """Another peer in the channel of a `MeteredPeer`, which creates and owns this object.

    Events: `StateChange`, `NameChanged`, `Track`, `TrackEnded`, `StreamAdded`, `StreamRemoved`, `PictureRefused`,
    `LocalTrackEnded` of a track sent to it alone, `DataChannelOpened`, `ChannelOpened`, `StreamOpened`, `FileOffered`,
    `FileReceived`, `FileFailed`, `ConnectionReset`, `NegotiationError`, `IceCandidateError`. It stays `idle` until
    either end has media or a data channel for the other.

    `connection` is called when a connection is first needed. A `polite` end gives way when both offer at once.
    """

    _EMITS = BY_REMOTE

    def __init__(
        self,
        *,
        id: str,
        connection: ConnectionFactory,
        send: SendFn,
        metadata: dict[str, Any] | None = None,
        logger: Logger | None = None,
        polite: bool = False,
        owner: RemoteOwner | None = None,
    ) -> None:
        super().__init__(logger)
        self.id = id
        self._make_connection = connection
        self._send = send
        self._metadata = metadata
        self._told_name: dict[str, Any] | None = None
        self._track_name: dict[str, Any] | None = None
        self._name = name_in([metadata])
        self._polite = polite
        self._has_greeted = False
        self._is_native = False
        self._silent_tracks: set[str] = set()
        self._connection: RemoteConnection | None = None
        self._free_to_offer_at = 0.0
        self._state: PeerConnectionState = "idle"
        self._signalling_lost = False
        self._when_link_lost: Callable[[], object] | None = None
        self._media = RemoteMedia(self.emit)
        self._sent: LocalMedia | None = None
        self._reports = RemoteReports(self)
        self._channels = RemoteChannels(ChannelAccess(self), self._logger)
        self._exchange = StreamBinding(self._reports, self._channels)
        self._owner = owner
        self._channel = owner.channel if owner is not None else None
        self._rpc: RemoteRpc | None = None

    def __repr__(self) -> str:
        return f"<RemotePeer {self.id!r} {self._state}>"

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The metadata of its token, None if it has none."""
        return self._metadata

    @property
    def name(self) -> str | None:
        """The name that it gives itself: one line of at most 80 characters, without controls. None if it gives none.

        It is that in its token's metadata (`name`, or else `displayName`), which the backend vouches for; or else that
        of `MeteredPeer(name=...)` or of the room page; or else that in the metadata of a track. Anybody can take the
        name of another in the last two. `NameChanged` reports each change.
        """
        return self._name

    @property
    def state(self) -> PeerConnectionState:
        """`idle`, `connecting`, `connected`, `reconnecting` or `closed`."""
        return self._state

    @property
    def polite(self) -> bool:
        """Whether this end gives way when both offer at once: its own id is the smaller one."""
        return self._polite

    @property
    def pc(self) -> RTCPeerConnection:
        """aiortc's connection, created when first needed. It is another one after `ConnectionReset`."""
        return self._connect().pc

    @property
    def streams(self) -> list[MediaStream]:
        """The streams that it sends, in the order of arrival."""
        return self._media.streams

    @property
    def incoming_tracks(self) -> list[RemoteTrack]:
        """The tracks that it sends now, including those in no stream."""
        return [incoming.track for incoming in self._media.incoming]

    async def send(self, data: Any) -> None:
        """Send data to it through the signalling server. Raises like `MeteredPeer.send_to`.

        Raises:
            MeteredRealtimeError: it has left.
        """
        if self._state == "closed":
            raise MeteredRealtimeError(f"peer {self.id!r} has left")
        await self._send(self.id, data)

    def create_data_channel(self, label: str, **kwargs: Any) -> RTCDataChannel:
        """Open a data channel and return aiortc's object, still connecting; wrap it in `DataChannel`.

        Keyword arguments are aiortc's: `ordered`, `maxRetransmits`, `maxPacketLifeTime` (ms), `protocol`, `negotiated`,
        `id`.

        Raises:
            TypeError: the label or the protocol is not str.
            ValueError: one of them has more than 65,535 bytes in UTF-8.
            MeteredRealtimeError: it has left.
        """
        check_names(label, kwargs.get("protocol", ""))
        if self._state == "closed":
            raise MeteredRealtimeError(f"peer {self.id!r} has left")
        return self._connect().create_data_channel(label, **kwargs)

    def open_channel(self, label: str, **options: Any) -> ManagedChannel:
        """Open a channel that survives its connection, or return the one that is open under this label.

        Whichever end opens it first, both have one channel for each label. Options, all by keyword, are those of
        `ChannelOptions`: `reliable=True`; `window_messages`, `window_bytes` and `max_message_size` bound it; `ordered`,
        `max_retransmits` and `max_packet_life_time` are for one that is not reliable.

        Raises:
            ValueError: options that do not fit, or it is open with another `reliable`.
            MeteredRealtimeError: it has left, or there are too many.
        """
        return self._channels.open(label, ChannelOptions(**options))

    def open_stream(
        self,
        topic: str,
        attributes: Attributes | None = None,
        *,
        kind: StreamKind = "bytes",
        total: int | None = None,
    ) -> StreamWriter:
        """Return a stream to it, opened on entering: `async with remote.open_stream(...) as writer`.

        The other end gets `StreamOpened` with what is said here. `total` is the number of bytes, if it is known.

        Raises:
            ValueError: no usable topic, attributes that are no flat JSON values, or too much of them.
        """
        return self._exchange.open(topic, attributes, kind, total)

    async def send_file(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        progress: ProgressFn | None = None,
        patience: float | None = None,
    ) -> TransferResult:
        """Send it a file, and return when it has arrived whole, with the right digest. See also
        `MeteredPeer.send_file`.

        Resumes after lost connections, and after the remote has left and come back under the same id within `patience`
        seconds, 60 by default.

        Raises:
            FileTransferError: it did not arrive; `reason` says why.
            OSError: the file cannot be read.
        """
        if self._owner is None:
            raise MeteredRealtimeError("files are sent by the remotes of a MeteredPeer")
        return await self._owner._files.send(self, path, name=name, progress=progress, patience=patience)

    @property
    def rpc(self) -> RpcClient:
        """The client that calls its methods. Nothing is opened before the first call."""
        return self._calls().client

    async def perform_rpc(self, *, method: str, payload: str, response_timeout: float = 15.0) -> str:
        """Call a method with a text and return its answer, a text. `response_timeout` is in seconds.

        Raises:
            RpcError: the error of the handler, or the reason why there is no answer.
            TypeError: the payload is not str.
        """
        return await self.rpc.perform(method, payload, response_timeout)

    def stats(self) -> RemoteStats:
        """Return the current stats of its connection. Synchronous and cheap; sends and creates nothing."""
        return remote_stats(self)

    # --- media to it alone

    def add_stream(self, stream: MediaStream, metadata: StreamMetadata | None = None) -> None:
        """Send it the tracks of a stream, and nobody else. Raises like `add_track`.

        Nothing is attached if one of the tracks cannot be.
        """
        self._own_media().attach_stream(stream, metadata)

    def add_track(
        self, track: MediaStreamTrack, stream: MediaStream | None = None, metadata: StreamMetadata | None = None
    ) -> None:
        """Send it a track, and nobody else. Does nothing if it gets the track already with the same stream.

        A track that goes to several remotes is encoded once for all of them. It stays attached over reconnects and
        replaced connections, until it is removed, ends (`LocalTrackEnded` on this object) or the remote leaves.

        Raises:
            MeteredPeerStateError: `track_already_attached` with another stream, or to everybody.
            MeteredPeerOversizedError: the metadata is too large; nothing was remembered.
            MeteredRealtimeError: it has left.
            TypeError: not a track, a stream or a dict.
        """
        self._own_media().attach([track], stream, metadata, "add_track")

    def remove_stream(self, stream: MediaStream) -> None:
        """Stop sending it the tracks of a stream that it alone is sent. Does nothing for an unknown one."""
        if self._sent is not None and self._state != "closed":
            self._sent.detach_stream(stream)

    def remove_track(self, track: MediaStreamTrack) -> None:
        """Stop sending it a track that it alone is sent. Does nothing for an unknown one.

        Raises:
            MeteredPeerStateError: `track_already_attached`, everybody is sent the track.
        """
        if self._state != "closed":
            self._own_media().detach(track)

    async def replace_track(self, old_track: MediaStreamTrack, new_track: MediaStreamTrack | None) -> None:
        """Replace a track that it alone is sent by another one, or by nothing, without negotiation.

        Raises:
            MeteredPeerStateError: `track_already_attached`, the new one is attached, or everybody is sent one of them.
            MeteredPeerReplaceTrackError: it failed, and the old track is still sent.
            MeteredRealtimeError: it has left.
            TypeError: `old_track` is None or `new_track` is no track.
            ValueError: the tracks are of different kinds.
        """
        self._own_media().replace(old_track, new_track)

    def get_track_metadata(self, track: MediaStreamTrack) -> StreamMetadata | None:
        """Return a copy of the metadata of a track that it alone is sent, None if it has none."""
        return self._sent.metadata_of(track) if self._sent is not None else None

    def get_stream_metadata(self, stream: MediaStream) -> StreamMetadata | None:
        """Return a copy of the metadata of the first track of a stream that it alone is sent."""
        return self._sent.metadata_of_stream(stream) if self._sent is not None else None

    def _own_media(self) -> LocalMedia:
        if self._state == "closed":
            raise MeteredRealtimeError(f"peer {self.id!r} has left")
        if self._owner is None:
            raise MeteredRealtimeError("media is sent by the remotes of a MeteredPeer")
        if self._sent is None:
            self._sent = self._owner._media.for_one(self)
        return self._sent

    # --- for MeteredPeer

    def _connect(self) -> RemoteConnection:
        if self._connection is None:
            if self._state == "closed":
                raise MeteredRealtimeError(f"peer {self.id!r} has left")
            self._connection = self._make_connection(self)
        return self._connection

    def _when_free(self, action: Callable[[], None]) -> None:
        """Call a function that needs a connection: now, or in its turn."""
        self._connect().when_free(action)

    def _receive_signal(self, signal: Signal) -> None:
        try:
            connection = self._connect()
        except ImportError as error:
            self._reports.negotiation_failed(error)
            return
        connection.receive(signal)

    def _receive_metadata(self, signal: MetadataSignal) -> None:
        if signal == GREETING:
            self._greet()
            self._is_native = True
            self._free_to_offer_at = 0.0
            if self._connection is not None:
                self._connection.greeted()
        elif signal.track_id == NAME_ID:
            self._told_name = signal.metadata
            self._update_name()
        else:
            self._media.store_metadata(signal)
            self._update_name()

    def _update_name(self) -> None:
        """Find the name again. That of a track stays when the track ends."""
        self._track_name = next((it for it in self._media.metadata if name_in([it])), self._track_name)
        name = name_in([self._metadata, self._told_name, self._track_name])
        if name != self._name and self._state != "closed":
            self._name = name
            event = NameChanged(self, name)
            self.emit(event)
            if self._owner is not None:
                self._owner.emit(event)

    def _greet(self) -> None:
        """Send the greeting once; it identifies this implementation."""
        if not self._has_greeted:
            self._has_greeted = True
            if self._owner is not None:
                self._owner._tell_metadata(self, GREETING)

    def _hold_back(self, seconds: float) -> None:
        """Offer nothing for a moment, so that its own offer comes first."""
        self._free_to_offer_at = asyncio.get_running_loop().time() + seconds

    async def _tell(self, signal: MetadataSignal, send: Callable[[str, MetadataSignal], Awaitable[None]]) -> None:
        """Send it the metadata of a track. Metadata that can never be delivered is reported once."""
        try:
            await send(self.id, signal)
        except (MeteredRealtimeError, ValueError) as error:
            if concerns_everybody(error):
                return
            self._logger.warning("track metadata not delivered", {"peer": self.id, "error": str(error)})
            if not isinstance(error, SignallingError) and signal.track_id not in self._silent_tracks:
                self._silent_tracks.add(signal.track_id)
                self._reports.tracks_withheld(error, (signal.track_id,))

    def _set_metadata(self, metadata: dict[str, Any] | None) -> None:
        self._metadata = metadata
        self._update_name()

    def _set_signalling_lost(self, lost: bool) -> None:
        """Show `reconnecting` while the server cannot be reached. Idle remotes stay idle."""
        self._signalling_lost = lost
        if self._connection is not None and self._state != "closed":
            self._connection.set_reachable(not lost)
            self._reports.state_changed(self._connection.state)

    def _start_over(self, polite: bool) -> None:
        self._polite = polite
        if self._connection is not None and self._state != "closed":
            self._connection.start_over(polite=polite)

    async def _close(self) -> None:
        self._reports.state_changed("closed")
        if self._connection is not None:
            await self._connection.close()
        if self._sent is not None:
            await self._sent.close()
        if self._rpc is not None:
            await self._rpc.wait_closed()
        await self._shut_down_emitter()

    def _calls(self) -> RemoteRpc:
        if self._rpc is None:
            self._rpc = RemoteRpc(
                self,
                self._owner.rpc if self._owner is not None else RpcMethods(),
                server_cap=self._server_cap,
                channel=self._channel,
                logger=self._logger,
            )
        return self._rpc

    def _send_media(self) -> None:
        """Send it what everybody is sent."""
        if self._owner is not None:
            self._owner._media.send_everything(self)

    def _send_metadata(self) -> None:
        if self._owner is not None:
            self._owner._send_metadata_to(self)
        if self._sent is not None:
            self._sent.tell_metadata(self)

    def _server_cap(self) -> int:
        return self._owner._seat.max_message_size if self._owner is not None else MAX_MESSAGE_SIZE

    def _take_call(self, data: Any) -> None:
        """Handle a call, or an answer, that came through the server."""
        self._calls().receive_direct(data)

    def _takes_calls(self, channel: RTCDataChannel) -> bool:
        """Use a channel that it opened for calls, if it is one of those. Return whether it is."""
        protocol = getattr(channel, "protocol", "")
        if format_of(channel.label, protocol) is None and not is_foreign(channel.label, protocol):
            return False
        return self._calls().serve_channel(channel)
