"""Foreign ends that negotiate once: local tracks go into the sections that they offer, and they send in those offered
to them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from metered_realtime import ConnectionReset, MediaStream, MeteredPeer, PeerJoined, RemotePeer, Track
from metered_realtime.connection.offer import OfferPlan
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.sections import Outgoing
from metered_realtime.core.negotiation.sdp import Description, Section, sections
from metered_realtime.core.negotiation.sharing import Sharing
from metered_realtime.log import NoopLogger
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.mesh import peer as peer_module
from tests.connection.test_descriptions import Observer
from tests.support.foreign import ForeignPeer
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Room, eventually, fresh_frames, shows, state_of

MeetFn = Callable[..., Awaitable["Meeting"]]

METADATA = {"title": "clip"}


class Meeting:
    """A peer `m` and a foreign end that answers no offers."""

    def __init__(self, ours: MeteredPeer, remote: RemotePeer, theirs: ForeignPeer) -> None:
        self.ours, self.remote, self.theirs = ours, remote, theirs
        self.log = EventLog(remote)

    async def negotiate(self) -> dict[str, Section]:
        """Have the foreign end offer, and return the sections of the answer by mid."""
        answers = self.theirs.answers_received
        count = len(answers)
        await self.theirs.offer("m")
        await eventually(lambda: len(answers) > count)
        await eventually(lambda: self.theirs.pc.connectionState == "connected")
        await state_of(self.remote, "connected")
        return {section.mid: section for section in sections(answers[-1])}

    @property
    def offers(self) -> int:
        """The number of offers that the foreign end has received since it got an answer."""
        return self.theirs.descriptions[::-1].index("answer")


@pytest.fixture(params=["polite", "impolite"])
async def meet(request: pytest.FixtureRequest, room: Room, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MeetFn]:
    """Returns a meeting at which the peer sends tracks, and the foreign end has not done anything yet."""
    monkeypatch.setattr(peer_module, "MEETING_TIME", PATIENCE)  # an impolite peer offers only what has been asked for
    met = []

    async def meet(*tracks: Any, metadata: dict[str, Any] | None = None, answers: bool = False) -> Meeting:
        ours = room.peer("m")
        for track in tracks:
            ours.add_track(track, MediaStream([track]), metadata)
        log = EventLog(ours)
        await ours.join("room")
        theirs = await ForeignPeer.join(room.server, "z" if request.param == "polite" else "a", answers=answers)
        met.append(theirs)
        return Meeting(ours, (await log.until(PeerJoined)).peer, theirs)

    yield meet
    for theirs in met:
        await theirs.close()


def kinds_of(theirs: ForeignPeer) -> list[str]:
    return [track.kind for track in theirs.tracks]


async def test_a_player_receives_the_track_that_waits_under_its_own_ids(meet: MeetFn) -> None:
    track = GreyTrack(60)
    meeting = await meet(track, metadata=METADATA)
    theirs = meeting.theirs
    theirs.pc.addTransceiver("video", direction="recvonly")
    answer = await meeting.negotiate()
    await shows(theirs.tracks[0], 60)
    assert (answer["0"].direction, answer["0"].track_id) == ("sendonly", track.id)
    assert theirs.metadata[-1] == {
        "trackId": track.id,
        "metadata": METADATA,
        "kind": "video",
        "streamId": answer["0"].stream_ids[0],
    }
    ssrc = re.findall(r"a=ssrc:(\d+) cname", theirs.answers_received[-1])[0]
    assert str(meeting.remote.pc.getSenders()[0]._ssrc) == ssrc
    (sent,) = meeting.remote.stats().outbound
    assert (sent.track_id, sent.kind) == (track.id, "video")
    assert sent.codec == "video/VP8"
    assert sent.packets_sent > 0


async def test_a_camera_that_offers_both_ways_sends_and_receives_in_one_section(meet: MeetFn) -> None:
    meeting = await meet(GreyTrack(60))
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(200))
    answer = await meeting.negotiate()
    assert [it.direction for it in answer.values()] == ["sendrecv"]
    await shows(theirs.tracks[0], 60)
    received = await meeting.log.until(Track)
    await shows(received.track, 200)
    await fresh_frames(received.track)


async def test_nothing_is_offered_after_an_answer_that_has_everything(meet: MeetFn) -> None:
    """The end that negotiates once would not answer, and the peer would report that."""
    meeting = await meet(GreyTrack(60), AudioStreamTrack())
    theirs = meeting.theirs
    for kind in ("audio", "video"):
        theirs.pc.addTransceiver(kind, direction="recvonly")
    await meeting.negotiate()
    await shows(next(it for it in theirs.tracks if it.kind == "video"), 60)
    await meeting.ours.send_to(meeting.remote.id, "done")
    await eventually(lambda: theirs.data == ["done"])
    assert meeting.offers == 0


@pytest.mark.parametrize("peer_id", ["a", "z"])
async def test_an_end_that_only_answers_sends_in_the_sections_of_the_first_offer(room: Room, peer_id: str) -> None:
    ours = room.peer("m")
    log = EventLog(ours)
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, peer_id)
    theirs.pc.createDataChannel("x")  # aiortc stops a transport that it has made for media, and that data comes to use
    theirs.pc.addTrack(GreyTrack(200))
    remote = EventLog((await log.until(PeerJoined)).peer)
    ours.add_track(GreyTrack(60), metadata=METADATA)
    await eventually(lambda: theirs.tracks)
    await shows(theirs.tracks[0], 60)
    await shows((await remote.until(Track)).track, 200)
    assert theirs.descriptions == ["offer"]
    await theirs.close()


async def test_tracks_go_into_the_sections_of_their_kind_in_the_order_of_both(meet: MeetFn) -> None:
    tracks = [GreyTrack(60), AudioStreamTrack(), GreyTrack(120), GreyTrack(200)]
    meeting = await meet(*tracks)
    theirs = meeting.theirs
    for kind in ("video", "video", "audio", "audio"):
        theirs.pc.addTransceiver(kind, direction="recvonly")
    answer = await meeting.negotiate()
    assert [it.track_id for it in answer.values() if it.sends] == [tracks[0].id, tracks[2].id, tracks[1].id]
    assert [it.direction for it in answer.values()] == ["sendonly", "sendonly", "sendonly", "inactive"]
    shown = [it for it in theirs.tracks if it.kind == "video"]
    await shows(shown[0], 60)
    await shows(shown[1], 120)
    await eventually(lambda: theirs.descriptions[-1] == "offer")
    assert [it.track_id for it in sections(theirs.offers_received[-1])][-1] == tracks[3].id, (
        "it is offered in its own section"
    )


async def test_a_section_is_free_again_once_the_remote_knows_that_its_track_has_gone(meet: MeetFn) -> None:
    first, second = GreyTrack(60), GreyTrack(200)
    meeting = await meet(first)
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(128))
    await meeting.negotiate()
    received = (await meeting.log.until(Track)).track
    await shows(theirs.tracks[0], 60)
    meeting.theirs.answers = True
    meeting.ours.remove_track(first)
    await eventually(lambda: theirs.pc.getTransceivers()[0].currentDirection == "sendonly")
    meeting.theirs.answers = False
    count = len(theirs.descriptions)
    meeting.ours.add_track(second)
    await eventually(lambda: len(theirs.descriptions) > count)
    if meeting.remote.polite:
        answer = await meeting.negotiate()
        assert (answer["0"].direction, answer["0"].track_id) == ("sendrecv", second.id)
        await shows(theirs.tracks[0], 200)
    await fresh_frames(received)
    assert len(meeting.log.of(Track)) == 1


async def test_a_track_is_replaced_in_a_section_of_the_remote(meet: MeetFn) -> None:
    first, second = GreyTrack(60), GreyTrack(200)
    meeting = await meet(first)
    meeting.theirs.pc.addTransceiver("video", direction="recvonly")
    await meeting.negotiate()
    await shows(meeting.theirs.tracks[0], 60)
    await meeting.ours.replace_track(first, second)
    await shows(meeting.theirs.tracks[0], 200)


async def test_a_player_that_starts_over_receives_again(meet: MeetFn) -> None:
    meeting = await meet(GreyTrack(60), metadata=METADATA)
    theirs = meeting.theirs
    for count in (1, 2):
        theirs.pc.addTransceiver("video", direction="recvonly")
        answer = await meeting.negotiate()
        assert answer["0"].direction == "sendonly"
        await eventually(lambda count=count: len(theirs.tracks) == count)
        await shows(theirs.tracks[-1], 60)
        if count == 1:
            await theirs.start_over()
    assert meeting.remote.stats().generation == 2


async def test_natives_send_in_sections_of_their_own(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b(60)
    await pair.media_to_a(200)
    for remote in (pair.to_a, pair.to_b):
        directions = sorted(str(it.currentDirection) for it in remote.pc.getTransceivers())
        assert directions == ["recvonly", "sendonly"]
    assert pair.log_a.of(ConnectionReset) == []


class Ends:
    """A bare connection of aiortc, and one of this project with tracks that wait: no signalling, no candidates but in
    the descriptions."""

    def __init__(self, *kinds_and_codecs: tuple[str, str | None], has_metadata: bool = False) -> None:
        self.theirs = RTCPeerConnection()
        self.observer = Observer()
        self.ours = PeerConnection(self.observer, NoopLogger())
        self.tracks: list[Any] = []
        self.theirs.on("track", self.tracks.append)
        self.fanouts = [TrackFanout(_track(*it), NoopLogger()) for it in kinds_and_codecs]
        self.wanted = {
            place: Outgoing(it.track.kind, f"t{place}", "s", it, has_metadata) for place, it in enumerate(self.fanouts)
        }
        self.more: bool | None = None

    async def offer(self, sharing: Sharing = Sharing.ALL, change: Callable[[str], str] = str) -> list[Section]:
        """Have the bare connection offer, and return the sections of the answer."""
        await self.theirs.setLocalDescription(await self.theirs.createOffer())
        offer = Description.parse("offer", change(self.theirs.localDescription.sdp))
        text, self.more = await self.ours.answer(offer, self.wanted, sharing=sharing)
        await self.theirs.setRemoteDescription(RTCSessionDescription(text, "answer"))
        return sections(text)

    async def close(self) -> None:
        if self.theirs.remoteDescription is not None:  # closed earlier, aiortc leaves its connect behind
            await eventually(lambda: self.theirs.connectionState == "connected")
        await self.ours.close()
        for fanout in self.fanouts:
            await fanout.close()
        await self.theirs.close()


def _track(kind: str, codec: str | None) -> Any:
    track: Any = GreyTrack(60) if kind == "video" else AudioStreamTrack()
    if codec is not None:
        track.codec = codec
    return track


def codecs_of(sdp: str) -> list[str]:
    """Return the names of the codecs in the order of the first section's first line."""
    numbers = re.findall(r"m=\w+ \d+ \S+ (.*)\r", sdp)[0].split()
    names = dict(re.findall(r"a=rtpmap:(\d+) (\w+)/", sdp))
    return [names[number] for number in numbers]


@pytest.mark.parametrize(
    ("sharing", "has_metadata", "direction", "expected"),
    [
        (Sharing.ALL, True, "sendrecv", "sendrecv"),
        (Sharing.WITHOUT_METADATA, False, "sendrecv", "sendrecv"),
        (Sharing.WITHOUT_METADATA, True, "sendrecv", "recvonly"),
        (Sharing.WITHOUT_METADATA, True, "recvonly", "sendonly"),
        (Sharing.NONE, False, "sendrecv", "recvonly"),
        (Sharing.NONE, False, "recvonly", "inactive"),
        (Sharing.ALL, False, "sendonly", "recvonly"),
        (Sharing.ALL, False, "inactive", "inactive"),
    ],
)
async def test_which_tracks_share_a_section(
    sharing: Sharing, has_metadata: bool, direction: str, expected: str
) -> None:
    ends = Ends(("video", None), has_metadata=has_metadata)
    ends.theirs.addTransceiver("video", direction=direction)
    (section,) = await ends.offer(sharing)
    assert section.direction == expected
    assert ends.more is not section.sends
    await ends.close()


async def test_a_track_that_is_encoded_already_is_sent_as_it_is_or_waits() -> None:
    ends = Ends(("video", "video/H264"), ("video", "video/VP8"))
    ends.theirs.addTransceiver("video", direction="recvonly")
    ends.theirs.addTransceiver("video", direction="recvonly")
    without_h264 = re.compile(r"a=rtpmap:\d+ H264/90000\r\n")
    first, second = await ends.offer(change=lambda sdp: without_h264.sub("", sdp))
    assert (first.track_id, second.direction) == ("t1", "inactive")
    assert ends.more
    plan = ends.ours.plan(ends.wanted, sharing=Sharing.ALL)
    assert [it.track_id for it in sections(ends.ours.offer_text(plan))] == ["t1", None, None, "t0"]
    await ends.close()


async def test_the_codec_of_an_encoded_track_comes_first_in_the_answer() -> None:
    ends = Ends(("video", "video/H264"))
    ends.theirs.addTransceiver("video", direction="recvonly")
    await ends.offer()
    assert codecs_of(ends.theirs.localDescription.sdp)[0] == "VP8"
    for _ in range(2):
        assert codecs_of(ends.theirs.remoteDescription.sdp)[0] == "H264"
        await ends.offer()
    (sent,) = ends.ours.stats()["outbound"]
    assert sent.codec == "video/H264"
    await ends.close()


async def test_a_track_waits_again_when_the_remote_stops_the_section_that_it_has_opened() -> None:
    ends = Ends(("video", None))
    ends.theirs.createDataChannel("x")
    ends.theirs.addTrack(GreyTrack(200))
    await ends.offer()
    await eventually(lambda: ends.tracks)
    await shows(ends.tracks[0], 60)
    stopped = re.sub(r"m=video \d+", "m=video 0", ends.theirs.localDescription.sdp)
    _, more = await ends.ours.answer(Description.parse("offer", stopped), ends.wanted, sharing=Sharing.ALL)
    assert more
    plan = ends.ours.plan(ends.wanted)
    assert [(it.kind, it.track_id) for it in sections(plan.sdp) if it.sends] == [("video", "t0")]
    assert sections(plan.sdp)[-1].mid not in ends.ours.mids
    await ends.close()


async def test_a_track_whose_section_an_answer_has_no_room_for_waits_again() -> None:
    ends = Ends(("video", None))
    ends.theirs.addTransceiver("audio", direction="recvonly")
    ends.theirs.addTransceiver("video", direction="recvonly")
    await ends.theirs.setLocalDescription(await ends.theirs.createOffer())
    offer = Description.parse("offer", ends.theirs.localDescription.sdp)
    text, more = await ends.ours.answer(offer, ends.wanted, lambda answer, mids: mids, Sharing.ALL)
    assert [it.mid for it in sections(text) if it.rejected] == [it.mid for it in sections(text) if it.kind == "video"]
    assert more
    await ends.close()


async def test_a_track_of_a_forgotten_offer_goes_into_the_section_that_collided() -> None:
    ends = Ends(("video", None))
    forgotten = ends.ours.plan(ends.wanted, sharing=Sharing.ALL)
    assert [it.direction for it in sections(forgotten.sdp) if it.kind == "video"] == ["sendrecv"]
    ends.theirs.addTrack(GreyTrack(200))
    (section,) = await ends.offer()
    assert (section.direction, section.track_id) == ("sendrecv", "t0")
    assert not ends.more
    await eventually(lambda: ends.tracks)
    await shows(ends.tracks[0], 60)
    assert len(ends.ours.stats()["outbound"]) == 1
    await ends.close()


async def test_a_frugal_offer_uses_an_idle_section_of_the_remote() -> None:
    ends = Ends(("video", None), ("video", None))
    later = ends.wanted.pop(1)
    ends.theirs.addTransceiver("video", direction="recvonly")
    await ends.offer()
    ends.wanted.clear()
    ends.ours.release(ends.wanted)
    (section,) = await ends.offer()
    assert section.direction == "inactive"
    ends.wanted[1] = later
    assert [it.mid for it in sections(ends.ours.plan(ends.wanted).sdp) if it.kind == "video"] == ["0", "2"]
    (reused,) = (it for it in sections(ends.ours.plan(ends.wanted, frugal=True).sdp) if it.kind == "video")
    assert (reused.mid, reused.direction, reused.track_id) == ("0", "sendrecv", "t1")
    await ends.close()


async def test_only_the_first_offer_lets_the_remote_send_in_new_sections() -> None:
    ends = Ends(("video", None), ("audio", None), has_metadata=True)
    described = ends.ours.plan(ends.wanted, sharing=Sharing.WITHOUT_METADATA)
    assert {it.direction for it in sections(described.sdp) if it.kind != "application"} == {"sendonly"}
    ends.theirs.createDataChannel("x")
    await ends.offer()
    later = ends.ours.plan(ends.wanted, sharing=Sharing.ALL)
    assert {it.direction for it in sections(later.sdp) if it.kind != "application"} == {"sendonly"}
    await ends.close()


@pytest.mark.parametrize(
    ("mid", "rejected", "stream_ids", "track_id", "expected"),
    [
        ("1", False, ("s",), "t", True),
        ("1", False, (), "t", True),
        ("1", False, (), None, False),
        ("1", True, ("s",), "t", False),
        ("2", False, ("s",), "t", False),
    ],
)
def test_which_answers_name_a_track_that_waits(
    mid: str, rejected: bool, stream_ids: tuple[str, ...], track_id: str | None, expected: bool
) -> None:
    plan = OfferPlan("", (), one_way=frozenset({"1"}))
    assert plan.keeps_waiting([Section("video", mid, rejected, "recvonly", stream_ids, track_id)]) is expected
