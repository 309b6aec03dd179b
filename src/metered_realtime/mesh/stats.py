"""Statistics of a peer and its remotes: what is sent and received, at what rate, on what path, and what is lost.

The terms are those of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/); each docstring names them. Times are
seconds, rates bits per second, sizes bytes. An unknown value is None, never 0.

Reading is synchronous, takes some ten microseconds for each connection and sends nothing. A rate covers the time since
the newest earlier reading that is at least 0.75 s old, or since the beginning: a program that reads once a second gets
the rate of that second, however often other code reads in between. Counters belong to one RTCPeerConnection and start
at 0 with the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..channels.stats import DataStats, data_stats
from ..connection.stats import CandidateStats, InboundTrackStats, OutboundTrackStats
from ..options import MeteredPeerState, PeerConnectionState, SignallingClientState

if TYPE_CHECKING:
    from .remote_peer import RemotePeer


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """The connection to one remote: W3C RTCTransportStats, RTCIceCandidatePairStats, its tracks and data channels.

    An idle remote has its id and state, and generation 0. A closed one keeps the counters of its last connection
    (bytes, packets and data); every other value is None, and there are no tracks or channels.
    """

    peer_id: str
    state: PeerConnectionState
    generation: int = 0
    """Number of connections so far. It rises with `ConnectionReset`, and all counters start again at 0."""
    connected_for: float | None = None
    """Seconds since this connection was established. None while it is not connected."""
    round_trip_time: float | None = None
    """Duration of the last STUN check of the path, in seconds; one is sent about every 2 s: W3C currentRoundTripTime.
    Taken from RTCP if no check was answered within half a second."""
    bytes_sent: int | None = None
    """UDP payload: media, RTCP, data and DTLS, without STUN checks."""
    bytes_received: int | None = None
    packets_sent: int | None = None
    packets_received: int | None = None
    bitrate_out: float | None = None
    """Rate of `bytes_sent`, in bits per second. None during the first 0.2 s of a connection."""
    bitrate_in: float | None = None
    local_candidate: CandidateStats | None = None
    """Local end of the selected candidate pair. None while there is none."""
    remote_candidate: CandidateStats | None = None
    ice_state: str | None = None
    """`new`, `checking`, `completed`, `failed` or `closed`."""
    dtls_state: str | None = None
    """`new`, `connecting`, `connected`, `closed` or `failed`."""
    outbound: tuple[OutboundTrackStats, ...] = ()
    """Tracks sent to the remote, each from the moment when it has a section."""
    inbound: tuple[InboundTrackStats, ...] = ()
    data: DataStats | None = None
    packets_refused: int | None = None
    """Packets of the remote that were dropped: malformed ones, those with too much in them, and media from too many
    sources."""
    description_lines_skipped: int | None = None
    """Lines of the remote's descriptions that were invalid or too many, and were left out. They are logged."""
    candidates_refused: int | None = None
    """Candidates of the remote that were invalid or too many. `IceCandidateError` has the reason."""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """A peer with all its remotes. Totals are sums of the known values of the current remotes.

    A total falls when a remote leaves or its connection is replaced.
    """

    state: MeteredPeerState
    peer_id: str | None
    channel: str | None
    signalling_state: SignallingClientState
    signalling_frames_dropped: int
    """Invalid frames of the server, which were skipped."""
    bytes_sent: int = 0
    bytes_received: int = 0
    bitrate_out: float = 0.0
    """Bits per second."""
    bitrate_in: float = 0.0
    signals_ignored: int = 0
    """Signals and calls received through the server for another channel, where another program has this peer id."""
    signals_refused: int = 0
    """Signals that can never be delivered: too large for the server, or refused by it. See `NegotiationError`."""
    remotes: Mapping[str, RemoteStats] = field(default_factory=dict)
    """By peer id, in the order of arrival."""
    connections_busy: int = 0
    """Connections being set up or torn down, at most 64 while others wait."""
    connections_waiting: int = 0
    """Connections waiting to be set up: peers can join faster than connections can be made."""
    tracks_failed: int = 0
    """Local tracks that ended because their `recv` raised. `LocalTrackEnded` has each with its exception."""


def remote_stats(remote: RemotePeer) -> RemoteStats:
    """Return the statistics of a remote. Creates no connection."""
    connection = remote._connection
    measured = connection.measured if connection is not None else None
    if connection is None or measured is None:
        return RemoteStats(remote.id, remote.state)
    is_closed = remote.state == "closed"
    values = measured.totals() if is_closed else measured.stats()
    counters = measured.data_counters()
    data = data_stats(counters, with_channels=not is_closed) if counters is not None else None
    return RemoteStats(remote.id, remote.state, connection.generation, **values, data=data)
