"""Real peers on virtual wires: they meet, they lose each other, they find out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from metered_realtime import ConnectionReset, DataChannelOpened, MediaStream, PeerLeft, RemoteStats
from metered_realtime.testing import Conditions, VirtualPeer, VirtualTrack, VirtualWorld


@pytest.fixture
def world() -> Iterator[VirtualWorld]:
    world = VirtualWorld("tests")
    yield world
    world.close()
    assert world.errors == []
    assert world.loop.failures == []


async def meet(world: VirtualWorld, *hosts: str) -> list[VirtualPeer]:
    """Start a peer on each host; each sends a stream named after its host."""
    peers = []
    for host in hosts:
        peer = world.start(host)
        peer.add_stream(MediaStream([VirtualTrack("video", f"{host}-track")], id=f"{host}-stream"), {"of": host})
        peers.append(peer)
    await asyncio.gather(*(peer.join("room") for peer in peers))
    await asyncio.sleep(3)
    return peers


async def close(*peers: VirtualPeer) -> None:
    await asyncio.gather(*(peer.close() for peer in peers))
    await asyncio.sleep(60)


def test_peers_meet_and_receive_what_the_others_send(world: VirtualWorld) -> None:
    async def program() -> None:
        peers = await meet(world, "a", "b", "c")
        for peer in peers:
            streams = {stream.id for remote in peer.remote_peers for stream in remote.streams}
            assert streams == {f"{other.peer_id}-stream" for other in peers if other is not peer}
            assert {remote.state for remote in peer.remote_peers} == {"connected"}
            assert [it.stats() for it in peer.remote_peers] == [
                RemoteStats(it.id, "connected", generation=1) for it in peer.remote_peers
            ]
        await close(*peers)

    world.run(program())


def test_peers_behind_nat_need_the_candidates_of_a_server() -> None:
    world = VirtualWorld("tests", Conditions(nat=True))

    async def program() -> None:
        a, b = await meet(world, "a", "b")
        assert a.remote_peers[0].state == b.remote_peers[0].state == "connected"
        await close(a, b)

    world.run(program())
    assert any("candidate:" in line for line in world.trace.lines())
    world.close()


def test_data_channels_open_and_keep_what_arrives_before_anybody_listens(world: VirtualWorld) -> None:
    async def program() -> None:
        a, b = await meet(world, "a", "b")
        opened: list[DataChannelOpened] = []
        b.remote_peers[0].on(DataChannelOpened, opened.append)
        channel = a.remote_peers[0].create_data_channel("chat")
        channel.on("open", lambda: channel.send("hello"))
        await asyncio.sleep(3)
        received: list[str] = []
        opened[0].channel.on("message", received.append)
        await asyncio.sleep(1)
        assert channel.readyState == "open"
        assert received == ["hello"]
        await close(a, b)

    world.run(program())


def test_a_killed_peer_is_noticed_by_its_silence(world: VirtualWorld) -> None:
    async def program() -> None:
        a, b = await meet(world, "a", "b")
        left: list[PeerLeft] = []
        a.on(PeerLeft, left.append)
        world.kill(b, ghost=True)
        await asyncio.sleep(7)
        assert a.remote_peers[0].state == "reconnecting"
        assert not left
        await asyncio.sleep(40)
        assert [event.peer.id for event in left] == ["b"]
        await world.buried()
        await close(a)

    world.run(program())


@pytest.mark.parametrize(("seconds", "resets"), [(4.0, 0), (20.0, 1)])
def test_a_short_interruption_is_survived_and_a_long_one_repaired(
    world: VirtualWorld, seconds: float, resets: int
) -> None:
    async def program() -> None:
        a, b = await meet(world, "a", "b")
        seen: list[ConnectionReset] = []
        a.remote_peers[0].on(ConnectionReset, seen.append)
        world.cut("a", "b", seconds)
        await asyncio.sleep(seconds + 60)
        assert a.remote_peers[0].state == b.remote_peers[0].state == "connected"
        assert bool(seen) is bool(resets)
        assert [stream.id for stream in a.remote_peers[0].streams] == ["b-stream"]
        await close(a, b)

    world.run(program())


def test_a_restart_of_the_server_leaves_the_connections_alone(world: VirtualWorld) -> None:
    async def program() -> None:
        a, b = await meet(world, "a", "b")
        seen: list[ConnectionReset] = []
        a.remote_peers[0].on(ConnectionReset, seen.append)
        world.server.restart(5.0, politely=True)
        await asyncio.sleep(2)
        assert a.state == "reconnecting"
        await asyncio.sleep(60)
        assert a.state == b.state == "joined"
        assert not seen
        await close(a, b)

    world.run(program())


def test_nothing_is_left_behind(world: VirtualWorld) -> None:
    async def program() -> None:
        await close(*await meet(world, "a", "b", "c", "d"))

    world.run(program())
    assert asyncio.all_tasks(world.loop) == set()
    assert world.loop.timers() == []


@pytest.mark.parametrize("refused", ["a", "b"])
def test_who_may_not_send_keeps_what_flows_and_catches_up_later(world: VirtualWorld, refused: str) -> None:
    async def program() -> None:
        a, b = peers = await meet(world, "a", "b")
        resets: list[ConnectionReset] = []
        for peer in peers:
            peer.remote_peers[0].on(ConnectionReset, resets.append)
        world.refuse(refused, 60.0)
        a.add_stream(MediaStream([VirtualTrack("video", "late")], id="late"), {"of": "late"})
        await asyncio.sleep(59)
        assert {stream.id for stream in b.remote_peers[0].streams} >= {"a-stream"}
        assert {peer.remote_peers[0].state for peer in peers} == {"connected"}
        await asyncio.sleep(60)
        assert {stream.id for stream in b.remote_peers[0].streams} == {"a-stream", "late"}
        assert resets == []
        await close(*peers)

    world.run(program())
