"""Leaving a channel without ending: what is told, what stays, and where one can go from there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    Data,
    Joined,
    Left,
    MediaStream,
    MeteredPeer,
    MeteredPeerSendError,
    MeteredPeerStateError,
    PeerJoined,
    PeerLeft,
    ReconnectOptions,
    StateChange,
    Track,
)
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.inside import signalling_client
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Room, Wire, eventually, frames, shows, state_of

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.05, max_attempts=1000)


async def test_leaving_tells_everybody_and_keeps_the_connection_to_the_server(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    seen, seen_by_b = EventLog(pair.a), EventLog(pair.b)
    client = signalling_client(pair.a)
    await pair.a.leave("lunch")
    assert (pair.a.state, pair.a.channel, pair.a.remote_peers) == ("idle", None, [])
    assert (pair.to_b.state, client.state, client.subscriptions) == ("closed", "connected", ())
    assert seen.kinds() == ["StateChange", "PeerLeft", "StateChange", "Left"]
    assert seen.of(Left) == [Left("a", "room", "lunch")]
    assert [event.to for event in seen.of(StateChange)] == ["leaving", "idle"]
    assert (await seen_by_b.until(PeerLeft)).peer is pair.to_a


async def test_one_can_come_back_with_everything_that_was_attached(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b(90)
    client, seen_by_b = signalling_client(pair.a), EventLog(pair.b)
    await pair.a.leave()
    await seen_by_b.until(PeerLeft)
    await pair.a.join("room")
    assert signalling_client(pair.a) is client
    back = (await seen_by_b.until(PeerJoined)).peer
    assert back is not pair.to_a
    await shows((await EventLog(back).until(Track)).track, 90)


async def test_one_can_go_to_another_channel(room: Room) -> None:
    pair = await room.pair()
    there = room.peer("c")
    await there.join("elsewhere")
    seen = EventLog(there)
    await pair.a.leave()
    await pair.a.join("elsewhere")
    assert pair.a.channel == "elsewhere"
    await seen.until(PeerJoined)
    await pair.a.send("hello")
    assert (await seen.until(Data)).data == "hello"
    assert not any(remote.id == "a" for remote in pair.b.remote_peers)


async def test_leaving_when_idle_does_nothing_and_in_other_states_says_so(room: Room) -> None:
    peer = room.peer("a")
    await peer.leave()
    assert peer.state == "idle"
    await peer.join("room")
    await peer.close()
    with pytest.raises(MeteredPeerStateError) as caught:
        await peer.leave()
    assert (caught.value.code, caught.value.method, caught.value.current_state) == ("invalid_state", "leave", "closed")


async def test_leaving_while_joining_is_refused_and_the_join_goes_on(room: Room) -> None:
    peer = room.peer("a")
    joining = asyncio.ensure_future(peer.join("room"))
    await asyncio.sleep(0)
    assert peer.state == "joining"
    with pytest.raises(MeteredPeerStateError):
        await peer.leave()
    await joining
    assert peer.state == "joined"


async def test_after_leaving_nothing_of_the_channel_arrives(room: Room) -> None:
    pair = await room.pair()
    await pair.a.leave()
    seen = EventLog(pair.a)
    await pair.b.send("to everybody")
    await pair.b.send_to("a", "to you")
    with pytest.raises(MeteredPeerSendError):
        await pair.a.send("x")
    await pair.a.join("room")
    await seen.until(PeerJoined)
    assert not seen.of(Data)


@pytest.mark.parametrize("where", ["joined", "peer_joined", "track", "direct"])
async def test_leave_may_be_awaited_in_any_handler(room: Room, where: str) -> None:
    one, other = room.peer("a"), room.peer("b")
    seen = EventLog(one)

    async def leave(event: Any) -> None:
        await one.leave()

    def on_remote(event: PeerJoined) -> None:
        event.peer.on(Track, leave)

    event_type, handler = {
        "joined": (Joined, leave),
        "peer_joined": (PeerJoined, leave),
        "track": (PeerJoined, on_remote),
        "direct": (Data, leave),
    }[where]
    one.once(event_type, handler)
    await other.join("room")
    await one.join("room")
    if where == "track":
        other.add_stream(MediaStream([GreyTrack()]))
    if where == "direct":
        await other.send_to("a", "go away")
    await seen.until(Left)
    assert one.state == "idle"
    await one.join("room")
    assert one.state == "joined"


async def test_leaving_twice_at_once_is_leaving_once(room: Room) -> None:
    pair = await room.pair()
    seen = EventLog(pair.a)
    await asyncio.gather(pair.a.leave(), pair.a.leave())
    assert len(seen.of(Left)) == 1


async def test_a_cancelled_leave_goes_on(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    seen = EventLog(pair.a)
    leaving = asyncio.ensure_future(pair.a.leave())
    await asyncio.sleep(0)
    leaving.cancel()
    await seen.until(Left)
    assert pair.a.state == "idle"


async def test_closing_while_leaving_ends_closed_with_one_left(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    seen = EventLog(pair.a)
    await asyncio.gather(pair.a.leave(), pair.a.close())
    assert pair.a.state == "closed"
    assert len(seen.of(Left)) == 1
    assert [event.to for event in seen.of(StateChange)] == ["leaving", "idle", "closed"]


async def test_closing_after_leaving_tells_no_second_left(room: Room) -> None:
    pair = await room.pair()
    await pair.a.leave()
    seen = EventLog(pair.a)
    await pair.a.close()
    assert seen.kinds() == ["StateChange"]


async def test_leaving_while_the_server_is_out_of_reach_forgets_the_channel(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=QUICK), room.peer("b"))
        wire.block()
        wire.break_off(told=True)
        await state_of(pair.a, "reconnecting")
        await pair.a.leave()
        assert (pair.a.state, signalling_client(pair.a).subscriptions) == ("idle", ())
        wire.unblock()
        await pair.a.join("elsewhere")
        assert pair.a.state == "joined"
        assert signalling_client(pair.a).subscriptions == ("elsewhere",)
        await pair.a.close()


async def test_joining_and_leaving_many_times_leaves_nothing_behind(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack(70)
    pair.a.add_track(track)
    seen_by_b = EventLog(pair.b)
    for turn in range(5):
        await pair.a.leave()
        await seen_by_b.until(PeerLeft, turn + 1)
        await pair.a.join("room")
        await seen_by_b.until(PeerJoined, turn + 1)
    latest = (await seen_by_b.until(PeerJoined, 5)).peer
    await frames((await EventLog(latest).until(Track)).track)
    assert len(pair.b.remote_peers) == 1
    await eventually(lambda: not pair.a._seen_off)


async def test_what_is_attached_in_between_is_sent_at_the_next_join(room: Room) -> None:
    pair = await room.pair()
    seen_by_b = EventLog(pair.b)
    await pair.a.leave()
    pair.a.add_track(GreyTrack(50), metadata={"name": "late"})
    await seen_by_b.until(PeerLeft)
    await pair.a.join("room")
    back = (await seen_by_b.until(PeerJoined)).peer
    event = await EventLog(back).until(Track)
    assert event.metadata == {"name": "late"}
    await shows(event.track, 50)


async def test_the_context_manager_of_a_peer_that_left_closes_it(room: Room) -> None:
    peer: MeteredPeer = room.peer("a")
    async with peer.joined("room"):
        await peer.leave()
    assert peer.state == "closed"


@pytest.mark.parametrize("turns", range(12))
async def test_a_connection_can_be_closed_at_any_moment_of_its_handshake(room: Room, turns: int) -> None:
    """What aiortc starts for media once TLS is up is not stopped by a close that began before."""
    pair = await room.pair()
    pair.a.add_track(ToneTrack())
    async with asyncio.timeout(PATIENCE):
        while not handshake_has_begun(pair.to_b.pc):  # noqa: ASYNC110 - every turn counts
            await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.gather(pair.a.close(), pair.b.close())


def handshake_has_begun(pc: Any) -> bool:
    return pc is not None and pc.sctp is not None and pc.sctp.transport.state != "new"
