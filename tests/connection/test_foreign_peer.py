"""A peer beside one of another make, which the wire and the standards are all that it shares with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from metered_realtime import (
    DataChannel,
    IceCandidateError,
    MediaStream,
    MeteredPeer,
    NegotiationError,
    PeerJoined,
    RemotePeer,
    StreamAdded,
    StreamRemoved,
    Track,
)
from tests.support.foreign import ForeignPeer
from tests.support.peers import EventLog, GreyTrack, Room, eventually, fresh_frames, shows, state_of


class Meeting:
    """Our peer `m`, which is the polite one or not, and the other."""

    def __init__(self, ours: MeteredPeer, remote: RemotePeer, theirs: ForeignPeer) -> None:
        self.ours, self.remote, self.theirs = ours, remote, theirs
        self.log = EventLog(remote)


@pytest.fixture(params=["polite", "impolite"])
async def meeting(request: pytest.FixtureRequest, room: Room) -> AsyncIterator[Meeting]:
    ours = room.peer("m")
    log = EventLog(ours)
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, "z" if request.param == "polite" else "a")
    yield Meeting(ours, (await log.until(PeerJoined)).peer, theirs)
    await theirs.close()


async def test_who_has_nothing_to_offer_sends_nothing_but_what_the_program_sends(meeting: Meeting) -> None:
    await meeting.remote.send("hello")
    await eventually(lambda: meeting.theirs.data == ["hello"])
    assert meeting.theirs.directs == 1


async def test_an_offer_of_media_alone_is_answered_and_nothing_is_offered_back(meeting: Meeting) -> None:
    """Who renegotiates right after it connected would collide with an offer that nobody needs."""
    theirs = meeting.theirs
    for count, level in enumerate((60, 200), 1):
        theirs.pc.addTrack(GreyTrack(level))
        await theirs.offer("m")
        await shows((await meeting.log.until(Track, count)).track, level)
        await eventually(lambda: theirs.pc.connectionState == "connected")
    await meeting.ours.send_to(meeting.remote.id, "done")
    await eventually(lambda: theirs.data == ["done"])
    assert theirs.descriptions == ["answer", "answer"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_data_channel_gets_its_section_when_the_remote_offered_media_alone(meeting: Meeting, when: str) -> None:
    theirs, remote = meeting.theirs, meeting.remote
    theirs.pc.addTrack(GreyTrack())
    await theirs.pc.setLocalDescription(await theirs.pc.createOffer())
    if when == "before":
        channel = DataChannel(remote.create_data_channel("late"))
    await theirs.offer("m")
    await state_of(remote, "connected")
    if when == "after":
        channel = DataChannel(remote.create_data_channel("late"))
    await channel.wait_open()
    await eventually(lambda: [it.label for it in theirs.channels] == ["late"])
    assert theirs.descriptions[-2:] == ["answer", "offer"]


async def test_candidates_may_come_before_the_description_that_ends_with_them(meeting: Meeting) -> None:
    """werift tells of each candidate while it gathers, and offers or answers after that."""
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(60))
    await theirs.pc.setLocalDescription(await theirs.pc.createOffer())
    sdp = theirs.pc.localDescription.sdp
    assert "a=end-of-candidates" in sdp
    ufrag = sdp.split("a=ice-ufrag:")[1].split()[0]
    for line in {it for it in sdp.splitlines() if it.startswith("a=candidate:")}:
        candidate = {"candidate": line.removeprefix("a="), "sdpMid": "0", "usernameFragment": ufrag}
        await theirs.request(type="send", to="m", data={"type": "rtc-ice", "candidate": candidate})
    description = {"type": "rtc-description", "description": {"type": "offer", "sdp": sdp}}
    await theirs.request(type="send", to="m", data=description)
    await shows((await meeting.log.until(Track)).track, 60)
    assert meeting.remote.stats().generation == 1


async def test_a_track_may_be_in_several_streams(meeting: Meeting) -> None:
    """A browser's `addTrack(track, first, second)` gives its section two msid lines (RFC 8829 section 5.2.1)."""
    theirs, log = meeting.theirs, meeting.log
    sender = theirs.pc.addTrack(GreyTrack())
    msid = f"a=msid:{sender._stream_id} {sender._track_id}\r\n"

    def in_streams(*names: str) -> Callable[[str], str]:
        return lambda sdp: sdp.replace(msid, "".join(f"a=msid:{name} {sender._track_id}\r\n" for name in names))

    await theirs.offer("m", in_streams("first", "second"))
    first, second = (await log.until(StreamAdded, 1)).stream, (await log.until(StreamAdded, 2)).stream
    (told,) = log.of(Track)
    assert told.streams == (first, second) == tuple(meeting.remote.streams)
    assert [(it.id, it.get_tracks()) for it in told.streams] == [("first", [told.track]), ("second", [told.track])]
    assert log.kinds().index("Track") < log.kinds().index("StreamAdded")
    await eventually(lambda: theirs.pc.connectionState == "connected")
    await theirs.offer("m", in_streams("second"))
    assert (await log.until(StreamRemoved)).stream is first
    assert (await log.until(Track, 2)).streams == (second,)
    assert len(log.of(StreamAdded)) == 2


@pytest.mark.parametrize("peer_id", ["a", "z"])
async def test_metadata_is_the_last_thing_said_before_the_offer_that_carries_its_track(
    room: Room, peer_id: str
) -> None:
    ours, track = room.peer("m"), GreyTrack()
    ours.add_track(track, MediaStream([track], id="camera"), {"title": "x"})
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, peer_id)
    await eventually(lambda: theirs.pc.connectionState == "connected")
    metadata = {"trackId": track.id, "metadata": {"title": "x"}, "kind": "video", "streamId": "camera"}
    assert theirs.metadata[-1] == metadata
    await theirs.close()


async def test_metadata_of_a_track_in_a_section_that_this_end_offered_arrives_under_another_id(
    meeting: Meeting,
) -> None:
    """The track id that the metadata names is in no description: the sender of a reused section keeps its own."""
    theirs, log, ours = meeting.theirs, meeting.log, GreyTrack()
    meeting.ours.add_track(ours, MediaStream([ours]))
    await eventually(lambda: theirs.pc.connectionState == "connected")
    track = GreyTrack(200)
    theirs.pc.addTrack(track)
    named = {"trackId": track.id, "metadata": {"title": "x"}}
    await theirs.request(type="send", to="m", data={"__meteredTrackMeta": named})
    await theirs.offer("m", lambda sdp: sdp.replace(track.id, "another-id"))
    told = await log.until(Track)
    assert (told.track.id, told.metadata) == ("another-id", {"title": "x"})
    await shows(told.track, 200)


async def test_what_is_left_out_of_a_description_is_counted_and_told(meeting: Meeting) -> None:
    theirs, remote = meeting.theirs, meeting.remote
    theirs.pc.addTrack(GreyTrack(60))
    odd = "a=fmtp:97\r\na=ssrc:1\r\na=candidate:1 1 udp 1 224.0.0.1 9 typ host\r\n"
    await theirs.offer("m", lambda sdp: sdp.replace("a=rtcp-mux\r\n", f"a=rtcp-mux\r\n{odd}"))
    await shows((await meeting.log.until(Track)).track, 60)
    (refused,) = meeting.log.of(IceCandidateError)
    assert "224.0.0.1" in str(refused.err)
    assert (remote.stats().description_lines_skipped, remote.stats().candidates_refused) == (2, 1)
    assert meeting.log.of(NegotiationError) == []


async def test_a_description_of_any_size_leaves_the_connection_alone(meeting: Meeting) -> None:
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(60))
    await theirs.offer("m")
    track = (await meeting.log.until(Track)).track
    await shows(track, 60)
    feedback = "".join(f"a=rtcp-fb:* x{number}\r\n" for number in range(1500))
    await theirs.offer("m", lambda sdp: sdp.replace("a=rtpmap", f"{feedback}a=rtpmap", 1))
    await eventually(lambda: len(theirs.descriptions) == 2)
    await theirs.offer("m", lambda sdp: sdp.partition("m=")[0])
    assert "no sections" in str((await meeting.log.until(NegotiationError)).err)
    await fresh_frames(track)
    assert meeting.remote.stats().generation == 1
