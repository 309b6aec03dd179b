"""Statistics of one RTCPeerConnection, in the terms of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/).

This module loads without aiortc, because the package exports its dataclasses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from ..options import PeerConnectionState

if TYPE_CHECKING:
    from aiortc import RTCDataChannel
    from aiortc.rtcsctptransport import RTCSctpTransport

    from ..aiortc_compat.stats import MessageCounter

CandidateType = Literal["host", "srflx", "prflx", "relay"]


@dataclass(frozen=True, slots=True)
class CandidateStats:
    """One end of the selected candidate pair: W3C RTCIceCandidateStats.

    The local candidate is that of the socket: `host`, even behind a NAT, or `relay`. The remote candidate is `prflx`
    if it was learned from a connectivity check and not from a signal.
    """

    type: CandidateType
    protocol: str
    """`udp`, also for a relay that is reached over TCP."""
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class OutboundTrackStats:
    """A track sent to one remote: W3C RTCOutboundRtpStreamStats.

    Loss, jitter and round-trip time come from the reports of the remote, about one per second: W3C
    RTCRemoteInboundRtpStreamStats.

    The counters belong to the RTP stream. They continue when the track is replaced, and when another track takes over
    the section of a removed one.
    """

    track_id: str
    """The id of the local track. The remote keeps the id of the first track when another one replaces it."""
    stream_id: str | None
    kind: str
    codec: str | None = None
    """MIME type, for example `video/VP8`. None until a codec is negotiated."""
    bytes_sent: int = 0
    """Payload bytes, without headers and retransmissions."""
    packets_sent: int = 0
    bitrate: float | None = None
    """Payload rate, in bits per second. None during the first 0.2 s."""
    target_bitrate: float | None = None
    """Target rate of the encoder, in bits per second; it follows the bandwidth estimates of the remotes. None for a
    fixed rate and for packets that are forwarded without encoding."""
    frames_encoded: int = 0
    """Pictures, or audio frames (usually 20 ms), that were sent: encoded once for all remotes, or forwarded without
    encoding."""
    frames_dropped: int = 0
    """Frames dropped because encoding or sending was too slow."""
    frames_failed: int | None = None
    """Frames that the encoder failed on."""
    queue_length: int = 0
    """Frames waiting to be encoded or sent."""
    round_trip_time: float | None = None
    """Smoothed round-trip time from RTCP reports, in seconds."""
    packets_lost: int | None = None
    """Packets that the remote has missed so far, including those recovered by retransmission."""
    fraction_lost: float | None = None
    """Fraction of packets lost between the last two reports of the remote, from 0 to 1."""
    jitter: float | None = None
    """Interarrival jitter at the remote, in seconds (RFC 3550 section 6.4.1)."""
    retransmissions: int = 0
    """Packets retransmitted on request of the remote: W3C retransmittedPacketsSent."""
    retransmissions_refused: int = 0
    """Retransmission requests that were not served: repeated within one round trip, or beyond the byte budget."""


@dataclass(frozen=True, slots=True)
class InboundTrackStats:
    """A track received from one remote: W3C RTCInboundRtpStreamStats.

    Packets, bytes and losses are counted for the section, over all tracks that it has carried; frames for this track.
    """

    track_id: str
    stream_id: str | None
    kind: str
    codec: str | None = None
    """MIME type of the packet that arrived last. None before the first packet."""
    bytes_received: int = 0
    """Payload bytes, without headers and retransmissions."""
    packets_received: int = 0
    bitrate: float | None = None
    """Payload rate, in bits per second. None during the first 0.2 s."""
    packets_lost: int | None = None
    """Packets missed so far, including those recovered by retransmission. None before the first packet."""
    jitter: float | None = None
    """Interarrival jitter, in seconds (RFC 3550 section 6.4.1). None before the first packet."""
    frames_decoded: int = 0
    """Pictures, or audio frames. Tracks are decoded only while they are read."""
    frames_dropped: int = 0
    """Frames that no reader took, that a reader was too slow for, or that could not be decoded. With several readers, a
    frame counts once for each reader that missed it."""
    queue_length: int = 0
    """Decoded frames waiting for a reader; for the slowest one if there are several."""
    frames_received: int = 0
    """Pictures, or audio packets, that arrived complete."""
    frames_unread: int = 0
    """Frames that arrived while the track was not read. Included in `frames_dropped`."""
    pictures_refused: int = 0
    """Pictures with more pixels than `RemoteTrack.max_picture_pixels`, and those that depend on them. Included in
    `frames_dropped`."""
    layer: str | None = None
    """The id of the layer that is received of simulcast (W3C `rid`), None without simulcast."""


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """A `OneShotConnection`: W3C RTCTransportStats, RTCIceCandidatePairStats and its tracks.

    A closed one keeps its counters of bytes and packets; every other value is None, and there are no tracks. The fields
    are those of `RemoteStats`.
    """

    state: PeerConnectionState
    connected_for: float | None = None
    """Seconds since the connection was established. None while it is not connected."""
    round_trip_time: float | None = None
    """Duration of the last STUN check of the path, in seconds."""
    bytes_sent: int | None = None
    """UDP payload: media, RTCP, data and DTLS, without STUN checks."""
    bytes_received: int | None = None
    packets_sent: int | None = None
    packets_received: int | None = None
    bitrate_out: float | None = None
    """Rate of `bytes_sent`, in bits per second. None during the first 0.2 s of a connection."""
    bitrate_in: float | None = None
    local_candidate: CandidateStats | None = None
    remote_candidate: CandidateStats | None = None
    ice_state: str | None = None
    """`new`, `checking`, `completed`, `failed` or `closed`."""
    dtls_state: str | None = None
    """`new`, `connecting`, `connected`, `closed` or `failed`."""
    outbound: tuple[OutboundTrackStats, ...] = ()
    inbound: tuple[InboundTrackStats, ...] = ()
    packets_refused: int | None = None
    """Packets of the other end that were dropped: malformed ones, and media from too many sources."""
    description_lines_skipped: int | None = None
    """Lines of the other end's descriptions that were invalid or too many, and were left out. They are logged."""
    candidates_refused: int | None = None
    """Candidates of the other end that were invalid or too many. `IceCandidateError` has the reason."""


class PeerConnectionStats(TypedDict, total=False):
    """Measured values of one connection, under the field names of `RemoteStats`. A missing key means unknown."""

    connected_for: float | None
    round_trip_time: float | None
    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    bitrate_out: float | None
    bitrate_in: float | None
    local_candidate: CandidateStats | None
    remote_candidate: CandidateStats | None
    ice_state: str
    dtls_state: str
    outbound: tuple[OutboundTrackStats, ...]
    inbound: tuple[InboundTrackStats, ...]
    packets_refused: int
    description_lines_skipped: int
    candidates_refused: int


@dataclass(frozen=True, slots=True)
class DataCounters:
    """Message counters of all data channels of one connection."""

    transport: RTCSctpTransport | None
    total: MessageCounter
    """All channels so far, including those that have ended."""
    channels: Sequence[tuple[RTCDataChannel, MessageCounter]]
    """Channels that have not ended, by id, those without one last."""
    refused: int
    """Channels of the remote that were refused when it opened them."""


class HasStats(Protocol):
    """A connection that reports its statistics. A simulated one reports nothing."""

    def stats(self) -> PeerConnectionStats:
        """Return the current values. Each call is a sample for the rates."""

    def totals(self) -> PeerConnectionStats:
        """Return the counters that keep their meaning after the connection has closed."""

    def data_counters(self) -> DataCounters | None:
        """Return the message counters of the data channels, None for a simulated connection."""


def bits_per_second(bytes_per_second: float | None) -> float | None:
    """Convert a byte rate to a bit rate."""
    return bytes_per_second * 8 if bytes_per_second is not None else None
