"""Who is there, and who has departed with a connection that is alive, whatever a server says."""

from __future__ import annotations

from typing import Any

from metered_realtime import NoopLogger, PresencePeer, RemotePeer
from metered_realtime.core.session.roster import MAX_REMOTE_PEERS
from metered_realtime.mesh.remotes import Remotes


class LivingConnection:
    """A connection whose path never dies."""

    is_connected = True
    state = "connected"
    verified = 0

    def set_reachable(self, reachable: bool) -> None:
        pass

    def verify(self) -> None:
        self.verified += 1


class Owner:
    """Makes remotes that are connected from the beginning, and notes who has left."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def _make_remote(self, peer: PresencePeer) -> RemotePeer:
        async def send(peer_id: str, data: Any) -> None:
            pass

        remote = RemotePeer(id=peer.peer_id, connection=lambda remote: remote._connection, send=send)  # type: ignore[arg-type, return-value]
        remote._connection = LivingConnection()  # type: ignore[assignment]
        return remote

    def _remote_joined(self, remote: RemotePeer) -> None:
        pass

    def _remote_left(self, remote: RemotePeer) -> None:
        self.left.append(remote.id)


def remotes_of(owner: Owner) -> Remotes:
    remotes = Remotes(owner, NoopLogger())
    remotes.expect_snapshot("me")
    remotes.update((), ())
    return remotes


async def test_so_many_that_have_departed_are_kept_and_the_oldest_makes_way() -> None:
    owner = Owner()
    remotes = remotes_of(owner)
    for number in range(3 * MAX_REMOTE_PEERS):
        peer = PresencePeer(f"p{number}")
        remotes.update([peer], [])
        remotes.update([], [peer])
    assert len(remotes) == MAX_REMOTE_PEERS
    assert owner.left == [f"p{number}" for number in range(2 * MAX_REMOTE_PEERS)]


async def test_those_who_are_there_make_way_for_nobody() -> None:
    owner = Owner()
    remotes = remotes_of(owner)
    everybody = [PresencePeer(f"p{number}") for number in range(MAX_REMOTE_PEERS)]
    remotes.update(everybody, [])
    remotes.update([PresencePeer("one more")], [])
    assert (len(remotes), owner.left) == (MAX_REMOTE_PEERS, [])
    remotes.update([], everybody[:1])
    remotes.update([PresencePeer("another")], [])
    assert (len(remotes), owner.left) == (MAX_REMOTE_PEERS, ["p0"])


async def test_who_comes_back_is_asked_whether_it_is_still_the_same() -> None:
    owner = Owner()
    remotes = remotes_of(owner)
    remotes.update([PresencePeer("p")], [])
    remote = remotes.get("p")
    remotes.update([], [PresencePeer("p")])
    remotes.update([PresencePeer("p", {"n": 1})], [])
    assert remotes.get("p") is remote
    assert remote is not None
    assert remote.metadata == {"n": 1}
    assert remote._connection.verified == 1  # type: ignore[union-attr]


async def test_who_is_expelled_is_gone_though_the_connection_is_alive() -> None:
    owner = Owner()
    remotes = remotes_of(owner)
    remotes.update([PresencePeer("p")], [])
    remotes.update([], [PresencePeer("p", expelled=True)])
    assert (len(remotes), owner.left) == (0, ["p"])
