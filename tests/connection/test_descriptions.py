"""What stays the same in the descriptions of a session, however often it is negotiated."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription

from metered_realtime import ConnectionReset, MediaStream, MeteredRealtimeError, NoopLogger, Track
from metered_realtime.aiortc_compat.transports import ice_transport
from metered_realtime.connection.ice_servers import IceServers
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.remote_connection import RemoteConnection
from metered_realtime.connection.sections import Outgoing
from metered_realtime.core.negotiation.sdp import Description
from metered_realtime.core.negotiation.signals import CandidateSignal, DescriptionSignal
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sources.testsource import ToneTrack
from tests.connection.sent_signals import SentSignals
from tests.support.inside import signalling_client
from tests.support.peers import EventLog, GreyTrack, Pair, Room, eventually, fresh_frames, shows

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"

NO_SERVERS = IceServers((), lambda: None, NoopLogger())


def numbers(sdp: str) -> dict[str, tuple[dict[int, str], dict[int, str]]]:
    """Return the payload types and the extension ids of each media section by mid."""
    return {
        media.rtp.muxId: (
            {codec.payloadType: codec.mimeType for codec in media.rtp.codecs},
            {extension.id: extension.uri for extension in media.rtp.headerExtensions},
        )
        for media in SessionDescription.parse(sdp).media
        if media.kind != "application"
    }


def check_bundle(sdp: str) -> None:
    """A number means one thing everywhere in a BUNDLE (RFC 8843 section 9)."""
    payload_types: dict[int, set[str]] = {}
    extensions: dict[int, set[str]] = {}
    for types, ids in numbers(sdp).values():
        for number, name in types.items():
            payload_types.setdefault(number, set()).add(name)
        for number, uri in ids.items():
            extensions.setdefault(number, set()).add(uri)
    assert all(len(names) == 1 for names in payload_types.values()), payload_types
    assert all(len(uris) == 1 for uris in extensions.values()), extensions


class Watched:
    """Every description that both ends of a pair have set, checked against the earlier ones."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.first: dict[tuple[int, str], Any] = {}
        self.mids: list[str] = []

    def check(self) -> None:
        for end, remote in enumerate((self.pair.to_b, self.pair.to_a)):
            for description in (remote.pc.localDescription, remote.pc.remoteDescription):
                check_bundle(description.sdp)
            found = numbers(remote.pc.localDescription.sdp)
            for mid, (types, ids) in found.items():
                first_types, first_ids = self.first.setdefault((end, mid), (types, ids))
                assert first_types.items() >= types.items(), (mid, first_types, types)
                assert first_ids.items() >= ids.items(), (mid, first_ids, ids)
            mids = re.findall("a=mid:(.*)\r", remote.pc.localDescription.sdp)
            assert mids[: len(self.mids)] == self.mids or self.mids[: len(mids)] == mids
            self.mids = max(mids, self.mids, key=len)
        assert self.pair.log_a.of(ConnectionReset) == self.pair.log_b.of(ConnectionReset) == []


@pytest.mark.parametrize("beginner", ["a", "b"])
async def test_numbers_stay_what_was_negotiated_first(room: Room, beginner: str) -> None:
    pair = await room.pair()
    watched = Watched(pair)
    order = [(pair.a, pair.log_b), (pair.b, pair.log_a)]
    if beginner == "b":
        order.reverse()
    seen = {log: 0 for _, log in order}
    received = []
    for kind in ("video", "audio", "video"):
        for peer, log in order:
            track = GreyTrack() if kind == "video" else ToneTrack()
            peer.add_track(track, MediaStream([track]))
            seen[log] += 1
            received.append((await log.until(Track, seen[log])).track)
            await fresh_frames(received[-1])
            watched.check()
    for track in received:
        await fresh_frames(track)


async def test_the_first_offer_uses_numbers_that_mean_the_same_to_browsers_or_nothing(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    pair.a.add_track(ToneTrack())
    await fresh_frames((await pair.log_b.until(Track, 2)).track)
    by_mid = numbers(pair.to_b.pc.localDescription.sdp)
    (video, video_ids), (audio, audio_ids) = by_mid["1"], by_mid["2"]
    assert (video[96], video[97], audio[111]) == ("video/VP8", "video/rtx", "audio/opus")
    assert video_ids == {2: SEND_TIME, 9: MID}
    assert audio_ids == {9: MID, 12: LEVEL}


async def test_data_is_the_first_section_and_always_there(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    for remote in (pair.to_a, pair.to_b):
        sections = SessionDescription.parse(remote.pc.localDescription.sdp).media
        assert [(media.kind, media.rtp.muxId) for media in sections] == [("application", "0"), ("video", "1")]


async def test_the_answer_names_the_offer_it_answers(room: Room) -> None:
    pair = await room.pair()
    sent: list[str] = []
    for peer in (pair.a, pair.b):
        send = signalling_client(peer)._send_raw

        async def note(to: str, payload: Any, send: Any = send) -> None:
            sent.append(bytes(payload).decode())
            await send(to, payload)

        signalling_client(peer)._send_raw = note  # type: ignore[method-assign]
    await pair.media_to_b()
    offered, answered = (
        [re.search(rf"a=x-metered-{kind}:([^\\]+)", text) for text in sent if f'"type":"{kind}"' in text]
        for kind in ("offer", "answer")
    )
    assert offered
    assert all(offered)
    assert [tag and tag[1] for tag in answered] == [tag and tag[1] for tag in offered][: len(answered)] != []


class Observer:
    """Takes what a link or a connection tells."""

    def __init__(self) -> None:
        self.added: list[Any] = []

    def peer_connection_state_changed(self, peer_connection: PeerConnection, state: str) -> None: ...
    def state_changed(self, state: str) -> None: ...
    def connection_reset(self) -> None: ...
    def negotiation_failed(self, error: Exception) -> None: ...
    def candidate_refused(self, error: Exception) -> None: ...
    def metadata_in_doubt(self) -> None: ...
    def offer_held(self) -> None: ...
    def section_declined(self, mid: str, reason: str) -> None: ...
    def tracks_withheld(self, error: Exception, track_ids: Any) -> None: ...
    def tracks_changed(self, removed: Any, added: Any) -> None:
        self.added.extend(added)

    def channel_opened(self, channel: Any) -> None: ...


def foreign_offer(sdp: str) -> str:
    """Rewrite an offer as a stack would send it that uses other numbers, some for things unknown here."""
    taken = "\r\n".join(
        ["a=rtpmap:111 XYZ/90000", "a=extmap:1 urn:x:one", "a=extmap:2 urn:x:two", "a=extmap:4 urn:x:four", ""]
    )
    sdp = re.sub(r"a=extmap:\d+ (\S*sdes:mid)", r"a=extmap:7 \1", sdp)
    sdp = re.sub(r"a=extmap:\d+ (\S*abs-send-time)", r"a=extmap:8 \1", sdp)
    return sdp.replace("a=rtpmap:", taken + "a=rtpmap:", 1).replace("SAVPF ", "SAVPF 111 ", 1)


async def test_numbers_of_the_other_end_are_kept_and_not_given_to_something_else() -> None:
    other = RTCPeerConnection()
    other.addTrack(GreyTrack())
    other.createDataChannel("x")
    await other.setLocalDescription(await other.createOffer())
    peer_connection = PeerConnection(Observer(), NoopLogger())
    offer = Description.parse("offer", foreign_offer(other.localDescription.sdp))
    fanout = TrackFanout(ToneTrack(), NoopLogger())
    outgoing = Outgoing("audio", "t", "s", fanout)
    await peer_connection.answer(offer, {})
    plan = peer_connection.plan({1: outgoing})
    types, ids = numbers(plan.sdp)["2"]
    assert {number for number, name in types.items() if name == "audio/opus"}.isdisjoint({111})
    assert {uri: number for number, uri in ids.items()}[MID] == 7
    assert set(ids).isdisjoint({1, 2, 4, 8})
    check_bundle(plan.sdp)
    await peer_connection.close()
    await fanout.close()
    await other.close()


@pytest.mark.parametrize("ours_first", [True, False])
async def test_an_ordinary_aiortc_connection_can_offer_and_be_offered(ours_first: bool) -> None:
    other = RTCPeerConnection()
    theirs: list[Any] = []
    other.on("track", theirs.append)
    observer = Observer()
    peer_connection = PeerConnection(observer, NoopLogger())
    fanout = TrackFanout(GreyTrack(60), NoopLogger())
    wanted = {1: Outgoing("video", "t", "s", fanout)}

    async def offer_ours() -> None:
        await peer_connection.gather_host()
        plan = peer_connection.plan(wanted)
        text = peer_connection.offer_text(plan)
        await other.setRemoteDescription(RTCSessionDescription(text, "offer"))
        await other.setLocalDescription(await other.createAnswer())
        answer = Description.parse("answer", other.localDescription.sdp)
        assert not await peer_connection.commit(plan, text, answer, wanted)

    async def offer_theirs() -> None:
        other.addTrack(GreyTrack(200))
        await other.setLocalDescription(await other.createOffer())
        text, _ = await peer_connection.answer(Description.parse("offer", other.localDescription.sdp), wanted)
        await other.setRemoteDescription(RTCSessionDescription(text, "answer"))

    first, second = (offer_ours, offer_theirs) if ours_first else (offer_theirs, offer_ours)
    await first()
    await eventually(lambda: other.connectionState == "connected")
    await second()
    await eventually(lambda: theirs and observer.added)
    await shows(observer.added[0].track, 200)
    await shows(theirs[0], 60)
    await peer_connection.close()
    await fanout.close()
    await other.close()


async def test_what_came_for_a_description_that_replaces_the_connection_is_not_lost() -> None:
    """A browser's candidates follow its offer at once, when the connection that they are for is not there yet."""
    answers = SentSignals()
    connection = RemoteConnection(
        polite=True, signaller=answers, ice_servers=NO_SERVERS, observer=Observer(), logger=NoopLogger()
    )
    others = RTCPeerConnection(), RTCPeerConnection()
    for other in others:
        other.createDataChannel("x")
    offers = [(await other.createOffer()).sdp for other in others]
    for offer in offers:
        connection.receive(DescriptionSignal("offer", offer))
    await asyncio.sleep(0)
    line, ufrag = "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host", re.findall("a=ice-ufrag:(.*)\r", offers[1])[0]
    connection.receive(CandidateSignal(line, "0", 0, ufrag))
    await eventually(lambda: len(answers) == 2)
    assert connection.generation == 2
    transport: Any = connection.pc.sctp
    await eventually(lambda: any(it.port == 9 for it in transport.transport.transport.getRemoteCandidates()))
    await asyncio.gather(connection.close(), *(other.close() for other in others))


async def test_what_is_negotiated_while_the_connection_comes_up_flows_too() -> None:
    observer = Observer()
    ours, theirs = PeerConnection(Observer(), NoopLogger()), PeerConnection(observer, NoopLogger())
    fanout = TrackFanout(GreyTrack(60), NoopLogger())
    wanted: dict[int, Outgoing] = {}
    ice: Any = ice_transport(ours.pc)
    start, exchanged = ice.start, asyncio.Event()

    async def held_up(parameters: Any) -> None:
        await start(parameters)
        await exchanged.wait()

    ice.start = held_up
    for count in range(2):
        await ours.gather_host()
        plan = ours.plan(wanted)
        answer, _ = await theirs.answer(Description.parse("offer", plan.sdp), {})
        await ours.commit(plan, plan.sdp, Description.parse("answer", answer), wanted)
        assert ours.pc.connectionState != "connected"
        wanted[count] = Outgoing("video", "t", "s", fanout)
    exchanged.set()
    await shows(observer.added[0].track, 60)
    await asyncio.gather(ours.close(), theirs.close(), fanout.close())


async def test_a_restart_that_was_due_is_off_once_the_other_end_brought_a_new_connection() -> None:
    connection = RemoteConnection(
        polite=True, signaller=SentSignals(), ice_servers=NO_SERVERS, observer=Observer(), logger=NoopLogger()
    )
    others = RTCPeerConnection(), RTCPeerConnection()
    for other in others:
        other.createDataChannel("x")
        connection.receive(DescriptionSignal("offer", (await other.createOffer()).sdp))
        if other is others[0]:
            await eventually(lambda: connection._worker is not None and connection._worker.done())
    connection.start_over(polite=True)  # a timer that fires in the same moment
    await eventually(lambda: connection._worker is not None and connection._worker.done())
    assert connection.generation == 2
    await asyncio.gather(connection.close(), *(other.close() for other in others))


async def test_a_connection_that_was_closed_unused_has_no_pc() -> None:
    connection = RemoteConnection(
        polite=True, signaller=SentSignals(), ice_servers=NO_SERVERS, observer=Observer(), logger=NoopLogger()
    )
    await connection.close()
    with pytest.raises(MeteredRealtimeError):
        _ = connection.pc


async def test_leaving_at_any_moment_of_the_way_to_a_connection_leaves_nothing_behind(room: Room) -> None:
    resident = room.peer("a")
    resident.add_track(GreyTrack())
    await resident.join("room")
    for turns in (*range(0, 30, 3), 40, 60, 80, 120):
        peer = room.peer(f"b{turns}")
        log = EventLog(resident)
        await peer.join("room")
        for _ in range(turns):
            await asyncio.sleep(0)
        await peer.close()
        await eventually(lambda log=log: "PeerLeft" in log.kinds())
