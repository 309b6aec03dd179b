"""Signals that a peer misses while it has lost the server, and gets when it is back, before anything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from metered_realtime import ConnectionReset, Event, MediaStream, MessagesLost, NegotiationError, PeerJoined, PeerLeft
from metered_realtime.testing import VirtualPeer, VirtualTrack, VirtualWorld, virtual_server
from tests.support.peers import eventually

AWAY = 5.0
"""Seconds without the server: within the 15 s in which a connection has to come up."""


class WatchedEnd(virtual_server.ServerEnd):
    """A server's end that notes the descriptions which it gets."""

    descriptions: list[tuple[str, str]]
    watchers: list[Callable[[str, str], None]]

    def receive(self, frame: bytes) -> None:
        super().receive(frame)
        if b'"rtc-description"' in frame and not self.is_silent:
            described = self.host, json.loads(frame)["data"]["description"]["type"]
            self.descriptions.append(described)
            for watcher in self.watchers:
                watcher(*described)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualWorld]:
    state: dict[str, Any] = {"descriptions": [], "watchers": []}
    monkeypatch.setattr(virtual_server, "ServerEnd", type("CountingEnd", (WatchedEnd,), state))
    world = VirtualWorld("missed signals")
    yield world
    world.close()
    assert world.errors == []
    assert world.loop.failures == []


class Pair:
    """Two peers that have met, of which `a` sends something, and what both are told from then on."""

    def __init__(self, world: VirtualWorld) -> None:
        self.world = world
        self.ends: Any = virtual_server.ServerEnd
        self.peers = [world.start(host, credential="resume") for host in "ab"]
        self.events: list[Event] = []

    async def meet(self) -> None:
        await asyncio.gather(*(peer.join("room") for peer in self.peers))
        await asyncio.sleep(1)
        for peer in self.peers:
            for kind in (PeerJoined, PeerLeft, MessagesLost):
                peer.on(kind, self.events.append)
            [remote] = peer.remote_peers
            for kind in (ConnectionReset, NegotiationError):
                remote.on(kind, self.events.append)
        self.ends.descriptions.clear()

    def lose_a_after(self, sender: str, kind: str) -> None:
        """Cut `a` off from the server when the server has got the first such description."""

        def described(*what: str) -> None:
            if what == (sender, kind):
                self.ends.watchers.clear()
                self.lose_a()

        self.ends.watchers.append(described)

    def lose_a(self) -> None:
        """Break the connection of `a`, which the server does not notice, and refuse it for some time."""
        self.world.drop_signalling("a", client=True, server=False)
        self.world.server.is_up = False
        self.world.loop.call_later(AWAY, setattr, self.world.server, "is_up", True)

    async def connected(self) -> None:
        remotes = [remote for peer in self.peers for remote in peer.remote_peers]
        await eventually(lambda: {remote.state for remote in remotes} == {"connected"})

    async def end(self) -> None:
        await asyncio.sleep(30)
        assert self.events == []
        await asyncio.gather(*(peer.close() for peer in self.peers))
        await asyncio.sleep(60)


def send_from(peer: VirtualPeer, name: str = "video") -> None:
    peer.add_stream(MediaStream([VirtualTrack("video", name)], id=f"{name}-stream"))


def test_a_missed_answer_completes_the_connection_without_another_offer(world: VirtualWorld) -> None:
    async def program() -> None:
        pair = Pair(world)
        await pair.meet()
        pair.lose_a_after("a", "offer")
        send_from(pair.peers[0])
        await pair.connected()
        assert pair.ends.descriptions == [("a", "offer"), ("b", "answer")]
        await pair.end()
        assert pair.ends.descriptions == [("a", "offer"), ("b", "answer")]

    world.run(program())


def test_a_missed_offer_is_answered_once_although_it_was_repeated(world: VirtualWorld) -> None:
    async def program() -> None:
        pair = Pair(world)
        await pair.meet()
        pair.lose_a()
        await asyncio.sleep(0)
        send_from(pair.peers[1])
        await pair.connected()
        offers = [what for what in pair.ends.descriptions if what == ("b", "offer")]
        assert len(offers) == 2, "the other end has repeated it"
        assert [remote.streams[0].id for remote in pair.peers[0].remote_peers] == ["video-stream"]
        await pair.end()

    world.run(program())


def test_what_a_living_connection_missed_is_taken_up_on_it(world: VirtualWorld) -> None:
    async def program() -> None:
        pair = Pair(world)
        await pair.meet()
        send_from(pair.peers[0], "first")
        await pair.connected()
        pair.lose_a()
        send_from(pair.peers[1], "second")
        send_from(pair.peers[0], "third")
        await asyncio.sleep(2 * AWAY)
        await pair.connected()
        streams = [sorted(stream.id for stream in peer.remote_peers[0].streams) for peer in pair.peers]
        assert streams == [["second-stream"], ["first-stream", "third-stream"]]
        await pair.end()

    world.run(program())


def test_the_answer_to_a_missed_offer_does_not_wait_for_the_list_of_everybody(world: VirtualWorld) -> None:
    """The connection may be back a while before the channel is, where the server cannot serve it at the moment."""

    async def program() -> None:
        pair = Pair(world)
        await pair.meet()
        pair.lose_a()
        send_from(pair.peers[1])
        snapshots: list[tuple[WatchedEnd, bytes]] = []
        write = pair.ends.write

        def withhold(end: WatchedEnd, frame: bytes) -> None:
            if is_answered or end.host != "a" or not frame.startswith(b'{"type":"presence"'):
                write(end, frame)
            else:
                snapshots.append((end, frame))

        is_answered = False
        pair.ends.write = withhold
        await eventually(lambda: ("a", "answer") in pair.ends.descriptions)
        assert pair.peers[0].state == "reconnecting"
        assert pair.ends.descriptions.count(("b", "offer")) == 2, "it was answered before the next repetition"
        is_answered = True
        for it in snapshots:
            write(*it)
        await pair.connected()
        await pair.end()

    world.run(program())
