"""The other peers of the channel, as presence lists them, and those that may be about to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Protocol

from ..core.negotiation.held_signals import HeldSignals
from ..core.negotiation.signals import MetadataSignal, Signal
from ..core.session.roster import MAX_REMOTE_PEERS, Roster
from ..events import PresencePeer
from ..log import Logger
from .remote_peer import RemotePeer


class RemotesOwner(Protocol):
    """The peer that has the remotes: makes them, and handles their coming and going."""

    def _make_remote(self, peer: PresencePeer) -> RemotePeer: ...
    def _remote_joined(self, remote: RemotePeer) -> None: ...
    def _remote_left(self, remote: RemotePeer) -> None: ...


class Remotes:
    """The remotes of one peer. The first presence after `expect_snapshot` lists everybody.

    A remote that presence reports as left is kept while its connection is alive: it may have lost only the server. It
    is removed when the connection ends, because the remote closed it or does not answer any more, or when the server
    says that it was expelled. While this end has lost the server itself, it waits for the next snapshot.

    `signalling_lost` is set by the owner, and shown by every remote that has a connection.
    """

    def __init__(self, owner: RemotesOwner, logger: Logger) -> None:
        self.signalling_lost = False
        self._owner = owner
        self._logger = logger
        self._roster = Roster()
        self._by_id: dict[str, RemotePeer] = {}
        self._departed: dict[str, RemotePeer] = {}
        self._held = HeldSignals()

    def __iter__(self) -> Iterator[RemotePeer]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, peer_id: str) -> RemotePeer | None:
        """Return the remote of an id, None if there is none."""
        return self._by_id.get(peer_id)

    @property
    def awaits_snapshot(self) -> bool:
        """Whether the next presence lists everybody."""
        return self._roster.awaits_snapshot

    def expect_snapshot(self, own_id: str) -> None:
        """Expect the next presence to be complete. `own_id` is the id of this peer."""
        self._roster.expect_snapshot(own_id)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._by_id

    def update(self, joined: Iterable[PresencePeer], left: Iterable[PresencePeer]) -> None:
        """Apply a presence frame: first the peers that left, last those that joined."""
        refused = self._roster.refused
        change = self._roster.update(joined, left)
        for peer_id in change.left:
            self._depart(peer_id, is_expelled=peer_id in change.expelled)
        for peer in change.stayed:
            remote = self._by_id[peer.peer_id]
            remote._set_metadata(peer.metadata)
            if self.signalling_lost:
                remote._send_metadata()  # it may have got the metadata of a peer that it has dropped
        for peer in change.joined:
            if peer.peer_id in self._departed:
                self._come_back(peer)
            else:
                self._add(peer)
        if self._roster.refused > refused:
            self._logger.warning("peers left out: full, or unusable ids", {"count": self._roster.refused})

    def set_signalling_lost(self, lost: bool) -> None:
        """Show every remote as reconnecting, or in its own state. One that the server has not seen again stays
        reconnecting."""
        self.signalling_lost = lost
        for remote in self:
            remote._set_signalling_lost(lost or remote.id in self._departed)
        if not lost:
            for remote in tuple(self._departed.values()):
                self._remove_if_dead(remote)

    def retry(self) -> None:
        """Send again what the server has refused: a new token may permit it."""
        for remote in self:
            if remote._connection is not None:
                remote._connection.retry()

    def receive(self, sender: str, signal: Signal | MetadataSignal) -> None:
        """Pass a signal to its remote, or hold it until presence announces one."""
        remote = self._by_id.get(sender)
        if remote is None:
            self._held.hold_signal(sender, signal, asyncio.get_running_loop().time())
        else:
            _pass_on(remote, signal)

    def clear(self) -> None:
        """Remove every remote."""
        for peer_id in tuple(self._by_id):
            self._remove(peer_id)
        self._roster.clear()
        self.signalling_lost = False  # a channel is joined with the server only

    def _add(self, peer: PresencePeer) -> None:
        if len(self._by_id) >= MAX_REMOTE_PEERS and self._departed:
            self._remove(next(iter(self._departed)))  # the roster has room, so this bounds those who have departed
        remote = self._by_id[peer.peer_id] = self._owner._make_remote(peer)
        remote._send_metadata()
        remote._send_media()
        self._owner._remote_joined(remote)
        for signal in self._held.release_signals(peer.peer_id, asyncio.get_running_loop().time()):
            _pass_on(remote, signal)

    def _depart(self, peer_id: str, *, is_expelled: bool) -> None:
        """Remove a remote, unless its connection is alive."""
        remote = self._by_id[peer_id]
        if is_expelled or not _is_alive(remote):
            self._remove(peer_id)
            return
        loop = asyncio.get_running_loop()
        self._departed[peer_id] = remote
        remote._set_signalling_lost(True)
        remote._when_link_lost = lambda: loop.call_soon(self._remove_if_dead, remote)

    def _come_back(self, peer: PresencePeer) -> None:
        remote = self._departed.pop(peer.peer_id)
        remote._when_link_lost = None
        remote._set_metadata(peer.metadata)
        remote._send_metadata()
        remote._set_signalling_lost(self.signalling_lost)
        if remote._connection is not None:
            remote._connection.verify()  # another program may have come under the same id

    def _remove_if_dead(self, remote: RemotePeer) -> None:
        """Remove a remote that has departed, once its connection has ended. Without the server none is removed."""
        if self._departed.get(remote.id) is remote and not self.signalling_lost and not _is_alive(remote):
            self._remove(remote.id)

    def _remove(self, peer_id: str) -> None:
        self._departed.pop(peer_id, None)
        remote = self._by_id.pop(peer_id, None)
        if remote is not None:
            remote._reports.state_changed("closed")
            self._owner._remote_left(remote)


def _is_alive(remote: RemotePeer) -> bool:
    return remote._connection is not None and remote._connection.is_connected


def _pass_on(remote: RemotePeer, signal: Signal | MetadataSignal) -> None:
    if isinstance(signal, MetadataSignal):
        remote._receive_metadata(signal)
    else:
        remote._receive_signal(signal)
