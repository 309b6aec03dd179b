"""The events that end a call, and those that do not, when the server no longer sees a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from metered_realtime import ConnectionReset, Event, MediaStream, PeerJoined, PeerLeft, WsCloseCode
from metered_realtime.testing import VirtualPeer, VirtualTrack, VirtualWorld

CONSENT = 7.0
"""Seconds after which a silent path counts as dead."""


@pytest.fixture
def world() -> Iterator[VirtualWorld]:
    world = VirtualWorld("living calls")
    yield world
    world.close()
    assert world.errors == []
    assert world.loop.failures == []


class Call:
    """Two or three peers in a call, and the events of each from then on."""

    def __init__(self, world: VirtualWorld, *hosts: str) -> None:
        self.world = world
        self.events: dict[str, list[Event]] = {host: [] for host in hosts}
        self.peers: dict[str, VirtualPeer] = {}

    async def begin(self) -> Call:
        for host in self.events:
            peer = self.peers[host] = self.world.start(host)
            peer.add_stream(MediaStream([VirtualTrack("video", f"{host}-track")], id=f"{host}-stream"))
        await asyncio.gather(*(peer.join("room") for peer in self.peers.values()))
        await asyncio.sleep(3)
        for host, peer in self.peers.items():
            for kind in (PeerJoined, PeerLeft):
                peer.on(kind, self.events[host].append)
            for remote in peer.remote_peers:
                assert remote.state == "connected"
                remote.on(ConnectionReset, self.events[host].append)
        return self

    def lose_server(self, host: str, seconds: float) -> None:
        """Cut a peer off from the server for some seconds. Both ends notice at once."""
        self.world.drop_signalling(host, client=True, server=True)
        self.world.server.offline.add(host)
        self.world.loop.call_later(seconds, self.world.server.offline.discard, host)

    async def end(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self.peers.values()))
        await asyncio.sleep(60)

    @property
    def states(self) -> set[str]:
        return {remote.state for peer in self.peers.values() for remote in peer.remote_peers}


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize("minutes", [0.2, 10.0])
def test_a_peer_that_loses_the_server_stays_in_its_calls(world: VirtualWorld, minutes: float) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b", "c").begin()
        call.lose_server("b", minutes * 60)
        await asyncio.sleep(minutes * 60)
        assert call.peers["a"].remote_peers[0].state == "reconnecting"
        await asyncio.sleep(60)
        assert call.states == {"connected"}
        assert call.events == {"a": [], "b": [], "c": []}
        await call.end()

    world.run(program())


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize("seconds", [0.5, 14.0, 300.0])
def test_a_restart_of_the_server_ends_no_call(world: VirtualWorld, politely: bool, seconds: float) -> None:
    """A polite restart reports to the remaining peers that the others have left, one after the other."""

    async def program() -> None:
        call = await Call(world, "a", "b", "c").begin()
        world.server.restart(seconds, politely=politely)
        await asyncio.sleep(seconds + 60)
        assert {peer.state for peer in call.peers.values()} == {"joined"}
        assert call.states == {"connected"}
        assert call.events == {"a": [], "b": [], "c": []}
        await call.end()

    world.run(program())


def test_a_peer_that_is_killed_has_left_when_it_is_not_back_in_time(world: VirtualWorld) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        world.kill(call.peers.pop("b"))
        await asyncio.sleep(CONSENT + world.server.limits.return_time)
        assert kinds(call.events["a"])[-1] == "PeerLeft"
        await world.wait_for_killed()
        await call.end()

    world.run(program())


def test_a_peer_that_leaves_has_left_at_once(world: VirtualWorld) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        await call.peers["b"].leave()
        await asyncio.sleep(0.5)
        assert kinds(call.events["a"]) == ["PeerLeft"]
        await call.end()

    world.run(program())


def test_a_peer_that_hangs_up_after_it_lost_the_server_has_left_at_once(world: VirtualWorld) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        call.lose_server("b", 1_000)
        await asyncio.sleep(30)
        assert call.events["a"] == []
        await call.peers["b"].close()
        await asyncio.sleep(0.5)
        assert kinds(call.events["a"]) == ["PeerLeft"]
        await call.end()

    world.run(program())


def test_no_peer_has_left_while_the_server_is_down(world: VirtualWorld) -> None:
    """A peer whose path dies meanwhile may come back like the server: the next snapshot shows it."""

    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        world.server.restart(30.0, politely=True)
        world.cut("a", "b", 20.0)
        await asyncio.sleep(25)
        assert "PeerLeft" not in kinds(call.events["a"]) + kinds(call.events["b"])
        await asyncio.sleep(90)
        assert call.states == {"connected"}
        await call.end()

    world.run(program())


def test_a_peer_that_ended_while_the_server_was_down_has_left_when_it_is_back(world: VirtualWorld) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        world.server.restart(30.0, politely=True)
        world.kill(call.peers.pop("b"))
        await asyncio.sleep(29)
        assert "PeerLeft" not in kinds(call.events["a"])
        await asyncio.sleep(10)
        assert call.peers["a"].state == "joined"
        assert kinds(call.events["a"])[-1] == "PeerLeft"
        await world.wait_for_killed()
        await call.end()

    world.run(program())


def test_a_peer_that_is_expelled_has_left_although_its_path_is_alive(world: VirtualWorld) -> None:
    """A client that does not obey close code 4020 and goes on sending is cut off by the others."""

    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        [end] = world.server.ends_of("b")
        end.is_silent = True  # it does not notice that it is disconnected
        end.close(int(WsCloseCode.ADMIN_DISCONNECT), "kicked")
        await asyncio.sleep(0.5)
        assert kinds(call.events["a"]) == ["PeerLeft"]
        assert call.peers["a"].remote_peers == []
        await call.end()

    world.run(program())


def test_another_program_under_the_id_of_a_killed_one_gets_a_new_connection(world: VirtualWorld) -> None:
    async def program() -> None:
        call = await Call(world, "a", "b").begin()
        world.kill(call.peers.pop("b"))
        await asyncio.sleep(1)
        again = call.peers["b"] = world.start("b")
        again.add_stream(MediaStream([VirtualTrack("video", "again")], id="again"))
        await again.join("room")
        await asyncio.sleep(30)
        assert kinds(call.events["a"]) == ["ConnectionReset"]
        [remote] = call.peers["a"].remote_peers
        assert (remote.state, [stream.id for stream in remote.streams]) == ("connected", ["again"])
        await world.wait_for_killed()
        await call.end()

    world.run(program())
