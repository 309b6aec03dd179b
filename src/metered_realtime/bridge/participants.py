"""What players watch: the tracks of the participants of a channel, received once for all players."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ..core.media.relay_sync import RelaySync
from ..events import Event, PeerJoined, PeerLeft, Track, TrackEnded
from ..log import Logger
from ..media.sending.relayed_track import RelayedTrack
from ..media.sending.shared_fanouts import FanoutLease
from ..mesh.peer import MeteredPeer
from ..mesh.remote_peer import RemotePeer
from ..options import IceServerConfig
from ..signalling import SignallingClient

KINDS = ("audio", "video")

FIRST_PACKET_TIME = 3.0
"""Seconds that a player waits for the first packets of a participant, to be offered the codec that they have. Without
them it gets the codec that it likes best, and the participant's is transcoded where they differ."""


SNAPSHOT_TIME = 2.0
"""Seconds after the beginning of joining within which the server has told who is there."""


class WatchedParticipant:
    """The sound and the picture of one participant for any number of players: its first track of each kind.

    A participant may replace its tracks, or its connection: its relayed tracks stay the same.
    """

    def __init__(self, remote: RemotePeer, logger: Logger) -> None:
        self.remote = remote
        group = RelaySync()
        self.tracks = [RelayedTrack(kind, f"{kind}-{remote.id}", group=group, reads_ahead=True) for kind in KINDS]
        self._logger = logger
        self._players = 0
        self._leases: list[FanoutLease] = []
        self._releasing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        remote.on(Track, self._choose)
        remote.on(TrackEnded, self._choose)
        self._choose()

    def hold(self) -> None:
        """Receive for one more player."""
        self._players += 1
        if not self._leases:
            self._leases = [FanoutLease(track, self._logger, _nothing) for track in self.tracks]

    def release(self) -> None:
        """Receive for one player less."""
        self._players -= 1
        if self._players == 0:
            self._end_leases()

    async def wait_for_packets(self) -> None:
        """Return once packets of every track have arrived, or after `FIRST_PACKET_TIME`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PACKET_TIME):
                while not self._is_sending():
                    await self._changed.wait()
                    self._changed.clear()
                for track in self.tracks:
                    if track.source is not None:
                        await track.wait_flowing()

    async def close(self) -> None:
        """Stop receiving."""
        self.remote.off(Track, self._choose)
        self.remote.off(TrackEnded, self._choose)
        self._end_leases()
        for track in self.tracks:
            track.stop()
        if self._releasing:
            await asyncio.wait(self._releasing)

    def _is_sending(self) -> bool:
        return any(track.source is not None for track in self.tracks)

    def _choose(self, _: Event | None = None) -> None:
        for relayed in self.tracks:
            live = [it for it in self.remote.incoming_tracks if it.kind == relayed.kind and it.readyState == "live"]
            if relayed.source not in live:
                relayed.switch(live[0] if live else None)
        self._changed.set()

    def _end_leases(self) -> None:
        leases, self._leases = self._leases, []
        for lease in leases:
            task = asyncio.ensure_future(lease.release())
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)


class Participants:
    """The participants of the channel as one peer of it sees them.

    `left` is called with the id of a participant that has gone.
    """

    def __init__(
        self, peer: MeteredPeer, client: SignallingClient, logger: Logger, left: Callable[[str], None]
    ) -> None:
        self.peer = peer
        self._client = client
        self._logger = logger
        self._left = left
        self._since = asyncio.get_running_loop().time()
        self._arrived = asyncio.Event()
        self._watched: dict[str, WatchedParticipant] = {}
        self._closing: set[asyncio.Task[None]] = set()
        peer.on(PeerJoined, self._on_joined)
        peer.on(PeerLeft, self._on_left)

    async def find(self, peer_id: str) -> WatchedParticipant | None:
        """Return a participant, None if it is not in the channel: who is there is known soon after joining."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._since + SNAPSHOT_TIME):
                while peer_id not in self._watched:
                    await self._arrived.wait()
                    self._arrived.clear()
        return self._watched.get(peer_id)

    @property
    def ice_servers(self) -> Sequence[IceServerConfig]:
        """The STUN and TURN servers that the signalling server names."""
        return self._client.ice_servers or ()

    async def close(self) -> None:
        """Stop receiving, and leave the channel."""
        await self.peer.close()
        await self._client.close()
        for peer_id in tuple(self._watched):
            self._drop(peer_id)
        if self._closing:
            await asyncio.wait(self._closing)

    def _on_joined(self, event: PeerJoined) -> None:
        self._drop(event.peer.id)
        self._watched[event.peer.id] = WatchedParticipant(event.peer, self._logger)
        self._arrived.set()

    def _on_left(self, event: PeerLeft) -> None:
        if self._drop(event.peer.id):
            self._left(event.peer.id)

    def _drop(self, peer_id: str) -> bool:
        watched = self._watched.pop(peer_id, None)
        if watched is None:
            return False
        task = asyncio.ensure_future(watched.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return True


def _nothing(track: Any, error: BaseException | None) -> None:
    """Do nothing: the tracks end with the participant."""
