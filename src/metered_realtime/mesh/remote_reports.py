"""What the connection to a remote reports, as changes of the remote and its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..channels.early_messages import EarlyMessages
from ..emitter import listens_for
from ..errors import IceRecoveryExhaustedError
from ..events import (
    ConnectionReset,
    DataChannelOpened,
    IceCandidateError,
    NegotiationError,
    StateChange,
    StreamOpened,
)
from ..options import PeerConnectionState
from ..signalling.scrubbing import scrub_error

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

    from ..connection.sections import Incoming
    from ..streams.reader import StreamReader
    from .remote_peer import RemotePeer


class RemoteReports:
    """The observer of the connection and of the streams of one remote."""

    def __init__(self, remote: RemotePeer) -> None:
        self._remote = remote

    def state_changed(self, state: PeerConnectionState) -> None:
        """Handle another state of the connection."""
        remote = self._remote
        if state != "connected" and remote._when_link_lost is not None:
            remote._when_link_lost()
        if remote._signalling_lost and state in ("connecting", "connected"):
            state = "reconnecting"
        if state == "connected":
            remote._media.connected()
        else:
            remote._media.disconnected()
        if state == "closed":
            remote._exchange.end("peer_left")
            remote._channels.end()
            if remote._rpc is not None:
                remote._rpc.left()
        elif remote._connection is not None and remote._connection.is_connected:
            remote._channels.connected()
        if remote._state not in (state, "closed"):
            previous, remote._state = remote._state, state
            remote.emit(StateChange(previous, state))

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Emit the tracks and streams that it stopped and began to send."""
        self._remote._media.change(removed, added)
        self._remote._update_name()

    def channel_opened(self, channel: RTCDataChannel) -> None:
        """Emit a channel that it opened. Messages that arrive before a listener is there are kept."""
        remote = self._remote
        if remote._channels.claim_data_channel(channel) or remote._takes_calls(channel):
            return
        EarlyMessages(channel, remote._logger)
        remote.emit(DataChannelOpened(channel))

    def stream_opened(self, reader: StreamReader) -> bool:
        """Handle a stream that the remote opened. False if nothing will ever read it."""
        remote = self._remote
        if remote._owner is not None and remote._owner._files.claim_stream(remote, reader):
            return True
        event = StreamOpened(remote, reader)
        is_wanted = listens_for(remote, StreamOpened)
        remote.emit(event)
        return (remote._owner is not None and remote._owner._stream_opened(event)) or is_wanted

    def connection_reset(self) -> None:
        """Handle the connection being replaced: its media comes back as new."""
        remote = self._remote
        if remote._when_link_lost is not None:
            remote._when_link_lost()
        remote._media.reset()
        remote._channels.reset()
        if remote._rpc is not None:
            remote._rpc.connection_reset()
        remote._send_metadata()
        remote.emit(ConnectionReset())

    def negotiation_failed(self, error: Exception) -> None:
        """Emit a failure."""
        remote = self._remote
        if isinstance(error, IceRecoveryExhaustedError):
            remote._exchange.end("connection_lost", str(error))
            if remote._rpc is not None:
                remote._rpc.connection_lost()
        remote.emit(NegotiationError(scrub_error(error)))

    def tracks_withheld(self, error: Exception, track_ids: Sequence[str]) -> None:
        """Emit local tracks that are not sent: no offer of them, or no metadata, can be delivered."""
        self._remote.emit(NegotiationError(scrub_error(error), tuple(track_ids)))

    def candidate_refused(self, error: Exception) -> None:
        """Emit a candidate that could not be used."""
        self._remote.emit(IceCandidateError(scrub_error(error)))

    def offer_held(self) -> None:
        """Ask whether the remote is native: then there is no need to hold the offer back."""
        self._remote._greet()

    def metadata_in_doubt(self) -> None:
        """Send the metadata again, before a description: it may have been lost, or sent to another program."""
        self._remote._send_metadata()
