"""The peers of a channel, from a presence snapshot and the deltas that follow it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...events import PresencePeer
from ..wire.names import peer_id_fault

MAX_REMOTE_PEERS = 256
"""Maximum number of remotes: a full mesh is one connection to each. Further peers are counted and not added, and so are
ids that nothing can be sent to."""


@dataclass(frozen=True, slots=True)
class RosterChange:
    """The effect of a presence frame: peers that joined, left, or are still there with new metadata, in its order.

    `expelled` are those of `left` that the server disconnected.
    """

    joined: tuple[PresencePeer, ...] = ()
    left: tuple[str, ...] = ()
    stayed: tuple[PresencePeer, ...] = ()
    expelled: frozenset[str] = frozenset()


class Roster:
    """The other peers of one channel. The first presence frame after `expect_snapshot` replaces the whole roster."""

    def __init__(self) -> None:
        self._own_id: str | None = None
        self._former_ids: set[str] = set()
        self.refused = 0
        self._present: dict[str, PresencePeer] = {}
        self._snapshot_expected = True

    def __len__(self) -> int:
        return len(self._present)

    @property
    def awaits_snapshot(self) -> bool:
        """Whether the next presence frame is a snapshot."""
        return self._snapshot_expected

    def expect_snapshot(self, own_id: str) -> None:
        """Treat the next presence frame as a snapshot, after a subscribe that may be under a new own id.

        Presence under a former own id is a ghost: the server has not yet noticed the end of that connection.
        """
        if self._own_id not in (None, own_id):
            self._former_ids.add(str(self._own_id))
        self._own_id = own_id
        self._snapshot_expected = True

    def update(self, joined: Iterable[PresencePeer], left: Iterable[PresencePeer]) -> RosterChange:
        """Apply a presence frame."""
        if self._snapshot_expected:
            self._snapshot_expected = False
            return self._reconcile(joined)
        everybody_left = tuple(left)
        left_ids = [peer.peer_id for peer in everybody_left]
        self._former_ids.difference_update(left_ids)
        gone = tuple(peer_id for peer_id in left_ids if self._present.pop(peer_id, None) is not None)
        expelled = frozenset(peer.peer_id for peer in everybody_left if peer.expelled)
        return self._add(_distinct(joined), gone, expelled)

    def clear(self) -> tuple[str, ...]:
        """Remove all peers and return them. Own ghosts stay known."""
        gone = tuple(self._present)
        self._present.clear()
        self._snapshot_expected = True
        return gone

    def _reconcile(self, snapshot: Iterable[PresencePeer]) -> RosterChange:
        listed = _distinct(snapshot)
        ids = {peer.peer_id for peer in listed}
        self._former_ids &= ids
        ids -= {self._own_id, *self._former_ids}
        gone = tuple(peer_id for peer_id in self._present if peer_id not in ids)
        for peer_id in gone:
            del self._present[peer_id]
        return self._add(listed, gone)

    def _add(
        self, peers: Iterable[PresencePeer], gone: tuple[str, ...], expelled: frozenset[str] = frozenset()
    ) -> RosterChange:
        joined, stayed = [], []
        for peer in peers:
            if peer.peer_id == self._own_id or peer.peer_id in self._former_ids:
                continue
            if peer.peer_id in self._present:
                stayed.append(peer)
            elif len(self._present) >= MAX_REMOTE_PEERS or peer_id_fault(peer.peer_id) is not None:
                self.refused += 1
                continue
            else:
                joined.append(peer)
            self._present[peer.peer_id] = peer
        return RosterChange(tuple(joined), gone, tuple(stayed), expelled)


def _distinct(peers: Iterable[PresencePeer]) -> list[PresencePeer]:
    """Merge entries of the same peer. The last one counts."""
    return list({peer.peer_id: peer for peer in peers}.values())
