"""Connections of a peer are made and torn down so many at a time, however fast presence lets peers come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import Event, MeteredPeer
from metered_realtime.connection import remote_connection, set_ups, turn_taking
from metered_realtime.connection.set_ups import SetUps, Turn
from tests.support.peers import GreyTrack, Room, eventually
from tests.support.scripted_server import Conversation, ScriptedServer


class Wish:
    """A turn that notes when it was granted."""

    def __init__(self, ups: SetUps, name: str, order: list[str]) -> None:
        self.turn = Turn(lambda: order.append(name))
        ups.request(self.turn)


async def test_turns_are_granted_at_once_while_there_is_room_and_then_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(set_ups, "MAX_SET_UPS", 2)
    ups, order = SetUps(), list[str]()
    wishes = [Wish(ups, name, order) for name in "abcde"]
    assert (order, ups.busy, ups.waiting) == (["a", "b"], 2, 3)
    ups.end(wishes[2].turn)  # it waited, and has cost nothing
    ups.end(wishes[0].turn)
    ups.end(wishes[1].turn)
    await asyncio.sleep(0)
    assert order == ["a", "b", "d"]
    await asyncio.sleep(0)
    assert (order, ups.busy, ups.waiting) == (["a", "b", "d", "e"], 2, 0)


async def test_what_is_torn_down_counts_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_ups, "MAX_SET_UPS", 1)
    ups, order = SetUps(), list[str]()
    endings = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for ending in endings:
        ups.count(ending)
    Wish(ups, "a", order)
    assert (order, ups.busy) == ([], 3)
    for ending in endings:
        assert order == []
        ending.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert (order, ups.busy) == (["a"], 1)


class LinkCount:
    """How many links there are, and the most there have been."""

    def __init__(self) -> None:
        self.made = self.alive = self.most = 0

    def make(self, original: Any) -> Any:
        count = self

        class CountedLink(original):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                count.made += 1
                count.alive += 1
                count.most = max(count.most, count.alive)

            async def _close(self) -> None:
                await super()._close()
                count.alive -= 1

        return CountedLink


@pytest.mark.parametrize("what", ["channel", "track"])
async def test_peers_that_come_and_go_wait_for_their_turn(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_ups, "MAX_SET_UPS", 6)
    peer_connections = LinkCount()
    monkeypatch.setattr(remote_connection, "PeerConnection", peer_connections.make(remote_connection.PeerConnection))
    crowds = [[{"peerId": f"p{turn}-{number}"} for number in range(40)] for turn in range(6)]
    seen: list[tuple[int, int]] = []

    async def churn(conversation: Conversation) -> None:
        await conversation.welcome(peerId="m")
        await conversation.ack()
        await conversation.say({"type": "presence", "channel": "c", "joined": [], "left": []})
        for crowd in crowds:
            await conversation.say({"type": "presence", "channel": "c", "joined": crowd, "left": []})
            await eventually(lambda: len(peer.remote_peers) == 40)
            seen.append((peer.stats().connections_busy, peer.stats().connections_waiting))
            await conversation.say({"type": "presence", "channel": "c", "joined": [], "left": crowd})
            await eventually(lambda: not peer.remote_peers)
        await conversation.listen()

    async with ScriptedServer(churn) as server:
        peer = MeteredPeer(api_key="key", url=server.url)
        if what == "channel":
            peer.open_channel("chat")
        else:
            peer.add_track(GreyTrack())
        await peer.join("c")
        await eventually(lambda: len(seen) == len(crowds) and not peer.remote_peers and not peer_connections.alive)
        assert peer_connections.most <= 6
        assert max(waiting for _, waiting in seen) >= 30
        assert max(busy for busy, _ in seen) <= 6
        await eventually(lambda: peer.stats().connections_busy == peer.stats().connections_waiting == 0)
        await peer.close()


async def test_those_who_never_answer_keep_the_others_waiting_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_ups, "MAX_SET_UPS", 1)
    monkeypatch.setattr(turn_taking, "SET_UP_TIME", 0.05)
    peer_connections = LinkCount()
    monkeypatch.setattr(remote_connection, "PeerConnection", peer_connections.make(remote_connection.PeerConnection))
    ghosts = [{"peerId": name} for name in ("p1", "p2", "p3")]

    async def announce(conversation: Conversation) -> None:
        await conversation.welcome(peerId="m")
        await conversation.ack()
        await conversation.say({"type": "presence", "channel": "c", "joined": ghosts, "left": []})
        await conversation.listen()

    async with ScriptedServer(announce) as server:
        peer = MeteredPeer(api_key="key", url=server.url)
        peer.open_channel("chat")
        await peer.join("c")
        await eventually(lambda: peer_connections.alive == 3)
        await peer.close()


async def test_a_mesh_of_many_comes_up_without_waiting(room: Room) -> None:
    peers = [room.peer() for _ in range(8)]
    waited: list[int] = []
    for peer in peers:
        peer.on(Event, lambda _, peer=peer: waited.append(peer.stats().connections_waiting))
        peer.open_channel("chat")
    await asyncio.gather(*(room.join(peer) for peer in peers))
    await eventually(lambda: all(len(peer.remote_peers) == 7 for peer in peers))
    await eventually(lambda: all(it.state == "connected" for peer in peers for it in peer.remote_peers))
    assert not any(waited)
    await eventually(lambda: all(peer.stats().connections_busy == 0 for peer in peers))
