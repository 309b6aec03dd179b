"""The statistics of a peer, put together from its parts."""

from __future__ import annotations

from collections.abc import Iterable

from ..connection.set_ups import SetUps
from ..core.session.peer_lifecycle import PeerLifecycle
from .remote_peer import RemotePeer
from .seat import SignallingSeat
from .stats import PeerStats, remote_stats


def peer_stats(
    life: PeerLifecycle, remotes: Iterable[RemotePeer], seat: SignallingSeat, set_ups: SetUps, tracks_failed: int
) -> PeerStats:
    """Return the statistics of a peer and of all its remotes."""
    by_id = {remote.id: remote_stats(remote) for remote in remotes}
    every = by_id.values()
    return PeerStats(
        state=life.state,
        peer_id=life.peer_id,
        channel=life.channel,
        signalling_state=seat.client.state,
        signalling_frames_dropped=seat.client.dropped_frames,
        bytes_sent=sum(it.bytes_sent or 0 for it in every),
        bytes_received=sum(it.bytes_received or 0 for it in every),
        bitrate_out=sum(it.bitrate_out or 0.0 for it in every),
        bitrate_in=sum(it.bitrate_in or 0.0 for it in every),
        signals_ignored=seat.signals_ignored,
        signals_refused=seat.signals_refused,
        remotes=by_id,
        connections_busy=set_ups.busy,
        connections_waiting=set_ups.waiting,
        tracks_failed=tracks_failed + sum(it._sent.tracks_failed for it in remotes if it._sent is not None),
    )
