"""The names of remotes: where they come from, and what happens when they change."""

from __future__ import annotations

from typing import Any

import pytest

from metered_realtime import MediaStream, MeteredPeer, NameChanged, SignallingClient, Track
from metered_realtime.core.negotiation.signals import name_signal
from tests.support.peers import EventLog, GreyTrack, Room


async def test_each_end_is_told_the_name_of_the_other_whoever_came_first(room: Room) -> None:
    pair = await room.meet(room.peer("a", name="Ann"), room.peer("b", name=" Bo\u202e\n"))
    await pair.log_a.holds(lambda: pair.to_b.name == "Bo")
    await pair.log_b.holds(lambda: pair.to_a.name == "Ann")
    assert pair.a.name == "Ann"
    assert pair.to_b.state == "idle"  # no connection was needed


async def test_a_change_of_name_is_told_on_the_remote_and_on_the_peer(room: Room) -> None:
    one, other = room.peer("a", name="Ann"), room.peer("b")
    log = EventLog(other)
    pair = await room.meet(one, other)
    assert pair.to_b.name is None
    await log.until(NameChanged, name="Ann")
    one.name = "Anna"
    assert (await pair.log_b.until(NameChanged, name="Anna")).peer is pair.to_a
    await log.until(NameChanged, name="Anna")
    one.name = None
    await pair.log_b.until(NameChanged, name=None)
    assert pair.to_a.name is None


async def test_a_name_that_stays_is_told_once(room: Room) -> None:
    pair = await room.meet(room.peer("a", name="Ann"), room.peer("b"))
    await pair.log_b.holds(lambda: pair.to_a.name == "Ann")
    pair.to_a._receive_metadata(name_signal("Ann"))
    pair.to_a._receive_metadata(name_signal("Ann\u202e"))
    pair.a.name = "Ann"
    pair.a.name = "Last"
    await pair.log_b.until(NameChanged, name="Last")
    assert [it.name for it in pair.log_b.of(NameChanged)][-2:] in (["Ann", "Last"], ["Last"])


async def test_the_name_that_the_backend_vouches_for_comes_first(room: Room) -> None:
    token = room.server.mint_token("a", peer_metadata={"displayName": "Dr. Ann"})
    one = MeteredPeer(token=token, url=room.server.url, name="Queen")
    room.peers.append(one)
    pair = await room.meet(one, room.peer("b"))
    await pair.a.send_to("b", "after the name")
    assert pair.to_a.name == "Dr. Ann"
    pair.to_a._receive_metadata(name_signal("Queen"))
    assert pair.to_a.name == "Dr. Ann"


async def test_the_name_in_the_metadata_of_a_track_is_a_name_and_stays(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    pair.a.add_track(track, MediaStream([track]), {"name": "Cam", "source": "camera"})
    await pair.log_b.until(Track)
    assert pair.to_a.name == "Cam"
    pair.to_a._receive_metadata(name_signal("Ann"))
    assert pair.to_a.name == "Ann"
    pair.to_a._receive_metadata(name_signal(None))
    assert pair.to_a.name == "Cam"


@pytest.mark.parametrize("bad", [7, b"Ann", ["Ann"]])
def test_a_name_is_text(bad: Any) -> None:
    with pytest.raises(TypeError, match="name must be a str"):
        MeteredPeer(client=SignallingClient(api_key="pk_live_x", url="ws://localhost"), name=bad)


def test_a_name_that_nobody_can_see_is_refused() -> None:
    peer = MeteredPeer(client=SignallingClient(api_key="pk_live_x", url="ws://localhost"), name="Ann")
    with pytest.raises(ValueError, match="can be seen"):
        peer.name = "\u202e "
    assert peer.name == "Ann"
