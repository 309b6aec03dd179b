"""Another peer of the channel: its state, its media, its data channels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.signals import MetadataSignal, Signal
from ..emitter import AsyncEventEmitter
from ..errors import MeteredRealtimeError
from ..events import (
    ConnectionReset,
    DataChannelOpened,
    IceCandidateError,
    NegotiationError,
    StateChange,
)
from ..log import Logger
from ..media.stream import MediaStream
from ..options import PeerConnectionState
from ..signalling.scrubbing import scrub_error
from .early_messages import EarlyMessages
from .remote_media import RemoteMedia
from .stats import RemoteStats, remote_stats

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCPeerConnection

    from .connection import PeerConnection
    from .link import Incoming

SendFn = Callable[[str, Any], Awaitable[None]]
ConnectionFactory = Callable[["RemotePeer"], "PeerConnection"]


class RemotePeer(AsyncEventEmitter):
    """A peer that shares a channel with a `MeteredPeer`, which makes and owns it.

    Events: `StateChange`, `Track`, `StreamAdded`, `StreamRemoved`, `DataChannelOpened`, `ConnectionReset`,
    `NegotiationError`, `IceCandidateError`. It stays `idle` until either end has media or a data channel for the other.

    `connection` makes the connection when it is first needed; `polite` peers give way when both offer at once.
    """

    def __init__(
        self,
        *,
        id: str,
        connection: ConnectionFactory,
        send: SendFn,
        metadata: dict[str, Any] | None = None,
        logger: Logger | None = None,
        polite: bool = False,
        tell_metadata: Callable[[RemotePeer], None] = lambda remote: None,
    ) -> None:
        super().__init__(logger)
        self.id = id
        self._make_connection = connection
        self._send = send
        self._metadata = metadata
        self._polite = polite
        self._tell_metadata = tell_metadata
        self._connection: PeerConnection | None = None
        self._state: PeerConnectionState = "idle"
        self._signalling_lost = False
        self._when_link_lost: Callable[[], object] | None = None
        self._media = RemoteMedia(self.emit)

    def __repr__(self) -> str:
        return f"<RemotePeer {self.id!r} {self._state}>"

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The metadata of its token, None if it has none."""
        return self._metadata

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
        """aiortc's connection, created when first needed and replaced with `ConnectionReset`."""
        return self._connect().pc

    @property
    def streams(self) -> list[MediaStream]:
        """The streams that it sends, in the order in which they came."""
        return self._media.streams

    async def send(self, data: Any) -> None:
        """Send it data through the signalling server. Raises like `MeteredPeer.send_to`.

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
            MeteredRealtimeError: it has left.
        """
        if self._state == "closed":
            raise MeteredRealtimeError(f"peer {self.id!r} has left")
        return self._connect().create_data_channel(label, **kwargs)

    def stats(self) -> RemoteStats:
        """Return the figures of its connection now. Synchronous and cheap; sends and creates nothing."""
        return remote_stats(self)

    # --- for MeteredPeer

    def _connect(self) -> PeerConnection:
        if self._connection is None:
            if self._state == "closed":
                raise MeteredRealtimeError(f"peer {self.id!r} has left")
            self._connection = self._make_connection(self)
        return self._connection

    def _receive_signal(self, signal: Signal) -> None:
        try:
            connection = self._connect()
        except ImportError as error:
            self.negotiation_failed(error)
            return
        connection.receive(signal)

    def _receive_metadata(self, signal: MetadataSignal) -> None:
        self._media.take_metadata(signal)

    def _set_metadata(self, metadata: dict[str, Any] | None) -> None:
        self._metadata = metadata

    def _set_signalling_lost(self, lost: bool) -> None:
        """Show `reconnecting` while the server cannot be reached. Idle remotes have nothing to lose and stay idle."""
        self._signalling_lost = lost
        if self._connection is not None and self._state != "closed":
            self._connection.set_reachable(not lost)
            self.state_changed(self._connection.state)

    def _start_over(self, polite: bool) -> None:
        self._polite = polite
        if self._connection is not None and self._state != "closed":
            self._connection.start_over(polite=polite)

    async def _close(self) -> None:
        self.state_changed("closed")
        if self._connection is not None:
            await self._connection.close()
        await self._shut_down_emitter()

    # --- what the connection tells

    def state_changed(self, state: PeerConnectionState) -> None:
        """Follow the state of the connection."""
        if state != "connected" and self._when_link_lost is not None:
            self._when_link_lost()
        if self._signalling_lost and state in ("connecting", "connected"):
            state = "reconnecting"
        if state == "connected":
            self._media.connected()
        else:
            self._media.disconnected()
        if self._state not in (state, "closed"):
            previous, self._state = self._state, state
            self.emit(StateChange(previous, state))

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Tell of the tracks and streams that it stopped and began to send."""
        self._media.change(removed, added)

    def channel_opened(self, channel: RTCDataChannel) -> None:
        """Tell of a channel that it opened, keeping what arrives before anybody listens."""
        EarlyMessages(channel, self._logger)
        self.emit(DataChannelOpened(channel))

    def connection_reset(self) -> None:
        """Tell that the connection was replaced. Its media comes back as new."""
        self._media.reset()
        self._tell_metadata(self)
        self.emit(ConnectionReset())

    def negotiation_failed(self, error: Exception) -> None:
        """Tell of a failure."""
        self.emit(NegotiationError(scrub_error(error)))

    def candidate_refused(self, error: Exception) -> None:
        """Tell of a candidate that could not be used."""
        self.emit(IceCandidateError(scrub_error(error)))

    def metadata_in_doubt(self) -> None:
        """Tell the metadata once more, before a description: it may have been lost, or told to another program."""
        self._tell_metadata(self)
