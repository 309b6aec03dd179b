"""Media between two peers over real UDP: it arrives, grouped and described, and follows every change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    MediaStream,
    MeteredPeerOversizedError,
    MeteredPeerReplaceTrackError,
    MeteredPeerStateError,
    NegotiationError,
    PeerJoined,
    StreamAdded,
    StreamRemoved,
    Track,
    TrackEnded,
)
from metered_realtime.connection import remote_media
from metered_realtime.media.sources.testsource import ToneTrack
from metered_realtime.mesh import peer as peer_module
from tests.support.inside import connection_of
from tests.support.patience import PATIENCE
from tests.support.peers import (
    EventLog,
    GreyTrack,
    Room,
    ended,
    eventually,
    frames,
    fresh_frames,
    shows,
)


def receive_all(peer: Any) -> list[Any]:
    """Return a list that fills with the tracks that anybody sends to a peer."""
    received: list[Any] = []

    def on_peer(event: PeerJoined) -> None:
        event.peer.on(Track, lambda it: received.append(it.track))

    peer.on(PeerJoined, on_peer)
    return received


@pytest.mark.smoke
@pytest.mark.every_path
async def test_video_and_audio_flow_both_ways_with_their_metadata(room: Room) -> None:
    pair = await room.pair()
    for peer, level in ((pair.a, 60), (pair.b, 200)):
        stream = MediaStream([GreyTrack(level), ToneTrack()], id=f"camera-{level}")
        peer.add_stream(stream, {"level": level})
    for log, level in ((pair.log_a, 200), (pair.log_b, 60)):
        await log.until(Track, 2)
        tracks = {event.track.kind: event for event in log.of(Track)}
        assert set(tracks) == {"audio", "video"}
        for event in tracks.values():
            assert event.metadata == {"level": level}
            assert [stream.id for stream in event.streams] == [f"camera-{level}"]
        await shows(tracks["video"].track, level)
        sound = (await frames(tracks["audio"].track, 2))[0]
        assert (sound.sample_rate, sound.samples) == (48_000, 960)


@pytest.mark.every_path
async def test_one_connection_carries_everything_of_a_pair(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    before = pair.to_a.pc, pair.to_b.pc
    await pair.media_to_a()
    pair.a.add_track(ToneTrack())
    await pair.log_b.until(Track, 2)
    pair.to_b.create_data_channel("chat")
    assert (pair.to_a.pc, pair.to_b.pc) == before
    assert pair.log_a.of(ConnectionReset) == pair.log_b.of(ConnectionReset) == []
    transports = {it.receiver.transport for it in pair.to_b.pc.getTransceivers()} | {pair.to_b.pc.sctp.transport}
    assert len(transports) == 1


async def test_a_stream_is_added_after_its_first_track_and_once(room: Room) -> None:
    pair = await room.pair()
    stream = MediaStream([GreyTrack(), ToneTrack()])
    pair.a.add_stream(stream, {"name": "camera"})
    await pair.log_b.until(Track, 2)
    await pair.log_b.until(StreamAdded)
    kinds = [kind for kind in pair.log_b.kinds() if kind in ("Track", "StreamAdded")]
    assert kinds == ["Track", "StreamAdded", "Track"]
    (added,) = pair.log_b.of(StreamAdded)
    assert (added.stream.id, added.metadata) == (stream.id, {"name": "camera"})
    assert all(event.streams == (added.stream,) for event in pair.log_b.of(Track))
    assert len(added.stream.get_tracks()) == 2
    assert pair.to_a.streams == [added.stream]


async def test_a_track_without_a_stream_has_none(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    pair.a.add_track(track, metadata={"alone": True})
    event = await pair.log_b.until(Track)
    assert (event.streams, event.metadata, event.track.id) == ((), {"alone": True}, track.id)
    await frames(event.track)
    assert pair.log_b.of(StreamAdded) == []


async def test_each_track_has_the_metadata_it_was_added_with(room: Room) -> None:
    pair = await room.pair()
    stream = MediaStream(id="both")
    for name, level in (("front", 60), ("back", 200)):
        pair.a.add_track(GreyTrack(level), stream, {"name": name})
    await pair.log_b.until(Track, 2)
    by_name = {event.metadata["name"]: event.track for event in pair.log_b.of(Track) if event.metadata}
    await shows(by_name["front"], 60)
    await shows(by_name["back"], 200)
    await shows(by_name["front"], 60)


@pytest.mark.every_path
async def test_somebody_who_comes_late_receives_everything(room: Room) -> None:
    pair = await room.pair()
    pair.a.add_stream(MediaStream([GreyTrack(60)], id="s"), {"from": "a"})
    await pair.media_to_a(200)
    late = room.peer("c")
    joined = EventLog(late)
    logs: dict[str, EventLog] = {}
    late.on(PeerJoined, lambda event: logs.setdefault(event.peer.id, EventLog(event.peer)))
    await late.join("room")
    await joined.until(PeerJoined, 2)
    from_a = await logs["a"].until(Track)
    assert (from_a.metadata, from_a.streams[0].id) == ({"from": "a"}, "s")
    await shows(from_a.track, 60)
    await shows((await logs["b"].until(Track)).track, 200)


@pytest.mark.every_path
async def test_tracks_added_during_the_call_arrive(room: Room) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(60)
    for level in (120, 200):
        _, received = await pair.media_to_b(level)
        await shows(first, 60)
        await shows(received, level)


async def test_both_ends_adding_at_the_same_moment_again_and_again_disturbs_nothing(room: Room) -> None:
    pair = await room.pair()
    received: dict[int, Any] = {}
    for round_ in range(1, 4):
        levels = 40 * round_, 40 * round_ + 20
        for peer, level in zip((pair.a, pair.b), levels, strict=True):
            track = GreyTrack(level)
            peer.add_track(track, MediaStream([track]))
        received[levels[0]] = (await pair.log_b.until(Track, round_)).track
        received[levels[1]] = (await pair.log_a.until(Track, round_)).track
        for level, track in received.items():
            await shows(track, level)
            await fresh_frames(track)
    for log in (pair.log_a, pair.log_b):
        assert log.of(ConnectionReset) == log.of(NegotiationError) == []


@pytest.mark.every_path
async def test_glare_at_the_very_start_needs_no_second_connection(room: Room) -> None:
    peers = room.peer("a"), room.peer("b")
    tracks = [receive_all(peer) for peer in peers]
    resets: list[Any] = []
    for peer in peers:
        peer.on(PeerJoined, lambda event: event.peer.on(ConnectionReset, resets.append))
        peer.add_track(GreyTrack())
    await asyncio.gather(*(peer.join("room") for peer in peers))
    await eventually(lambda: all(len(received) == 1 for received in tracks))
    for (received,) in tracks:
        await frames(received)
    assert resets == []


@pytest.mark.parametrize("first", ["a", "b"])
async def test_the_impolite_end_offers_at_once_to_an_end_of_this_make(
    room: Room, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "MEETING_TIME", 2 * PATIENCE)
    peers = [room.peer("a"), room.peer("b")]
    polite, impolite = peers
    received = receive_all(polite)
    impolite.add_track(GreyTrack())
    await room.join(*(peers if first == "a" else reversed(peers)))
    await eventually(lambda: len(received) == 1)
    await frames(received[0])


@pytest.mark.every_path
async def test_a_removed_stream_is_told_and_its_track_ends(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    stream = MediaStream([track])
    pair.a.add_stream(stream)
    received = (await pair.log_b.until(Track)).track
    added = (await pair.log_b.until(StreamAdded)).stream
    await frames(received)
    pair.a.remove_stream(stream)
    assert (await pair.log_b.until(StreamRemoved)).stream is added
    await ended(received)
    assert pair.to_a.streams == []
    assert track.readyState == "live", "the local track belongs to the program"


async def test_a_stream_is_removed_with_its_last_track(room: Room) -> None:
    pair = await room.pair()
    video, audio = GreyTrack(), ToneTrack()
    pair.a.add_stream(MediaStream([video, audio]))
    await pair.log_b.until(Track, 2)
    by_kind = {event.track.kind: event.track for event in pair.log_b.of(Track)}
    pair.a.remove_track(video)
    await ended(by_kind["video"])
    assert pair.log_b.of(StreamRemoved) == []
    await fresh_frames(by_kind["audio"])
    pair.a.remove_track(audio)
    await pair.log_b.until(StreamRemoved)
    await ended(by_kind["audio"])


async def test_what_is_added_again_after_a_removal_flows_again(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack(60)
    stream = MediaStream([track])
    for count in range(1, 4):
        pair.a.add_stream(stream)
        received = (await pair.log_b.until(Track, count)).track
        await shows(received, 60)
        pair.a.remove_stream(stream)
        await pair.log_b.until(StreamRemoved, count)
        await ended(received)
    _, other = await pair.media_to_b(200)
    await frames(other)


async def test_sections_are_used_again_once_there_are_many(room: Room) -> None:
    pair = await room.pair()
    for count in range(1, 13):
        track = GreyTrack(40 + 10 * count)
        pair.a.add_track(track, MediaStream([track]), {"count": count})
        event = await pair.log_b.until(Track, count)
        assert event.metadata == {"count": count}
        await shows(event.track, track.level)
        pair.a.remove_track(track)
        await pair.log_b.until(StreamRemoved, count)
    assert len(pair.to_b.pc.getTransceivers()) == 8


@pytest.mark.parametrize("stop_old", [False, True])
@pytest.mark.every_path
async def test_replace_track_switches_without_a_negotiation(room: Room, stop_old: bool) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    offers = pair.to_b.pc.localDescription.sdp
    new = GreyTrack(200)
    await pair.a.replace_track(old, new)
    if stop_old:
        old.stop()
    await shows(received, 200)
    assert await fresh_frames(received)
    assert pair.to_b.pc.localDescription.sdp == offers
    assert len(pair.log_b.of(Track)) == 1
    made = old.frames_made
    await fresh_frames(received, 5)
    assert old.frames_made <= made + 1, "nobody reads the old track any more"


async def test_replace_track_again_and_back(room: Room) -> None:
    pair = await room.pair()
    first, received = await pair.media_to_b(60)
    second = GreyTrack(200)
    for old, new in ((first, second), (second, first), (first, second)):
        await pair.a.replace_track(old, new)
        await shows(received, new.level)


async def test_replace_track_by_another_size_of_picture(room: Room) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    await pair.a.replace_track(old, GreyTrack(200, width=320, height=240))
    await shows(received, 200)
    (frame,) = await fresh_frames(received, 1)
    assert (frame.width, frame.height) == (320, 240)


async def test_replace_track_before_joining_and_for_those_who_come_later(room: Room) -> None:
    one, other = room.peer("a"), room.peer("b")
    received = receive_all(other)
    old, new = GreyTrack(60), GreyTrack(200)
    one.add_track(old, MediaStream([old]), {"name": "x"})
    await one.replace_track(old, new)
    assert one.get_track_metadata(new) == {"name": "x"}
    assert one.get_track_metadata(old) is None
    await room.join(one, other)
    await eventually(lambda: received)
    assert received[0].id == new.id
    await shows(received[0], 200)


async def test_replace_track_with_nothing_silences_and_forgets_the_track(room: Room) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    await pair.a.replace_track(old, None)
    made = old.frames_made
    assert pair.a.get_track_metadata(old) is None
    _, other = await pair.media_to_b(200)  # the next negotiation tells that nothing comes any more
    await ended(received)
    await frames(other)
    assert old.frames_made <= made + 1


async def test_replace_track_refuses_what_does_not_fit(room: Room) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    attached = ToneTrack()
    pair.a.add_track(attached)
    for arguments, expected in (
        ((None, old), TypeError),
        ((old, object()), TypeError),
        ((old, ToneTrack()), ValueError),
    ):
        with pytest.raises(expected):
            await pair.a.replace_track(*arguments)
    other = GreyTrack()
    pair.a.add_track(other)
    with pytest.raises(MeteredPeerStateError) as error:
        await pair.a.replace_track(old, other)
    assert (error.value.code, error.value.method) == ("track_already_attached", "replace_track")
    await pair.a.replace_track(GreyTrack(), GreyTrack())  # nobody carries it: nothing to do
    await pair.a.replace_track(old, old)
    await shows(received, 60)


async def test_a_replacement_that_fails_on_one_peer_is_told_and_can_be_finished(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = room.peer("a")
    old, new = GreyTrack(60), GreyTrack(200)
    sender.add_track(old, MediaStream([old]), {"name": "x"})
    received = {}
    for name in ("b", "c"):
        receiver = room.peer(name)
        tracks = receive_all(receiver)
        await room.join(*([sender] if sender.state == "idle" else []), receiver)
        await eventually(lambda tracks=tracks: tracks)
        received[name] = tracks[0]
        await shows(tracks[0], 60)
    broken = connection_of(next(remote for remote in sender.remote_peers if remote.id == "b"))

    def refuse(*_: object) -> bool:
        raise RuntimeError("the sender is broken")

    with monkeypatch.context() as patch:
        patch.setattr(broken, "replace", refuse)
        with pytest.raises(MeteredPeerReplaceTrackError) as error:
            await sender.replace_track(old, new)
    assert error.value.succeeded == ("c",)
    assert [(it.peer_id, type(it.err)) for it in error.value.failed] == [("b", RuntimeError)]
    assert sender.get_track_metadata(new) == {"name": "x"}
    await shows(received["c"], 200)
    await shows(received["b"], 60)
    await fresh_frames(received["b"])
    await sender.replace_track(old, new)
    await shows(received["b"], 200)
    made = old.frames_made
    await fresh_frames(received["b"], 5)
    assert old.frames_made <= made + 1


async def test_a_replacement_that_fails_everywhere_keeps_the_old_track(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)

    def refuse(*_: object) -> bool:
        raise RuntimeError("the sender is broken")

    monkeypatch.setattr(connection_of(pair.to_b), "replace", refuse)
    with pytest.raises(MeteredPeerReplaceTrackError) as error:
        await pair.a.replace_track(old, GreyTrack(200))
    assert error.value.succeeded == ()
    monkeypatch.undo()
    await shows(received, 60)
    pair.a.remove_track(old)
    await ended(received)


async def test_a_track_belongs_to_one_stream(room: Room) -> None:
    peer = room.peer("a")
    track = GreyTrack()
    stream = MediaStream([track])
    peer.add_track(track, stream, {"n": 1})
    peer.add_track(track, stream, {"n": 2})
    assert peer.get_track_metadata(track) == {"n": 1}
    for other in (None, MediaStream([track])):
        with pytest.raises(MeteredPeerStateError) as error:
            peer.add_track(track, other)
        assert (error.value.code, error.value.method) == ("track_already_attached", "add_track")
    mixed = MediaStream([GreyTrack(), track])
    with pytest.raises(MeteredPeerStateError) as error:
        peer.add_stream(mixed, {"n": 3})
    assert error.value.method == "add_stream"
    assert peer.get_stream_metadata(mixed) is None, "nothing of a stream is attached if one track cannot be"


async def test_metadata_that_is_too_large_is_remembered_nowhere(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    stream = MediaStream([track])
    with pytest.raises(MeteredPeerOversizedError) as error:
        pair.a.add_stream(stream, {"text": "ä" * 40_000})
    assert error.value.cap == 65_536
    assert error.value.size > 80_000
    assert pair.a.get_track_metadata(track) is None
    assert pair.a.get_stream_metadata(stream) is None
    pair.a.add_stream(stream, {"text": "ä" * 10_000})
    event = await pair.log_b.until(Track)
    assert event.metadata == {"text": "ä" * 10_000}
    late = room.peer("c")
    seen = EventLog(late)
    await late.join("room")
    remote = next(
        it.peer for it in [await seen.until(PeerJoined), await seen.until(PeerJoined, 2)] if it.peer.id == "a"
    )
    assert (await EventLog(remote).until(Track)).metadata == {"text": "ä" * 10_000}


async def test_metadata_is_copied_when_it_is_given_and_when_it_is_asked_for(room: Room) -> None:
    peer = room.peer("a")
    track = GreyTrack()
    stream = MediaStream([track])
    given = {"n": 1}
    peer.add_stream(stream, given)
    given["n"] = 2
    asked = peer.get_stream_metadata(stream)
    assert asked == {"n": 1}
    asked["n"] = 3
    assert peer.get_track_metadata(track) == {"n": 1}


async def test_what_is_no_track_no_stream_and_no_metadata_is_refused(room: Room) -> None:
    peer = room.peer("a")
    with pytest.raises(TypeError):
        peer.add_track(object())
    with pytest.raises(TypeError):
        peer.add_track(GreyTrack(), "stream")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        peer.add_stream(GreyTrack())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        peer.add_track(GreyTrack(), metadata=[1])  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        peer.add_track(GreyTrack(), metadata={"x": object()})
    peer.remove_track(GreyTrack())
    peer.remove_stream(MediaStream())


async def test_in_a_mesh_of_four_everybody_receives_from_everybody(room: Room) -> None:
    levels = dict(zip("abcd", (40, 90, 140, 190), strict=True))
    received: dict[tuple[str, str], Any] = {}

    def watch(name: str, event: PeerJoined) -> None:
        event.peer.on(Track, lambda it: received.__setitem__((event.peer.id, name), it.track))

    peers = [room.peer(name) for name in levels]
    for peer, (name, level) in zip(peers, levels.items(), strict=True):
        peer.on(PeerJoined, lambda event, name=name: watch(name, event))
        track = GreyTrack(level)
        peer.add_track(track, MediaStream([track]))
    await asyncio.gather(*(peer.join("room") for peer in peers))
    await eventually(lambda: len(received) == 12)
    for (sender, _), track in received.items():
        await shows(track, levels[sender])


@pytest.mark.every_path
async def test_a_track_that_nobody_reads_does_not_pile_up(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    pair.a.add_track(track)
    received = (await pair.log_b.until(Track)).track
    await eventually(lambda: received.frames_dropped >= 10)
    assert received.frames_received - received.frames_dropped <= 4
    (newest,) = await frames(received, 1)
    assert received.frames_received - newest.pts * 20 // 90_000 <= 8, "a slow reader gets the newest pictures"


async def test_a_local_track_that_never_waits_does_not_stop_the_world(room: Room) -> None:
    class Eager(GreyTrack):
        async def recv(self) -> Any:
            self._pacer = _NoPacer()
            return await super().recv()

    class _NoPacer:
        async def wait(self) -> None:
            """Return at once, which a careless source might."""

    pair = await room.pair()
    pair.a.add_track(Eager())
    await frames((await pair.log_b.until(Track)).track, 5)
    async with asyncio.timeout(PATIENCE):
        await pair.a.close()


async def test_a_local_track_that_ends_is_silent_and_the_section_can_be_given_another(room: Room) -> None:
    pair = await room.pair()
    old, received = await pair.media_to_b(60)
    old.stop()
    await pair.a.replace_track(old, GreyTrack(200))
    await shows(received, 200)


@pytest.mark.every_path
async def test_tracks_end_when_the_remote_leaves(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b()
    await pair.a.close()
    await ended(received)
    assert pair.to_a.state == "closed"


async def test_the_local_track_is_pulled_only_while_somebody_receives_it(room: Room) -> None:
    sender = room.peer("a")
    track = GreyTrack()
    sender.add_track(track)
    await sender.join("room")
    receiver = room.peer("b")
    tracks = receive_all(receiver)
    assert track.frames_made == 0
    await receiver.join("room")
    await eventually(lambda: tracks)
    await frames(tracks[0])
    await receiver.close()
    await eventually(lambda: not sender.remote_peers)
    made = track.frames_made
    await asyncio.sleep(0.3)  # nothing tells that nothing happens
    assert track.frames_made <= made + 1


async def test_what_was_removed_while_the_connection_was_replaced_is_told_once_and_nothing_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_media, "RETURN_TIMEOUT", 0.5)
    pair = await room.pair()
    kept, gone = MediaStream([GreyTrack(60)]), MediaStream([GreyTrack(120)])
    pair.a.add_stream(kept)
    pair.a.add_stream(gone)
    before = {stream.id: stream for stream in [(await pair.log_b.until(StreamAdded, n)).stream for n in (1, 2)]}
    await pair.connected()
    await pair.to_b.pc.close()
    pair.a.remove_stream(gone)
    await pair.log_b.until(ConnectionReset)
    assert (await pair.log_b.until(StreamRemoved)).stream is before[gone.id]
    assert [stream.id for stream in pair.to_a.streams] == [kept.id]
    assert len(pair.log_b.of(StreamRemoved)) == 1
    assert len(pair.log_b.of(TrackEnded)) == 1
    assert [event.stream.id for event in pair.log_b.of(StreamAdded)[2:]] == [kept.id]
    await frames(pair.to_a.streams[0].get_tracks()[0])
