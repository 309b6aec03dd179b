"""Several peers, each in a channel of its own, over one connection to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    Data,
    Left,
    MediaStream,
    MeteredPeer,
    MeteredPeerStateError,
    PeerJoined,
    PeerLeft,
    ReconnectOptions,
    RemotePeer,
    SignallingClient,
    SignallingConnectError,
    StreamAdded,
    StreamRemoved,
    Track,
)
from tests.support.peers import EventLog, GreyTrack, Room, Wire, shows, state_of

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.05, max_attempts=1000)


@asynccontextmanager
async def shared(room: Room, peer_id: str, url: str | None = None, **options: Any) -> AsyncIterator[SignallingClient]:
    client = SignallingClient(
        token_provider=lambda: room.server.mint_token(peer_id=peer_id), url=url or room.server.url, **options
    )
    try:
        yield client
    finally:
        await client.close()


def seat(room: Room, client: SignallingClient) -> MeteredPeer:
    peer = MeteredPeer(client=client)
    room.peers.append(peer)
    return peer


async def met(peer: MeteredPeer, seen: EventLog) -> RemotePeer:
    return (await seen.until(PeerJoined)).peer


@pytest.mark.parametrize("credential", [{"api_key": "k"}, {"token_provider": lambda: "t"}])
async def test_a_client_has_its_credential_already(room: Room, credential: dict[str, Any]) -> None:
    async with shared(room, "a") as client:
        with pytest.raises(ValueError, match="client"):
            MeteredPeer(client=client, **credential)


async def test_the_first_join_connects_and_closing_a_peer_leaves_the_client_to_the_others(room: Room) -> None:
    async with shared(room, "a") as client:
        one, other = seat(room, client), seat(room, client)
        await asyncio.gather(one.join("red"), other.join("blue"))
        assert (one.peer_id, other.peer_id) == ("a", "a")
        assert set(client.subscriptions) == {"red", "blue"}
        await one.close()
        assert client.state == "connected"
        assert client.subscriptions == ("blue",)
        await other.close()
        assert client.state == "connected"
        assert client.listener_count(PeerLeft) == 0
        third = seat(room, client)
        await third.join("red")
        await third.close()


async def test_two_peers_of_one_client_cannot_be_in_one_channel(room: Room) -> None:
    async with shared(room, "a") as client:
        one, other = seat(room, client), seat(room, client)
        await one.join("room")
        with pytest.raises(MeteredPeerStateError, match="'room'"):
            await other.join("room")
        assert (one.state, other.state) == ("joined", "idle")
        await one.leave()
        await other.join("room")
        await other.close()
        await one.close()


@pytest.mark.parametrize(("mine", "theirs"), [("a", "b"), ("b", "a")])
async def test_the_same_two_programs_in_two_channels_have_a_connection_in_each(
    room: Room, mine: str, theirs: str
) -> None:
    """The direct messages of both channels run between the same two ids."""
    async with shared(room, mine) as client_a, shared(room, theirs) as client_b:
        peers = {
            (name, channel): seat(room, client)
            for name, client in (("a", client_a), ("b", client_b))
            for channel in ("red", "blue")
        }
        seen = {key: EventLog(peer) for key, peer in peers.items()}
        for (_, channel), peer in peers.items():
            await peer.join(channel)
        remotes = {key: await met(peer, seen[key]) for key, peer in peers.items()}
        logs = {key: EventLog(remote) for key, remote in remotes.items()}
        levels = {("a", "red"): 40, ("a", "blue"): 90, ("b", "red"): 140, ("b", "blue"): 200}
        streams = {}
        for key, level in levels.items():
            streams[key] = MediaStream([GreyTrack(level)])
            peers[key].add_stream(streams[key], {"level": level})
        for (name, channel), level in levels.items():
            other = "b" if name == "a" else "a"
            event = await logs[other, channel].until(Track)
            await shows(event.track, level)
            assert event.metadata == {"level": level}
        peers["a", "red"].remove_stream(streams["a", "red"])
        assert (await logs["b", "red"].until(StreamRemoved)).stream.id == streams["a", "red"].id
        assert not logs["b", "blue"].of(StreamRemoved)
        assert all(len(log.of(StreamAdded)) == 1 and not log.of(ConnectionReset) for log in logs.values())
        await asyncio.gather(*(peer.close() for peer in peers.values()))


async def test_data_reaches_the_channel_and_direct_messages_who_knows_the_sender(room: Room) -> None:
    async with shared(room, "a") as client:
        red, blue = seat(room, client), seat(room, client)
        await red.join("red")
        await blue.join("blue")
        there, stranger = room.peer("b"), room.peer("c")
        await there.join("blue")
        await stranger.join("green")
        seen_red, seen_blue = EventLog(red), EventLog(blue)
        await there.send("all")
        await there.send_to("a", "you")
        await stranger.send_to("a", "anybody")
        await seen_blue.until(Data, 3)
        assert [event.data for event in seen_blue.of(Data)] == ["all", "you", "anybody"]
        assert [event.data for event in seen_red.of(Data)] == ["anybody"]
        await asyncio.gather(red.close(), blue.close())


async def test_a_lost_connection_to_the_server_concerns_all_and_resets_nobody(room: Room) -> None:
    async with Wire(room.server.port) as wire, shared(room, "a", wire.url, reconnect=QUICK) as client:
        red, blue = seat(room, client), seat(room, client)
        seen_red, seen_blue = EventLog(red), EventLog(blue)
        there_red, there_blue = room.peer("b"), room.peer("c")
        for peer, channel in ((red, "red"), (blue, "blue"), (there_red, "red"), (there_blue, "blue")):
            await peer.join(channel)
        logs = []
        for peer, seen in ((red, seen_red), (blue, seen_blue)):
            remote = await met(peer, seen)
            logs.append(EventLog(remote))
            peer.add_track(GreyTrack())
            await state_of(remote, "connected")
        wire.break_off(told=True)
        await asyncio.gather(state_of(red, "reconnecting"), state_of(blue, "reconnecting"))
        await asyncio.gather(state_of(red, "joined"), state_of(blue, "joined"))
        assert all(not log.of(ConnectionReset) for log in logs)
        assert not seen_red.of(PeerLeft)
        assert not seen_blue.of(PeerLeft)
        await asyncio.gather(red.close(), blue.close())


async def test_closing_the_client_ends_its_peers(room: Room) -> None:
    async with shared(room, "a") as client:
        one, other = seat(room, client), seat(room, client)
        await one.join("red")
        seen = EventLog(one)
        await client.close()
        assert (await seen.until(Left)).reason == "the signalling client was closed"
        await one.close()
        assert (one.state, other.state) == ("closed", "idle")
        await other.join("blue")  # connects it again
        assert client.state == "connected"
        await other.close()


async def test_a_join_that_fails_leaves_the_client_as_it_is(room: Room) -> None:
    async with shared(room, "a", "ws://127.0.0.1:9") as client:
        peer = seat(room, client)
        with pytest.raises(SignallingConnectError):
            await peer.join("room")
        assert (peer.state, client.state) == ("idle", "closed")
    async with shared(room, "b") as client:
        one, other = seat(room, client), seat(room, client)
        await one.join("red")
        with pytest.raises(ValueError, match="channel"):
            await other.join("")
        assert (one.state, other.state, client.state) == ("joined", "idle", "connected")
        await one.close()
