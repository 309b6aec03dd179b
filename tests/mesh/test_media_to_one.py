"""Tracks that one remote alone is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    LocalTrackEnded,
    MediaStream,
    MeteredPeer,
    MeteredPeerStateError,
    MeteredRealtimeError,
    PeerJoined,
    PeerLeft,
    RemotePeer,
    StreamAdded,
    Track,
    TrackEnded,
)
from metered_realtime.mesh.local_media import LocalMedia
from tests.support.peers import EventLog, GreyTrack, Room, ended, eventually, shows, state_of


@dataclass
class Trio:
    """Three joined peers: what a sees of the others, and how they see a."""

    a: MeteredPeer
    to: dict[str, RemotePeer]
    logs: dict[str, EventLog]


async def trio(room: Room) -> Trio:
    peers = {name: room.peer(name) for name in "abc"}
    seen = {name: EventLog(peer) for name, peer in peers.items()}
    await room.join(*peers.values())
    for log in seen.values():
        await log.until(PeerJoined, 2)
    to = {remote.id: remote for remote in peers["a"].remote_peers}
    logs = {name: EventLog(next(it for it in peers[name].remote_peers if it.id == "a")) for name in ("b", "c")}
    return Trio(peers["a"], to, logs)


async def test_a_track_for_one_reaches_that_one_alone_with_its_metadata(room: Room) -> None:
    it = await trio(room)
    whisper, shown = GreyTrack(60), GreyTrack(200)
    stream = MediaStream([whisper], id="whisper")
    it.to["b"].add_stream(stream, {"title": "for b"})
    it.a.add_track(shown, metadata={"title": "for all"})
    first = await it.logs["b"].until(Track)
    assert (first.metadata, [each.id for each in first.streams]) == ({"title": "for b"}, ["whisper"])
    await shows(first.track, 60)
    await shows((await it.logs["b"].until(Track, 2)).track, 200)
    await shows((await it.logs["c"].until(Track)).track, 200)
    assert [event.metadata for event in it.logs["c"].of(Track)] == [{"title": "for all"}]
    assert it.to["b"].get_track_metadata(whisper) == it.to["b"].get_stream_metadata(stream) == {"title": "for b"}
    assert it.a.get_track_metadata(whisper) is None


async def test_a_track_for_several_is_read_and_encoded_once(room: Room) -> None:
    it = await trio(room)
    track = GreyTrack()
    for remote in it.to.values():
        remote.add_track(track)
    for log in it.logs.values():
        await shows((await log.until(Track)).track, 128)
    fanouts = {remote._sent._fanout(track) for remote in it.to.values() if remote._sent is not None}
    (fanout,) = fanouts
    assert len(fanout._codecs) == 1
    assert len(fanout._forwards) == 2


async def test_it_is_replaced_and_removed_for_that_one(room: Room) -> None:
    pair = await room.pair()
    old, new = GreyTrack(60), GreyTrack(200)
    pair.to_b.add_track(old)
    received = (await pair.log_b.until(Track)).track
    await shows(received, 60)
    await pair.to_b.replace_track(old, new)
    await shows(received, 200)
    pair.to_b.remove_track(old)  # unknown by now
    pair.to_b.remove_track(new)
    await ended(received)
    assert (await pair.log_b.until(TrackEnded)).track is received


async def test_a_stream_for_one_is_removed_whole(room: Room) -> None:
    pair = await room.pair()
    stream = MediaStream([GreyTrack(), GreyTrack()])
    pair.to_b.add_stream(stream)
    await pair.log_b.until(Track, 2)
    pair.to_b.remove_stream(stream)
    await pair.log_b.until(TrackEnded, 2)


async def test_its_end_is_told_on_the_remote(room: Room) -> None:
    pair = await room.pair()
    peer_log = EventLog(pair.a)
    track = GreyTrack()
    pair.to_b.add_track(track)
    received = (await pair.log_b.until(Track)).track
    await shows(received, 128)
    track.stop()
    assert (await pair.log_a.until(LocalTrackEnded)).track is track
    await ended(received)
    assert peer_log.of(LocalTrackEnded) == []
    successor = GreyTrack(200)
    await pair.to_b.replace_track(track, successor)
    await shows((await pair.log_b.until(Track, 2)).track, 200)


async def test_it_comes_back_with_a_replaced_connection(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack(200)
    pair.to_b.add_track(track, MediaStream([track], id="s"), {"n": 1})
    await shows((await pair.log_b.until(Track)).track, 200)
    await pair.to_b.pc.close()
    await pair.log_b.until(ConnectionReset)
    again = await pair.log_b.until(Track, 2)
    await shows(again.track, 200)
    assert (again.metadata, again.streams[0].id) == ({"n": 1}, "s")
    await pair.log_b.until(StreamAdded, 2)


WAYS: dict[str, Callable[[RemotePeer, Any], Any]] = {
    "add": lambda remote, track: remote.add_track(track, MediaStream()),
    "remove": lambda remote, track: remote.remove_track(track),
    "replace": lambda remote, track: remote.replace_track(track, GreyTrack()),
    "replace by": lambda remote, track: remote.replace_track(GreyTrack(), track),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_everybody_gets_is_not_changed_for_one(room: Room, way: str) -> None:
    pair = await room.pair()
    track = GreyTrack()
    pair.a.add_track(track)
    pair.to_b.add_track(track)  # it gets the track already

    async def change() -> None:
        if (doing := WAYS[way](pair.to_b, track)) is not None:
            await doing

    with pytest.raises(MeteredPeerStateError, match="everybody") as raised:
        await change()
    assert raised.value.code == "track_already_attached"


@pytest.mark.parametrize("method", ["add_track", "remove_track"])
async def test_what_one_gets_is_not_changed_for_everybody(room: Room, method: str) -> None:
    pair = await room.pair()
    track = GreyTrack()
    pair.to_b.add_track(track)
    with pytest.raises(MeteredPeerStateError, match="one remote"):
        getattr(pair.a, method)(track)
    pair.to_b.remove_track(track)
    pair.a.add_track(track)
    await shows((await pair.log_b.until(Track)).track, 128)


async def test_a_remote_that_has_left_is_sent_nothing_and_its_tracks_are_released(room: Room) -> None:
    pair = await room.pair()
    track, log = GreyTrack(), EventLog(pair.a)
    pair.to_b.add_track(track)
    await shows((await pair.log_b.until(Track)).track, 128)
    sent = pair.to_b._sent
    assert isinstance(sent, LocalMedia)
    await pair.b.close()
    await log.until(PeerLeft)
    await eventually(lambda: not sent._leases and not pair.a._media._individual)
    with pytest.raises(MeteredRealtimeError, match="has left"):
        pair.to_b.add_track(track)
    pair.to_b.remove_track(track)
    assert track.readyState == "live"


async def test_ids_on_the_wire_are_not_used_again_for_another_section(room: Room) -> None:
    pair = await room.pair()
    first, second = GreyTrack(60), GreyTrack(200)
    pair.a.add_track(first)
    received = (await pair.log_b.until(Track)).track
    await pair.a.replace_track(first, second)  # the section keeps the id of the first
    pair.to_b.add_track(first)
    other = (await pair.log_b.until(Track, 2)).track
    assert other.id != received.id
    await shows(other, 60)
    await shows(received, 200)
    await state_of(pair.to_b, "connected")
