"""What ends of other implementations write into descriptions, and what they need to find in those of this end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCSessionDescription
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.sdp import SessionDescription

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    MediaStream,
    MeteredPeer,
    NegotiationError,
    PeerJoined,
    RemotePeer,
    Track,
)
from metered_realtime.media.sources.testsource import ToneTrack
from tests.connection.test_descriptions import check_bundle
from tests.support.foreign import ForeignPeer, RsaCertificate
from tests.support.peers import EventLog, GreyTrack, Room, eventually, shows, state_of


class Meeting:
    """A peer `m` of this project, polite or not, beside a foreign one, each with its certificate."""

    def __init__(self, room: Room, their_id: str) -> None:
        self._room, self._their_id = room, their_id
        self.ours: MeteredPeer
        self.remote: RemotePeer
        self.theirs: ForeignPeer
        self.log: EventLog

    async def begin(self, certificate: RTCCertificate | None = None) -> None:
        """Let the two meet."""
        self.ours = self._room.peer("m")
        seen = EventLog(self.ours)
        await self.ours.join("room")
        self.theirs = await ForeignPeer.join(self._room.server, self._their_id, certificate=certificate)
        self.remote = (await seen.until(PeerJoined)).peer
        self.log = EventLog(self.remote)

    async def up(self) -> None:
        """Wait until the connection is up at both ends."""
        await state_of(self.remote, "connected")
        await eventually(lambda: self.theirs.pc.connectionState == "connected")


@pytest.fixture(params=["polite", "impolite"])
async def meeting(request: pytest.FixtureRequest, room: Room) -> AsyncIterator[Meeting]:
    meeting = Meeting(room, "z" if request.param == "polite" else "a")
    yield meeting
    await meeting.theirs.close()


@pytest.mark.parametrize("offerer", ["foreign", "native"])
async def test_an_end_with_an_rsa_certificate_is_heard_and_seen(meeting: Meeting, offerer: str) -> None:
    """The one that offers lets the other begin DTLS, and is its server."""
    await meeting.begin(RsaCertificate.generateCertificate())
    theirs, remote = meeting.theirs, meeting.remote
    if offerer == "foreign":
        theirs.pc.addTrack(GreyTrack(60))
        theirs.pc.createDataChannel("first")
        await theirs.offer("m")
        await shows((await meeting.log.until(Track)).track, 60)
    else:
        track = GreyTrack(60)
        meeting.ours.add_track(track, MediaStream([track]))
        await eventually(lambda: theirs.tracks)
    channel = DataChannel(remote.create_data_channel("second"))
    await channel.wait_open()
    await eventually(lambda: [it.label for it in theirs.channels] == ["second"])
    assert meeting.log.of(NegotiationError) == []
    assert remote.stats().generation == 1


def sources(sdp: str) -> list[tuple[str, str, bool]]:
    """Return the kind and the direction of each media section, and whether it names a source."""
    parsed = SessionDescription.parse(sdp)
    return [(it.kind, str(it.direction), bool(it.ssrc)) for it in parsed.media if it.kind != "application"]


async def test_a_section_names_a_source_while_this_end_sends_in_it(meeting: Meeting) -> None:
    """An answer, then offers with a track, without it, and with another one."""
    await meeting.begin()
    theirs, ours = meeting.theirs, meeting.ours
    theirs.pc.addTrack(GreyTrack(60))
    theirs.pc.createDataChannel("data")
    await theirs.offer("m")
    await meeting.up()
    for count, level in enumerate((200, 120), 1):
        track = GreyTrack(level)
        described = len(theirs.texts)
        ours.add_track(track, MediaStream([track]))
        await eventually(lambda count=count: len(theirs.tracks) == count)  # type: ignore[misc]
        await shows(theirs.tracks[-1], level)
        ours.remove_track(track)
        await eventually(lambda described=described: len(theirs.texts) == described + 2)  # type: ignore[misc]
    seen = {(direction, has_source) for text in theirs.texts for _, direction, has_source in sources(text)}
    assert seen == {("recvonly", False), ("sendonly", True)}
    assert meeting.log.of(NegotiationError) == []


def layout(sdp: str) -> list[tuple[str, str]]:
    """Return the kind and the mid of each section, in order."""
    return [(it.kind, it.rtp.muxId) for it in SessionDescription.parse(sdp).media]


async def test_offers_after_a_failed_handshake_keep_the_sections_of_an_end_that_kept_its_connection(
    meeting: Meeting,
) -> None:
    """Anything else it would have to refuse: "the order of m-lines", "changes the media type"."""
    await meeting.begin()
    theirs, ours, track = meeting.theirs, meeting.ours, GreyTrack(120)
    theirs.pc.addTrack(GreyTrack(60))
    theirs.pc.addTrack(ToneTrack())
    theirs.pc.createDataChannel("data")
    wrong = RTCCertificate.generateCertificate().getFingerprints()[0].value
    await theirs.offer("m", lambda sdp: re.sub(r"(a=fingerprint:sha-256) .*", rf"\1 {wrong}", sdp))
    await eventually(lambda: theirs.descriptions == ["answer"])
    ours.add_track(track, MediaStream([track]))
    error = (await meeting.log.until(NegotiationError)).err
    assert "another fingerprint than its description" in str(error)
    known = layout(theirs.pc.localDescription.sdp)
    assert [kind for kind, _ in known] == ["video", "audio", "application"]
    await meeting.log.until(ConnectionReset)
    await eventually(lambda: "offer" in theirs.descriptions)
    offer = theirs.texts[theirs.descriptions.index("offer")]
    assert layout(offer)[:3] == known
    check_bundle(offer)
    await theirs.pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    answer = await theirs.pc.createAnswer()
    assert layout(answer.sdp) == layout(offer)


def unbundled(sdp: str, *, group: str) -> str:
    """Return an offer with another BUNDLE group, or none."""
    return re.sub(r"a=group:BUNDLE [^\r]*\r\n", group, sdp)


@pytest.mark.parametrize("group", ["a=group:BUNDLE 0 1\r\n", ""])
async def test_sections_with_a_transport_of_their_own_are_declined(meeting: Meeting, group: str) -> None:
    """A connection has one transport. Without a group, each section would need another one."""
    await meeting.begin()
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(60))
    theirs.pc.createDataChannel("data")
    theirs.pc.addTrack(ToneTrack())
    await theirs.pc.setLocalDescription(await theirs.pc.createOffer())
    offer = unbundled(theirs.pc.localDescription.sdp, group=group)
    description = {"type": "rtc-description", "description": {"type": "offer", "sdp": offer}}
    await theirs.request(type="send", to="m", data=description)
    kept = 2 if group else 1
    for count in range(1, 4 - kept):
        assert "it is not bundled" in str((await meeting.log.until(NegotiationError, count)).err)
    await eventually(lambda: "answer" in theirs.descriptions)
    ports = re.findall(r"(?m)^m=\w+ (\d+)", theirs.texts[theirs.descriptions.index("answer")])
    assert [port != "0" for port in ports] == [place < kept for place in range(3)]


@pytest.mark.parametrize("setup", ["active", "passive", "actpass"])
async def test_an_offer_may_choose_the_dtls_client(meeting: Meeting, setup: str) -> None:
    """The answer takes the other role (RFC 8842 section 5.3)."""
    await meeting.begin()
    theirs = meeting.theirs
    theirs.pc.addTrack(GreyTrack(60))
    await theirs.offer("m", lambda sdp: sdp.replace("a=setup:actpass", f"a=setup:{setup}"))
    await shows((await meeting.log.until(Track)).track, 60)
    chosen = set(re.findall(r"a=setup:(\w+)", theirs.texts[0]))
    assert chosen == {"passive" if setup == "active" else "active"}


@pytest.mark.parametrize("setup", ["active", "passive"])
async def test_an_answer_may_choose_either_dtls_role(meeting: Meeting, setup: str) -> None:
    await meeting.begin()
    track, theirs = GreyTrack(60), meeting.theirs
    theirs.setup = setup
    meeting.ours.add_track(track, MediaStream([track]))
    await eventually(lambda: theirs.tracks)
    await shows(theirs.tracks[0], 60)
    assert set(re.findall(r"a=setup:(\w+)", theirs.texts[0])) == {"actpass"}
