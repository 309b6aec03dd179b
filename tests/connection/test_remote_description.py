"""What of a remote description is taken: by a connection that goes on, whatever one section of it is like."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.codecs import CODECS
from aiortc.rtcpeerconnection import and_direction, find_common_codecs
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from metered_realtime.connection.remote_description import RemoteDescription, admit
from metered_realtime.core.negotiation.sdp import SdpError
from metered_realtime.core.negotiation.sdp_codecs import FEEDBACK
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack


@pytest.fixture
async def offer() -> str:
    """Of a stock connection: audio 0, video 1, data 2."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(ToneTrack())
    pc.addTrack(PatternTrack(width=64, height=64))
    pc.createDataChannel("data")
    await pc.setLocalDescription(await pc.createOffer())
    sdp = pc.localDescription.sdp
    await pc.close()
    return sdp


def without(sdp: str, attribute: str) -> str:
    return "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith(attribute))


async def test_what_can_be_used_is_shown_as_it_is(offer: str) -> None:
    admitted = admit("offer", offer)
    assert (admitted.declined, admitted.unusable, admitted.noted, admitted.forms) == ({}, {}, (), {})
    ours, theirs = (SessionDescription.parse(sdp).media for sdp in (admitted.shown, offer))
    for shown, sent in zip(ours, theirs, strict=True):
        for it in ("kind", "fmt", "profile", "rtcp_mux", "direction", "rtp", "ice", "ssrc_group", "sctp_port"):
            if it != "direction" or sent.kind != "application":
                assert getattr(shown, it) == getattr(sent, it)
        assert [source.ssrc for source in shown.ssrc] == [source.ssrc for source in sent.ssrc]


async def test_a_section_without_a_common_codec_is_declined_with_the_reason(offer: str) -> None:
    admitted = admit("offer", offer.replace(" VP8/", " AV1/").replace(" H264/", " VP9/"))
    assert admitted.unusable == {"1": "no codec in common: AV1 is unknown, VP9 is unknown"}
    assert admitted.declined["1"].startswith("m=video ")
    shown = SessionDescription.parse(admitted.shown).media
    assert [media.direction for media in shown] == ["sendrecv", "inactive", None]


async def test_a_declined_codec_is_told_by_what_does_not_fit(offer: str) -> None:
    offer = offer.replace(" VP8/", " AV1/").replace("packetization-mode=1", "packetization-mode=0")
    assert admit("offer", offer).unusable["1"] == (
        "no codec in common: AV1 is unknown, H264 has packetization-mode 0, not 1"
    )
    unknown = "".join(line for line in offer.splitlines(True) if not line.startswith(("a=rtpmap:9", "a=rtpmap:1")))
    assert "number with a meaning in 'm=video" in admit("offer", unknown).unusable["1"]


@pytest.mark.parametrize(
    "change",
    [
        ("profile-level-id=42e01f", "profile-level-id=42E01F"),
        ("a=fmtp:101 ", "a=fmtp:101   "),
        (";", " ; "),
        ("packetization-mode=1", "Packetization-Mode = 1"),
        (" H264/", " h264/"),
        ("profile-level-id=42e01f", "profile-level-id=42e03c"),
    ],
)
async def test_parameters_are_compared_without_regard_to_case_and_blanks(offer: str, change: tuple[str, str]) -> None:
    only = re.sub(r"a=rtpmap:(97|99) .*\r\n", "", offer).replace(*change)
    (media,) = [it for it in SessionDescription.parse(admit("offer", only).shown).media if it.kind == "video"]
    common = find_common_codecs(CODECS["video"], media.rtp.codecs)
    assert [(codec.name, codec.payloadType) for codec in common] == [("H264", 101), ("rtx", 102)]
    assert common[0].parameters["profile-level-id"] == "42e01f"


async def test_there_is_one_data_section(offer: str) -> None:
    second = offer[offer.index("m=application") :].replace("a=mid:2", "a=mid:3")
    admitted = admit("offer", offer.replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 3") + second)
    assert admitted.unusable == {"3": "there is a data section already"}
    shown = SessionDescription.parse(admitted.shown).media
    assert [media.kind for media in shown] == ["audio", "video", "application", "video"]


async def test_an_answer_says_who_begins_dtls(offer: str) -> None:
    with pytest.raises(SdpError, match="who begins DTLS"):
        admit("answer", offer)
    assert admit("answer", offer.replace("actpass", "active")).unusable == {}


def test_feedback_that_aiortc_knows_is_kept() -> None:
    known = {" ".join(filter(None, (it.type, it.parameter))) for it in CODECS["video"][0].rtcpFeedback}
    assert known == set(FEEDBACK)


async def test_an_unknown_kind_is_declined(offer: str) -> None:
    admitted = admit("offer", offer.replace("m=video ", "m=text "))
    assert admitted.unusable == {"1": "its kind is unknown"}


async def test_a_section_without_rtcp_multiplexing_is_declined(offer: str) -> None:
    admitted = admit("offer", without(offer, "a=rtcp-mux"))
    assert sorted(admitted.unusable) == ["0", "1"]


async def test_what_the_remote_declined_is_nothing_that_this_end_declines(offer: str) -> None:
    first = next(line for line in offer.splitlines() if line.startswith("m=audio"))
    admitted = admit("offer", offer.replace(first, first.replace(first.split()[1], "0", 1)))
    assert list(admitted.declined) == ["0"]
    assert admitted.unusable == {}


@pytest.mark.parametrize("attribute", ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup"])
async def test_without_a_transport_nothing_can_be_taken(offer: str, attribute: str) -> None:
    with pytest.raises(SdpError, match=r"ICE credentials|ICE user fragment|DTLS fingerprint"):
        admit("offer", without(offer, attribute))


@pytest.mark.parametrize("line", ["a=setup:actpass", r"a=fingerprint:sha-\d+ [0-9A-F:]+"])
@pytest.mark.parametrize("mid", [0, 1])
async def test_a_section_of_the_bundle_with_an_odd_transport_line_has_that_of_the_others(
    offer: str, line: str, mid: int
) -> None:
    parts = re.split("(?=m=)", offer)
    parts[1 + mid] = re.sub(line, "a=setup:holdconn", parts[1 + mid])
    admitted = admit("offer", "".join(parts))
    assert (admitted.unusable, admitted.odd_lines > 0) == ({}, True)
    section = re.split("(?=m=)", admitted.shown)[1 + mid]
    assert ("a=setup:actpass\r\n" in section, "a=fingerprint:sha-256" in section) == (True, True)


TRANSPORT = ["a=ice-ufrag:abcd", "a=ice-pwd:SECRET", "a=fingerprint:sha-256 AA:BB", "a=setup:active"]
REAL = [
    *("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=group:BUNDLE 0 1 2", "a=msid-semantic:WMS *"),
    *("m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "a=mid:0", "a=rtcp-mux", *TRANSPORT, "a=rtpmap:111 opus/48000/2"),
    *("m=video 9 UDP/TLS/RTP/SAVPF 96 97 99", "a=mid:1", "a=rtcp-mux", *TRANSPORT, "a=rtpmap:96 VP8/90000"),
    *("a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96", "a=rtpmap:99 H264/90000", "a=fmtp:99 packetization-mode=1"),
    *("a=ssrc-group:FID 1 2", "a=ssrc:1 cname:x", "a=ssrc:2 cname:x", "a=msid:s t", "a=rtcp-fb:* nack"),
    *("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:2", *TRANSPORT, "a=sctp-port:5000"),
]
NAME_LIST = (
    "rtpmap fmtp rtcp-fb extmap ssrc ssrc-group candidate setup fingerprint mid msid msid-semantic group ice-ufrag "
    "ice-pwd ice-lite ice-options sctpmap sctp-port max-message-size rtcp rtcp-mux bundle-only sendrecv inactive "
    "end-of-candidates rid simulcast crypto x"
)
PIECE_LIST = (
    "0 1 9 15 72 96 97 99 111 255 256 99999999999 -1 x * : / ; = - \t \u0661 \u2028 \x00 \ud800 apt=97 apt=x apt "
    "packetization-mode=1 packetization-mode packetization-mode= profile-level-id=42e01f profile-level-id=zz "
    "VP8/90000 H264/90000 opus/48000/2 rtx/90000 VP8 nack pli goog-remb urn:x 1/sendonly FID cname: cname:x BUNDLE "
    "sha-256 AA:BB active actpass passive holdconn webrtc-datachannel 1024 IN IP4 IP6 0.0.0.0 UDP/TLS/RTP/SAVPF "
    "DTLS/SCTP 5000 audio video application text"
)
VALUES = st.lists(st.sampled_from(PIECE_LIST.split(" ")), max_size=6).map(" ".join)
ODD_LINES = st.one_of(
    st.builds("a={}:{}".format, st.sampled_from(NAME_LIST.split()), VALUES),
    st.builds("a={}".format, st.sampled_from(NAME_LIST.split())),
    st.builds("m={}".format, VALUES),
    st.builds("{}={}".format, st.sampled_from("vosctb"), VALUES),
    st.text(max_size=20),
)
EDITS = st.lists(st.tuples(st.integers(0, len(REAL)), st.integers(0, 2), ODD_LINES), max_size=8)


def edited(edits: list[tuple[int, int, str]]) -> str:
    """Return a description with lines added, replaced and removed."""
    lines = list(REAL)
    for place, removed, line in edits:
        lines[place : place + removed] = [line]
    return "\r\n".join(lines)


def check_shown(description: RemoteDescription) -> None:
    """Check that aiortc takes what it is shown: each thing that it does with it before it changes anything or after."""
    parsed = SessionDescription.parse(description.shown)
    assert str(parsed)
    assert [media.rtp.muxId for media in parsed.media] == list(description.mids)
    assert len({media.rtp.muxId for media in parsed.media if media.kind == "application"}) <= 1
    for media in parsed.media:
        parsed.webrtc_track_id(media)
        assert media.ice.usernameFragment
        assert media.ice.password
        assert media.dtls is not None
        assert media.dtls.role in ("client", "server")
        if media.kind == "application":
            assert media.sctp_port in range(1, 65_536)
        else:
            assert media.rtcp_mux
            assert media.direction is not None
            assert and_direction(media.direction, "sendrecv")
            assert find_common_codecs(CODECS[media.kind], media.rtp.codecs)


def outcome(sdp: str) -> tuple[RemoteDescription | None, str]:
    """Return what an answer is admitted as, or why it is refused."""
    try:
        return admit("answer", sdp), ""
    except SdpError as error:
        return None, str(error)


@given(edits=EDITS)
@settings(max_examples=300)
def test_whatever_comes_is_refused_with_a_reason_or_shown_so_that_aiortc_takes_it(
    edits: list[tuple[int, int, str]],
) -> None:
    description, refusal = outcome(edited(edits))
    assert "SECRET" not in refusal
    if description is not None:
        assert "SECRET" not in "".join(description.noted)
        check_shown(description)


@given(text=st.text(alphabet=st.sampled_from("a=m:;/ 019x\r\n\u2028")))
def test_garbage_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(SdpError):
        admit("offer", text)
    with suppress(SdpError):
        check_shown(admit("answer", edited([(20, 0, text)])))
