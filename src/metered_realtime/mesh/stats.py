"""Figures of a peer and its connections: what is sent and received, how fast, on what path, and what is lost.

The terms are those of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/); each docstring says which. Times are
seconds, rates bits per second, sizes bytes. What is not known is None, never 0.

Reading is synchronous, costs some ten microseconds for each connection and sends nothing. Rates are those since the
last reading that is 0.75 s old or older, or since the beginning: who reads each second gets the rate of that second,
however often others read meanwhile. Counters belong to one generation of a connection, and begin at 0 with the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from ..channels.data_channel import DataChannel
from ..channels.stats import DataChannelStats, DataStats
from ..channels.unheard import unheard_on
from ..options import MeteredPeerState, PeerConnectionState, SignallingClientState

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCRtpTransceiver

    from ..aiortc_compat.peer_connection import MessageCounter
    from ..connection.peer_connection import PeerConnection
    from ..connection.sections import Incoming, SendingSection
    from .peer import MeteredPeer
    from .remote_peer import RemotePeer

CandidateType = Literal["host", "srflx", "prflx", "relay"]


@dataclass(frozen=True, slots=True)
class CandidateStats:
    """One end of the candidate pair in use: W3C RTCIceCandidateStats.

    The candidate of this end is the socket's own, `host` also behind a NAT, or `relay`. That of the remote is `prflx`
    if it was learned from a check and not from a signal.
    """

    type: CandidateType
    protocol: str
    """`udp`, also for a relay that is reached by TCP."""
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class OutboundTrackStats:
    """A track as a remote is sent it: W3C RTCOutboundRtpStreamStats and, as the remote reports it, RTCRemoteInboundRtp-
    StreamStats. The report comes about each second.

    The counters are those of the RTP stream: they go on when the track is replaced, and when another track takes over
    the section of one that was removed.
    """

    track_id: str
    """That of the local track. The remote goes on to know one that replaced another under the id of the first."""
    stream_id: str | None
    kind: str
    codec: str | None = None
    """The MIME type, `video/VP8` for instance. None while nothing is negotiated."""
    bytes_sent: int = 0
    """Payload, without headers and without retransmissions."""
    packets_sent: int = 0
    bitrate: float | None = None
    """Bits per second of payload. None in the first 0.2 s."""
    target_bitrate: float | None = None
    """Bits per second that the encoder aims at, which follows what the remotes can take. None if its rate is fixed, and
    for packets that go out as they came."""
    frames_encoded: int = 0
    """Pictures, or frames of audio (20 ms as a rule), that were sent: encoded here, once for all who get them, or
    passed on as they came."""
    frames_dropped: int = 0
    """Frames that the encoder, or the sending, was too slow for."""
    frames_failed: int | None = None
    """Frames that could not be encoded."""
    queue_length: int = 0
    """Frames that wait, for the encoder or to be sent."""
    round_trip_time: float | None = None
    """Seconds, smoothed, from RTCP reports."""
    packets_lost: int | None = None
    """Packets that the remote missed so far, whether or not they came later as retransmissions."""
    fraction_lost: float | None = None
    """The part of the packets, from 0 to 1, that was lost between its last two reports."""
    jitter: float | None = None
    """Seconds by which the arrival of packets varies at the remote (RFC 3550 section 6.4.1)."""
    retransmissions: int = 0
    """Packets that were sent again because the remote asked for them: W3C retransmittedPacketsSent."""
    retransmissions_refused: int = 0
    """Requests for packets that were not sent again: within one round trip, or beyond the bytes that may be."""


@dataclass(frozen=True, slots=True)
class InboundTrackStats:
    """A track that a remote sends: W3C RTCInboundRtpStreamStats.

    Packets, bytes and losses are those of the section, over all tracks that it carried; frames are those of this track.
    """

    track_id: str
    stream_id: str | None
    kind: str
    codec: str | None = None
    """The MIME type of what arrived last. None before the first packet."""
    bytes_received: int = 0
    """Payload, without headers and without retransmissions."""
    packets_received: int = 0
    bitrate: float | None = None
    """Bits per second of payload. None in the first 0.2 s."""
    packets_lost: int | None = None
    """Packets missing so far, whether or not they came later as retransmissions. None before the first packet."""
    jitter: float | None = None
    """Seconds by which the arrival of packets varies (RFC 3550 section 6.4.1). None before the first packet."""
    frames_decoded: int = 0
    """Pictures, or frames of audio. Only what is read is decoded."""
    frames_dropped: int = 0
    """Frames that were given up: nobody read them, in time or at all, or they could not be decoded. With several
    readers, each that was too slow for a frame counts."""
    queue_length: int = 0
    """Decoded frames that wait for a reader, the slowest one if there are several."""
    frames_received: int = 0
    """Pictures, or packets of audio, that arrived whole."""
    frames_unread: int = 0
    """Those that came while nobody read. They are among `frames_dropped`."""
    pictures_refused: int = 0
    """Those with more pixels than `RemoteTrack.max_picture_pixels`, and what builds on them. Among `frames_dropped`."""


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """The connection to one remote: W3C RTCTransportStats, RTCIceCandidatePairStats, and what is carried.

    An idle remote has its id and state, and generation 0. A closed one keeps the counters of its last connection:
    bytes, packets and data; what belongs to the moment is None, and there are no tracks or channels.
    """

    peer_id: str
    state: PeerConnectionState
    generation: int = 0
    """How many connections there were. It rises with `ConnectionReset`, and all counters begin at 0."""
    connected_for: float | None = None
    """Seconds since this connection came up. None while it is not up."""
    round_trip_time: float | None = None
    """Seconds that the last STUN check of the path took, one of which is made every 2 s or so: W3C
    currentRoundTripTime. From RTCP if there is none that was answered within half a second."""
    bytes_sent: int | None = None
    """Media, RTCP, data and DTLS, as they go into UDP. Not the STUN checks."""
    bytes_received: int | None = None
    packets_sent: int | None = None
    packets_received: int | None = None
    bitrate_out: float | None = None
    """Bits per second of all that `bytes_sent` counts. None in the first 0.2 s of a connection."""
    bitrate_in: float | None = None
    local_candidate: CandidateStats | None = None
    """This end of the path in use. None while there is no path."""
    remote_candidate: CandidateStats | None = None
    ice_state: str | None = None
    """`new`, `checking`, `completed`, `failed` or `closed`."""
    dtls_state: str | None = None
    """`new`, `connecting`, `connected`, `closed` or `failed`."""
    outbound: tuple[OutboundTrackStats, ...] = ()
    """What it is sent, as soon as there is a section for it."""
    inbound: tuple[InboundTrackStats, ...] = ()
    data: DataStats | None = None
    packets_refused: int | None = None
    """Packets of the remote that were dropped: malformed ones, those with too much in them, and those of media from too
    many sources."""
    description_lines_skipped: int | None = None
    """Lines of the remote's descriptions that made no sense, or were too many, and were left out. The log has them."""
    candidates_refused: int | None = None
    """Candidates of the remote that made no sense, or were too many. `IceCandidateError` tells why."""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """A peer with all its remotes. Totals are sums over the remotes that are there, of what is known of each.

    A total falls when a remote leaves or its connection is replaced.
    """

    state: MeteredPeerState
    peer_id: str | None
    channel: str | None
    signalling_state: SignallingClientState
    signalling_frames_dropped: int
    """Frames of the server that made no sense here and were skipped."""
    bytes_sent: int = 0
    bytes_received: int = 0
    bitrate_out: float = 0.0
    """Bits per second."""
    bitrate_in: float = 0.0
    signals_ignored: int = 0
    """Signals and calls that came through the server for another channel: another program of this peer id is there."""
    signals_refused: int = 0
    """Signals that can never be delivered: too large for the server, or refused by it. See `NegotiationError`."""
    remotes: Mapping[str, RemoteStats] = field(default_factory=dict)
    """By peer id, in the order of arrival."""
    connections_busy: int = 0
    """Connections that are being made or torn down, at most 64 as long as any wait."""
    connections_waiting: int = 0
    """Connections that wait for their turn to be made: presence lets peers come and go faster than they can be."""
    tracks_failed: int = 0
    """Tracks of this end that ended because their `recv` raised. `LocalTrackEnded` has each with its exception."""


def remote_stats(remote: RemotePeer) -> RemoteStats:
    """Return the figures of a remote. Creates nothing."""
    connection = remote._connection
    if connection is None or connection.peer_connection is None:
        return RemoteStats(remote.id, remote.state)
    if not _is_measured(connection.peer_connection):
        return RemoteStats(remote.id, remote.state, connection.generation)
    if remote.state == "closed":
        return _last_stats(remote, connection.generation, connection.peer_connection)
    return _peer_connection_stats(remote, connection.generation, connection.peer_connection)


def peer_stats(peer: MeteredPeer) -> PeerStats:
    """Return the figures of a peer and of all its remotes."""
    remotes = {remote.id: remote_stats(remote) for remote in peer.remote_peers}
    every = remotes.values()
    client = peer._seat.client
    return PeerStats(
        state=peer.state,
        peer_id=peer.peer_id,
        channel=peer.channel,
        signalling_state=client.state,
        signalling_frames_dropped=client.dropped_frames,
        bytes_sent=sum(it.bytes_sent or 0 for it in every),
        bytes_received=sum(it.bytes_received or 0 for it in every),
        bitrate_out=sum(it.bitrate_out or 0.0 for it in every),
        bitrate_in=sum(it.bitrate_in or 0.0 for it in every),
        signals_ignored=peer._seat.signals_ignored,
        signals_refused=peer._seat.signals_refused,
        remotes=remotes,
        connections_busy=peer._connections.set_ups.busy,
        connections_waiting=peer._connections.set_ups.waiting,
        tracks_failed=peer._media.tracks_failed,
    )


def _is_measured(peer_connection: object) -> TypeGuard[PeerConnection]:
    """Tell whether a link is one over aiortc. Those of a simulation are not, and have no figures."""
    from ..connection.peer_connection import PeerConnection

    return isinstance(peer_connection, PeerConnection)


def _last_stats(remote: RemotePeer, generation: int, peer_connection: PeerConnection) -> RemoteStats:
    from ..aiortc_compat import peer_connection as compat

    meter = compat.transport_meter(peer_connection.pc)
    bytes_received, packets_received = compat.received(peer_connection.pc)
    return RemoteStats(
        remote.id,
        remote.state,
        generation,
        bytes_sent=meter.bytes_sent,
        bytes_received=bytes_received,
        packets_sent=meter.packets_sent,
        packets_received=packets_received,
        data=_data_stats(peer_connection, compat.message_total(peer_connection.pc), ()),
        packets_refused=compat.packets_refused(peer_connection.pc) + peer_connection.sources.refused,
        description_lines_skipped=peer_connection.odd_lines,
        candidates_refused=peer_connection.candidates_refused,
    )


def _peer_connection_stats(remote: RemotePeer, generation: int, peer_connection: PeerConnection) -> RemoteStats:
    from ..aiortc_compat import peer_connection as compat

    now = time.monotonic()
    pc = peer_connection.pc
    meter = compat.transport_meter(pc)
    bytes_received, packets_received = compat.received(pc)
    pair = compat.selected_pair(pc)
    outbound = tuple(_outbound(slot, now) for slot in peer_connection._sending if slot.outgoing is not None)
    channels = tuple(_channel_stats(channel, counter) for channel, counter in compat.message_counters(pc))
    return RemoteStats(
        remote.id,
        remote.state,
        generation,
        connected_for=now - meter.connected_at if meter.connected_at is not None else None,
        round_trip_time=_round_trip_time(pair, outbound),
        bytes_sent=meter.bytes_sent,
        bytes_received=bytes_received,
        packets_sent=meter.packets_sent,
        packets_received=packets_received,
        bitrate_out=_bits(meter.rate_out.rate(meter.bytes_sent, now)),
        bitrate_in=_bits(meter.rate_in.rate(bytes_received, now)),
        local_candidate=_candidate(pair.local_candidate, pair.local_addr) if pair is not None else None,
        remote_candidate=_candidate(pair.remote_candidate, pair.remote_addr) if pair is not None else None,
        ice_state=pc.iceConnectionState,
        dtls_state=compat.dtls_transport(pc).state,
        outbound=outbound,
        inbound=tuple(_inbound(incoming, transceiver, now) for incoming, transceiver in _receiving(peer_connection)),
        data=_data_stats(peer_connection, compat.message_total(pc), channels),
        packets_refused=compat.packets_refused(pc) + peer_connection.sources.refused,
        description_lines_skipped=peer_connection.odd_lines,
        candidates_refused=peer_connection.candidates_refused,
    )


def _round_trip_time(pair: Any, outbound: tuple[OutboundTrackStats, ...]) -> float | None:
    from ..aiortc_compat import peer_connection as compat

    if pair is None:
        return None
    measured = compat.round_trip_time(pair)
    if measured is not None:
        return measured
    return min((it.round_trip_time for it in outbound if it.round_trip_time is not None), default=None)


def _candidate(candidate: Any, address: tuple[str, int]) -> CandidateStats:
    return CandidateStats(candidate.type, candidate.transport, *address)


def _outbound(slot: SendingSection, now: float) -> OutboundTrackStats:
    from ..aiortc_compat import peer_connection as compat

    outgoing = slot.outgoing
    assert outgoing is not None
    figures = compat.sender_figures(slot.transceiver.sender)
    codec = next(iter(compat.codecs(slot.transceiver)), None) if slot.negotiated else None
    report = figures.report
    return OutboundTrackStats(
        track_id=outgoing.track_id,
        stream_id=outgoing.stream_id,
        kind=outgoing.kind,
        codec=codec.mimeType if codec is not None else None,
        bytes_sent=figures.bytes,
        packets_sent=figures.packets,
        bitrate=_bits(figures.rate.rate(figures.bytes, now)),
        target_bitrate=slot.forward.target_bitrate,
        frames_encoded=figures.frames,
        frames_dropped=slot.forward.frames_dropped,
        frames_failed=slot.forward.frames_failed,
        queue_length=slot.forward.queue_length,
        round_trip_time=_not_negative(report.roundTripTime) if report is not None else None,
        packets_lost=report.packetsLost if report is not None else None,
        fraction_lost=report.fractionLost / 256 if report is not None else None,
        jitter=report.jitter / codec.clockRate if report is not None and codec is not None else None,
        retransmissions=slot.retransmissions.sent,
        retransmissions_refused=slot.retransmissions.refused,
    )


def _receiving(peer_connection: PeerConnection) -> Iterator[tuple[Incoming, RTCRtpTransceiver]]:
    """Return the tracks that come in, each with its section."""
    sections = {transceiver.mid: transceiver for transceiver in peer_connection.pc.getTransceivers()}
    for target in peer_connection._receiving.values():
        if target._incoming is not None:
            yield target._incoming, sections[target.mid]


def _inbound(incoming: Incoming, transceiver: RTCRtpTransceiver, now: float) -> InboundTrackStats:
    from ..aiortc_compat import peer_connection as compat

    figures = compat.receiver_figures(transceiver.receiver)
    codec = figures.codec
    track = incoming.track
    return InboundTrackStats(
        track_id=incoming.track_id,
        stream_id=incoming.stream_id,
        kind=track.kind,
        codec=codec.mimeType if codec is not None else None,
        bytes_received=figures.bytes,
        packets_received=figures.packets,
        bitrate=_bits(figures.rate.rate(figures.bytes, now)),
        packets_lost=figures.packets_lost if codec is not None else None,
        jitter=figures.jitter / codec.clockRate if codec is not None else None,
        frames_decoded=track.frames_decoded,
        frames_dropped=track.frames_dropped,
        queue_length=track.queue_length,
        frames_received=track.frames_received,
        frames_unread=track.frames_unread,
        pictures_refused=track.pictures_refused,
    )


def _data_stats(
    peer_connection: PeerConnection, total: MessageCounter, channels: tuple[DataChannelStats, ...]
) -> DataStats:
    return DataStats(
        messages_sent=total.messages_sent,
        bytes_sent=total.bytes_sent,
        messages_received=total.messages_received,
        bytes_received=total.bytes_received,
        buffered_amount=sum(channel.buffered_amount for channel in channels),
        channels=channels,
        channels_refused=peer_connection.admission.refused + unheard_on(peer_connection.pc.sctp).closed,
    )


def _channel_stats(channel: RTCDataChannel, counter: MessageCounter) -> DataChannelStats:
    return DataChannelStats(
        label=channel.label,
        id=channel.id,
        state=channel.readyState,
        messages_sent=counter.messages_sent,
        bytes_sent=counter.bytes_sent,
        messages_received=counter.messages_received,
        bytes_received=counter.bytes_received,
        buffered_amount=channel.bufferedAmount,
        queued_sends=_queued_sends(channel),
    )


def _queued_sends(channel: RTCDataChannel) -> int | None:
    """Find the `DataChannel` that wraps a channel by what it listens to; the channel itself does not know it."""
    for listener in channel.listeners("bufferedamountlow"):
        owner = getattr(listener, "__self__", None)
        if isinstance(owner, DataChannel):
            return len(owner._queue)
    return None


def _bits(bytes_per_second: float | None) -> float | None:
    return bytes_per_second * 8 if bytes_per_second is not None else None


def _not_negative(seconds: float | None) -> float | None:
    """Leave out what aiortc makes of a report on an old packet, while a track is silent."""
    return seconds if seconds is not None and seconds >= 0 else None
