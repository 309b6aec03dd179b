"""Reads the statistics of a transport out of aiortc and aioice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiortc import RTCPeerConnection

from ..aiortc_compat.stats import received, round_trip_time, transport_counter
from ..aiortc_compat.transports import dtls_transport, selected_pair
from .stats import CandidateStats, OutboundTrackStats, PeerConnectionStats, bits_per_second


def transport_totals(pc: RTCPeerConnection) -> PeerConnectionStats:
    """Return the counters of a transport, which may have closed."""
    counter = transport_counter(pc)
    bytes_received, packets_received = received(pc)
    return {
        "bytes_sent": counter.bytes_sent,
        "bytes_received": bytes_received,
        "packets_sent": counter.packets_sent,
        "packets_received": packets_received,
    }


def transport_stats(pc: RTCPeerConnection, outbound: Sequence[OutboundTrackStats], now: float) -> PeerConnectionStats:
    """Return the states, rates and path of a transport at a time of the monotonic clock, and its counters.

    `outbound` stands in for the round-trip time where no connectivity check has measured one.
    """
    counter = transport_counter(pc)
    pair = selected_pair(pc)
    totals = transport_totals(pc)
    return {
        **totals,
        "connected_for": now - counter.connected_at if counter.connected_at is not None else None,
        "round_trip_time": _round_trip_time(pair, outbound),
        "bitrate_out": bits_per_second(counter.rate_out.rate(totals["bytes_sent"], now)),
        "bitrate_in": bits_per_second(counter.rate_in.rate(totals["bytes_received"], now)),
        "local_candidate": _candidate(pair.local_candidate, pair.local_addr) if pair is not None else None,
        "remote_candidate": _candidate(pair.remote_candidate, pair.remote_addr) if pair is not None else None,
        "ice_state": pc.iceConnectionState,
        "dtls_state": dtls_transport(pc).state,
    }


def _round_trip_time(pair: Any, outbound: Sequence[OutboundTrackStats]) -> float | None:
    if pair is None:
        return None
    measured = round_trip_time(pair)
    if measured is not None:
        return measured
    return min((it.round_trip_time for it in outbound if it.round_trip_time is not None), default=None)


def _candidate(candidate: Any, address: tuple[str, int]) -> CandidateStats:
    return CandidateStats(candidate.type, candidate.transport, *address)
