"""Descriptions that are odd, old or too large, between this end and a bare aiortc connection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcrtpparameters import RTCRtcpFeedback
from aiortc.sdp import SessionDescription

from metered_realtime import NoopLogger
from metered_realtime.aiortc_compat import peer_connection as compat
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.remote_connection import RemoteConnection
from metered_realtime.connection.remote_description import admit
from metered_realtime.connection.sections import Outgoing
from metered_realtime.core.negotiation.candidates import MAX_CANDIDATE_NAMES, MAX_REMOTE_CANDIDATES
from metered_realtime.core.negotiation.sdp import SdpError
from metered_realtime.core.negotiation.signals import DescriptionSignal
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sources.testsource import ToneTrack
from tests.connection.test_descriptions import NO_SERVERS
from tests.support.peers import GreyTrack, eventually, fresh_frames, shows
from tests.support.signals import SentSignals


class Observer:
    """Takes what a link or a connection tells."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.channels: list[Any] = []
        self.declined: dict[str, str] = {}
        self.refused: list[Exception] = []
        self.failures: list[Exception] = []

    def peer_connection_state_changed(self, peer_connection: PeerConnection, state: str) -> None: ...
    def state_changed(self, state: str) -> None: ...
    def connection_reset(self) -> None: ...
    def metadata_in_doubt(self) -> None: ...
    def negotiation_failed(self, error: Exception) -> None:
        self.failures.append(error)

    def candidate_refused(self, error: Exception) -> None:
        self.refused.append(error)

    def section_declined(self, mid: str, reason: str) -> None:
        self.declined[mid] = reason

    def tracks_changed(self, removed: Any, added: Any) -> None:
        self.added.extend(added)

    def channel_opened(self, channel: Any) -> None:
        self.channels.append(channel)


class Meeting:
    """A bare connection that offers, and a link of ours that answers."""

    def __init__(self) -> None:
        self.theirs = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.observer = Observer()
        self.ours = PeerConnection(self.observer, NoopLogger())

    async def offer(self, change: Callable[[str], str] = str) -> str:
        """Have them offer in words that `change` may change, and take our answer. Return that."""
        await self.theirs.setLocalDescription(await self.theirs.createOffer())
        offer = change(self.theirs.localDescription.sdp)
        answer, _ = await self.ours.answer(admit("offer", offer), {})
        known = re.sub(r"(m=application \d+) DTLS/SCTP webrtc", r"\1 UDP/DTLS/SCTP webrtc", answer)
        await self.theirs.setRemoteDescription(RTCSessionDescription(known, "answer"))
        return answer

    async def up(self) -> None:
        await eventually(lambda: self.theirs.connectionState == self.ours.pc.connectionState == "connected")


@pytest.fixture
async def meeting() -> AsyncIterator[Meeting]:
    meeting = Meeting()
    yield meeting
    await meeting.ours.close()
    await meeting.theirs.close()


def without(sdp: str, pattern: str) -> str:
    return re.sub(rf"(?m)^(?:{pattern}).*\r\n", "", sdp)


ODD = """
a=fmtp:97
a=fmtp:77 x=y
a=rtpmap:97
a=rtcp-fb:97
a=extmap:6 urn:x some attributes
a=extmap:7
a=ssrc:77 flag
a=ssrc:78
a=ssrc-group:FID x
a=candidate:1 1 udp nonsense
a=rtcp:x
a=setup:holdconn
a=fingerprint:sha-256
a=msid:-
a=msid:
a=rid:h send
a=simulcast:send h
a=sctp-port:x
a=mid
b=x
c=nonsense
this is no line
"""


async def test_odd_lines_do_not_keep_media_and_data_from_flowing(meeting: Meeting) -> None:
    meeting.theirs.addTrack(GreyTrack(60))
    channel = meeting.theirs.createDataChannel("data")
    odd = ODD.strip().replace("\n", "\r\n") + "\r\n"
    await meeting.offer(lambda sdp: re.sub(r"(?m)^(a=rtcp-mux\r\n|a=sctp-port)", odd + r"\1", sdp))
    await meeting.up()
    await shows(meeting.observer.added[0].track, 60)
    await eventually(lambda: channel.readyState == "open")
    assert meeting.ours.odd_lines > 20
    assert [str(error) for error in meeting.observer.refused] == [
        "a candidate that cannot be read: 'a=candidate:1 1 udp nonsense'"
    ]
    assert meeting.observer.declined == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("m=video", "m=video x"), "'m=video x"),
        (("UDP/TLS/RTP/SAVPF", "TCP/MRCPv2"), "TCP/MRCPv2"),
        (("a=mid:1\r\n", ""), "no mid of its own: 'm=video"),
        (("a=mid:1\r\n", "a=mid:0\r\n"), "no mid of its own: 'a=mid:0'"),
    ],
)
async def test_a_section_that_cannot_be_used_is_declined_and_the_rest_goes_on(
    meeting: Meeting, change: tuple[str, str], reason: str
) -> None:
    meeting.theirs.addTrack(GreyTrack())
    meeting.theirs.createDataChannel("data")

    def data_first(sdp: str) -> str:
        head, video, data = re.split("(?=m=)", sdp)
        return head + data.replace("a=mid:1", "a=mid:0") + video.replace("a=mid:0", "a=mid:1").replace(*change)

    await meeting.theirs.setLocalDescription(await meeting.theirs.createOffer())
    offer = admit("offer", data_first(meeting.theirs.localDescription.sdp))
    text, _ = await meeting.ours.answer(offer, {})
    assert reason in "".join(meeting.observer.declined.values())
    data, video = re.split("(?=m=)", text)[1:]
    assert data.startswith("m=application")
    assert video.startswith("m=video 0 ")
    assert ("a=mid" in video) is not change[0].startswith("a=mid")
    plan = meeting.ours.plan({})
    again = meeting.ours.offer_text(plan)
    assert re.split("(?=m=)", again)[2] == video
    answer = again.replace("actpass", "active").replace("a=ice-ufrag:", "a=ice-ufrag:x")
    await meeting.ours.commit(plan, again, admit("answer", answer, plan.mids), {})


@pytest.mark.parametrize(("number", "name"), [(0, "PCMU"), (8, "PCMA"), (9, "G722")])
async def test_sound_flows_under_a_number_without_a_name(meeting: Meeting, number: int, name: str) -> None:
    """RFC 8866 section 6.6: a static payload type needs no rtpmap (RFC 3551 section 6)."""
    meeting.theirs.addTrack(ToneTrack())

    def bare(sdp: str) -> str:
        return re.sub("(m=audio \\d+ \\S+) .*", rf"\1 {number}", without(sdp, "a=rtpmap:"))

    answer = await meeting.offer(bare)
    assert f"a=rtpmap:{number} {name}/8000" in answer
    await meeting.up()
    await fresh_frames(meeting.observer.added[0].track)


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        ("DTLS/SCTP 5000", "a=sctpmap:5000 webrtc-datachannel 1024"),
        ("DTLS/SCTP 5000", "a=fmtp:5000 protocol=webrtc-datachannel;streams=16"),
        ("DTLS/SCTP webrtc-datachannel", "a=fmtp:webrtc-datachannel max-message-size=100000\r\na=sctp-port:5000"),
    ],
)
async def test_an_old_data_section_is_answered_in_its_own_form(meeting: Meeting, first: str, lines: str) -> None:
    """As browsers wrote it before RFC 8841 was done (draft-ietf-mmusic-sctp-sdp)."""
    channel = meeting.theirs.createDataChannel("old")

    def old(sdp: str) -> str:
        sdp = without(sdp, "a=sctp-port|a=max-message-size").replace("UDP/DTLS/SCTP webrtc-datachannel", first)
        return sdp.replace("a=mid:0\r\n", f"a=mid:0\r\n{lines}\r\n")

    answer = await meeting.offer(old)
    assert re.search(rf"(?m)^m=application \d+ {first}\r$", answer)
    assert ("a=sctpmap:5000 webrtc-datachannel" in answer) is first.endswith("5000")
    assert ("a=sctp-port:5000" in answer) is not first.endswith("5000")
    await meeting.up()
    await eventually(lambda: channel.readyState == "open")
    assert first in meeting.ours.offer_text(meeting.ours.plan({})), "later offers keep the form, too"


async def test_a_message_size_of_0_is_no_bound(meeting: Meeting) -> None:
    meeting.theirs.createDataChannel("data")
    await meeting.offer(lambda sdp: re.sub("a=max-message-size:.*", "a=max-message-size:0", sdp))
    await meeting.up()
    channel = meeting.ours.create_data_channel("ours", {})
    await eventually(lambda: channel.readyState == "open")
    channel.send(bytes(200_000))


async def test_a_direction_may_stand_before_the_sections(meeting: Meeting) -> None:
    meeting.theirs.addTrack(GreyTrack(60))
    await meeting.offer(lambda sdp: without(sdp, "a=sendrecv").replace("m=video", "a=sendonly\r\nm=video"))
    await meeting.up()
    await shows(meeting.observer.added[0].track, 60)


async def test_a_remote_that_has_taken_all_numbers_can_be_offered_media(meeting: Meeting) -> None:
    meeting.theirs.addTrack(ToneTrack())
    numbers = [*range(35, 64), *range(97, 128)]
    rows = [f"a=rtpmap:{number} X{number}/48000" for number in numbers]
    rows += [f"a=extmap:{number} urn:x:{number}" for number in range(1, 15)]

    def crowded(sdp: str) -> str:
        sdp = without(sdp, "a=extmap").replace("SAVPF 96", f"SAVPF 96 {' '.join(map(str, numbers))}")
        return sdp.replace("a=rtcp-mux\r\n", "\r\n".join(["a=rtcp-mux", *rows, ""]))

    await meeting.offer(crowded)
    await meeting.up()
    fanout = TrackFanout(GreyTrack(), NoopLogger())
    video = SessionDescription.parse(meeting.ours.plan({1: Outgoing("video", "t", "s", fanout)}).sdp).media[-1]
    assert [codec.name for codec in video.rtp.codecs][:2] == ["VP8", "rtx"]
    assert video.rtp.headerExtensions == []
    await fanout.close()


# --- what a description costs


async def test_text_of_the_remote_is_parsed_once(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = SessionDescription.parse

    def counted(sdp: str) -> SessionDescription:
        parsed.append(sdp)
        return parse(sdp)

    monkeypatch.setattr(SessionDescription, "parse", counted)
    meeting.theirs.addTrack(GreyTrack())
    await meeting.theirs.setLocalDescription(await meeting.theirs.createOffer())
    offer = admit("offer", meeting.theirs.localDescription.sdp.replace("VP8/", "AV1/").replace("H264/", "VP9/"))
    parsed.clear()
    await meeting.ours.answer(offer, {})
    assert parsed[0] == offer.shown
    assert len(parsed) == 2, "that of the remote, and ours"


async def test_feedback_for_all_codecs_makes_no_more_objects_than_there_are_lines(meeting: Meeting) -> None:
    meeting.theirs.addTrack(GreyTrack())
    numbers = [*range(35, 64), *range(103, 128)]
    rows = [f"a=rtpmap:{number} X{number}/90000" for number in numbers]
    rows += [f"a=rtcp-fb:* {kind}" for kind in ["nack", "nack pli"] * 200]

    def crowded(sdp: str) -> str:
        sdp = sdp.replace("SAVPF 97", f"SAVPF {' '.join(map(str, numbers))} 97")
        return sdp.replace("a=rtcp-mux\r\n", "\r\n".join(["a=rtcp-mux", *rows, ""]))

    await meeting.offer(crowded)
    await meeting.up()
    (media,) = compat.remote_description(meeting.ours.pc).media
    assert {codec.payloadType for codec in media.rtp.codecs} >= set(numbers)
    assert sum(len(codec.rtcpFeedback) for codec in media.rtp.codecs) < len(rows)
    assert all(isinstance(it, RTCRtcpFeedback) for codec in media.rtp.codecs for it in codec.rtcpFeedback)


async def test_a_codec_under_many_numbers_is_answered_once(meeting: Meeting) -> None:
    """aiortc would answer with all, those below 96 under one number, and multiply what belongs to that."""
    meeting.theirs.addTrack(GreyTrack(60))
    numbers = [*range(35, 64), *range(103, 128)]
    rows = [f"a=rtpmap:{number} vp8/90000\r\na=fmtp:{number} x={number}" for number in numbers]
    rows += ["a=rtcp-fb:* nack", "a=rtcp-fb:* nack pli", "a=rtcp-fb:* goog-remb"]

    def crowded(sdp: str) -> str:
        sdp = re.sub("SAVPF .*", f"SAVPF 97 98 {' '.join(map(str, numbers))}", sdp)
        return sdp.replace("a=rtcp-mux\r\n", "\r\n".join(["a=rtcp-mux", *rows, ""]))

    answer = await meeting.offer(crowded)
    assert re.findall("a=rtpmap:(.*)\r", answer) == ["97 VP8/90000", "98 rtx/90000", "97 VP8/90000"]
    await meeting.up()
    await shows(meeting.observer.added[0].track, 60)
    taken = {codec.payloadType for codec in compat.remote_description(meeting.ours.pc).media[0].rtp.codecs}
    assert taken >= set(numbers), "their numbers are not given to anything else"


async def test_candidates_in_descriptions_count_like_those_that_come_alone(meeting: Meeting) -> None:
    meeting.theirs.createDataChannel("data")
    line = "candidate:1 1 udp 1 198.51.100.{} {} typ host"
    in_text = "".join(f"a={line.format(1, port)}\r\n" for port in range(1000, 1150))

    def crowded(sdp: str) -> str:
        return without(sdp, "a=candidate|a=end-of-candidates") + in_text

    await meeting.theirs.setLocalDescription(await meeting.theirs.createOffer())
    offer = admit("offer", crowded(meeting.theirs.localDescription.sdp))
    for port in range(2000, 2100):
        await meeting.ours.add_candidate(line.format(2, port), offer.ufrag)
    await meeting.ours.add_candidate(line.format(2, 2000), offer.ufrag)
    assert meeting.ours.candidates_refused == 0, "one that is known does not count again"
    await meeting.ours.answer(offer, {})
    assert meeting.ours.candidates_refused == 250 - MAX_REMOTE_CANDIDATES
    assert len(meeting.observer.refused) == 1, "they are told once"
    with pytest.raises(ValueError, match="more than 200 candidates"):
        await meeting.ours.add_candidate(line.format(3, 3000), None)
    await meeting.ours.add_candidate(line.format(1, 1000), None)
    await meeting.ours.add_candidate(None, None)
    known = compat.ice_transport(meeting.ours.pc).getRemoteCandidates()
    assert len(known) == MAX_REMOTE_CANDIDATES


async def test_candidates_with_names_are_few(meeting: Meeting) -> None:
    for number in range(MAX_CANDIDATE_NAMES):
        await meeting.ours.add_candidate(f"candidate:1 1 udp 1 n{number}.local 9 typ host", "later")
    with pytest.raises(ValueError, match="with a name"):
        await meeting.ours.add_candidate("candidate:1 1 udp 1 one-more.local 9 typ host", "later")
    await meeting.ours.add_candidate("candidate:1 1 udp 1 192.0.2.1 9 typ host", "later")
    await meeting.ours.add_candidate("candidate:1 2 udp 1 192.0.2.1 10 typ host", "later")
    with pytest.raises(SdpError, match="none of a host"):
        await meeting.ours.add_candidate("candidate:1 1 udp 1 224.0.0.1 9 typ host", "later")
    assert meeting.ours.candidates_refused == 2


async def test_a_description_that_cannot_be_used_is_told_with_its_line() -> None:
    observer = Observer()
    connection = RemoteConnection(
        polite=True, signaller=SentSignals(), ice_servers=NO_SERVERS, observer=observer, logger=NoopLogger()
    )
    connection.receive(DescriptionSignal("offer", "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-pwd:geheim"))
    connection.receive(DescriptionSignal("offer", "x" * 1_000_000))
    first, second = map(str, observer.failures)
    assert "no sections with a mid" in first
    assert "geheim" not in first
    assert "1000000 characters" in second
    await connection.close()
