"""Descriptions from remotes: their facts, their normal form and their faults."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation import remote_sdp, sdp_attributes
from metered_realtime.core.negotiation.candidates import MAX_REMOTE_CANDIDATES
from metered_realtime.core.negotiation.rejected_sections import with_port_zero
from metered_realtime.core.negotiation.remote_sdp import RemoteSdp, read_remote
from metered_realtime.core.negotiation.sdp import MAX_SDP_SECTIONS, SdpError, masked
from metered_realtime.core.negotiation.sdp_sections import Form, in_form

SECRET = "p" * 22
TRANSPORT = ("a=ice-ufrag:abcd", f"a=ice-pwd:{SECRET}", "a=fingerprint:sha-256 AA:BB", "a=setup:actpass")
SESSION = ("v=0", "o=- 4611 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=group:BUNDLE 0 1")
VIDEO = ("m=video 9 UDP/TLS/RTP/SAVPF 96 97", "a=mid:0", "a=rtcp-mux", *TRANSPORT)
CODECS = ("a=rtpmap:96 VP8/90000", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96")
DATA = ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:1", *TRANSPORT)


def read(*lines: str) -> RemoteSdp:
    return read_remote("\r\n".join((*lines, "")))


def offer(*odd: str) -> RemoteSdp:
    """Read an offer of a camera and data, with additional lines for the camera."""
    return read(*SESSION, *VIDEO, *CODECS, *odd, *DATA)


def lines_of(read: RemoteSdp, mid: str) -> list[str]:
    section = next(part for part in read.text.split("m=")[1:] if f"a=mid:{mid}\r\n" in part)
    return ("m=" + section).splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "a=fmtp:96",
        "a=fmtp:",
        "a=fmtp",
        "a=fmtp:96 =",
        "a=fmtp:97 apt=x",
        "a=fmtp:96 packetization-mode",
        "a=fmtp:120 x=1",
        "a=fmtp:x y=1",
        "a=rtpmap:96",
        "a=rtpmap:97 VP9",
        "a=rtpmap:x VP9/90000",
        "a=rtpmap:98 VP9/90000",
        "a=rtpmap:97 VP9/many",
        "a=rtcp-fb:96",
        "a=rtcp-fb",
        "a=rtcp-fb:x nack",
        "a=extmap:1",
        "a=extmap:x urn:x",
        "a=extmap:1/sideways urn:x",
        "a=extmap:0 urn:x",
        "a=extmap:15 urn:x",
        "a=extmap:99999 urn:x",
        f"a=extmap:1 {'x' * 300}",
        "a=ssrc:1",
        "a=ssrc:x cname:y",
        "a=ssrc:4294967296 cname:y",
        "a=ssrc-group:FID",
        "a=ssrc-group:FID 1 x",
        "a=ssrc-group:FID 1 4294967296",
        "a=setup:holdconn",
        "a=setup",
        "a=setup:passive",
        "a=fingerprint:sha-256",
        "a=fingerprint:sha-256 xyz",
        "a=mid:",
        "a=mid:other",
        "a=msid:",
        "a=msid",
        "a=ice-ufrag",
        "a=sctp-port:x",
        "a=max-message-size:-1",
        "a=max-message-size:1e9",
        f"a=max-message-size:{'9' * 5000}",
        f"a=rtpmap:97 {'x' * 5000}/90000",
        "a=ssrc:1 cname:\x00",
        "a=ssrc:1 cname:\u2028m=audio 9 RTP/AVP 0",
        "a=ssrc:1 cname:\ud800",
        "this is no line",
    ],
)
def test_an_odd_line_is_left_out_and_noted(line: str) -> None:
    odd, plain = offer(line), offer()
    assert odd.text == plain.text
    assert odd.sections == plain.sections
    assert (odd.odd_lines, len(odd.noted)) == (1, 1)
    assert odd.noted[0].startswith(masked(line)[:40])


@pytest.mark.parametrize(
    "line",
    [
        "b=AS:many",
        "c=IN IP4 example.com",
        "c=nonsense",
        "i=what it is",
        "a=rid:h send",
        "a=unknown:x",
        "a=rtcp:9 IN IP4 host.example",
        "a=rtcp:x",
        "a=sctp-port:0",
        "a=rtcp-fb:96 transport-cc",
        "a=msid:-",
        "a=ice-options:trickle",
        "a=extmap:1/inactive urn:x",
        "",
    ],
)
def test_an_unused_attribute_is_left_out_and_not_noted(line: str) -> None:
    odd, plain = offer(line), offer()
    assert (odd.text, odd.odd_lines) == (plain.text, 0)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a=extmap:3 urn:x with attributes", "a=extmap:3 urn:x"),
        ("a=extmap:3/sendonly urn:x", "a=extmap:3 urn:x"),
        ("a=extmap: 3  urn:x", "a=extmap:3 urn:x"),
        ("a=ssrc:7 no-value", "a=ssrc:7 cname:-"),
        ("a=ssrc:7 cname:them", "a=ssrc:7 cname:them"),
        ("a=fmtp:96 Max-FS = 12 ; max-fr=30;", "a=fmtp:96 max-fs=12;max-fr=30"),
        ("a=fmtp:96 max-fs=x;max-fr=30", "a=fmtp:96 max-fr=30"),
        ("a=rtcp-fb:* NACK  PLI", "a=rtcp-fb:96 nack pli"),
        ("a=ssrc-group:FID  7  8", "a=ssrc-group:FID 7 8"),
        ("a=recvonly", "a=recvonly"),
    ],
)
def test_a_readable_attribute_has_one_normal_form(line: str, shown: str) -> None:
    assert shown in lines_of(offer(line), "0")


@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("end", [True, False])
def test_all_kinds_of_line_ends_are_read(newline: str, end: bool) -> None:
    text = newline.join((*SESSION, *VIDEO, *CODECS, *DATA)) + newline * end
    assert read_remote(text) == offer()


def test_the_facts_of_the_sections_are_read() -> None:
    facts = read(*SESSION, "a=x-metered-offer:t1", *VIDEO, *CODECS, "a=sendonly", "a=msid:s t", *DATA)
    assert (facts.ufrag, facts.fingerprint) == ("abcd", "SHA-256 AA:BB")
    assert (facts.offer_tag, facts.answer_tag) == ("t1", None)
    video, data = (section.facts for section in facts.sections)
    assert (video.kind, video.mid, video.direction, video.stream_ids, video.track_id) == (
        ("video", "0", "sendonly", ("s",), "t")
    )
    assert (data.kind, data.mid, data.sends) == ("application", "1", False)


def test_session_level_attributes_apply_to_all_sections() -> None:
    shared = read(*SESSION, *TRANSPORT, "a=recvonly", "a=extmap:3 urn:x", *VIDEO[:3], *CODECS, *DATA[:2])
    assert {*TRANSPORT, "a=recvonly", "a=extmap:3 urn:x"} <= set(lines_of(shared, "0"))
    assert set(TRANSPORT) <= set(lines_of(shared, "1"))


def test_payload_types_are_in_the_order_of_the_first_line() -> None:
    swapped = read(*SESSION, "m=video 9 RTP/SAVPF 98 96 98", *VIDEO[1:], *CODECS[:1], "a=rtpmap:98 VP9/90000", *DATA)
    assert [codec.name for codec in swapped.sections[0].codecs] == ["VP9", "VP8"]
    assert lines_of(swapped, "0")[0] == "m=video 9 UDP/TLS/RTP/SAVPF 98 96"


def test_a_payload_type_without_rtpmap_has_its_static_codec() -> None:
    audio = read(*SESSION, "m=audio 9 UDP/TLS/RTP/SAVPF 0 8 9 101 77", *VIDEO[1:])
    assert [(codec.payload_type, codec.name) for codec in audio.sections[0].codecs] == (
        [(0, "PCMU"), (8, "PCMA"), (9, "G722")]
    )
    renamed = read(*SESSION, "m=audio 9 UDP/TLS/RTP/SAVPF 0", *VIDEO[1:], "a=rtpmap:0 opus/48000/2")
    assert renamed.sections[0].codecs[0].name == "opus"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("m=video 9 UDP/TLS/RTP/SAVPF", "first line makes no sense"),
        ("m=video x UDP/TLS/RTP/SAVPF 96", "first line makes no sense"),
        ("m=video", "first line makes no sense"),
        ("m=", "first line makes no sense"),
        ("m=video 9 UDP/TLS/RTP/SAVPF 96\u2028", "first line makes no sense"),
        ("m=text 9 UDP/TLS/RTP/SAVPF 96", "kind is unknown"),
        ("m=text 9 UDP/TLS/RTP/SAVPF t140 x", "kind is unknown"),
        ("m=video 9 TCP/MRCPv2 96", "protocol is unknown: 'm=video 9 TCP/MRCPv2 96'"),
        ("m=application 9 UDP/BFCP *", "protocol is unknown"),
    ],
)
def test_a_section_whose_first_line_is_odd_has_a_fault(line: str, fault: str) -> None:
    section, data = read(*SESSION, line, *VIDEO[1:], *CODECS, *DATA).sections
    assert fault in (section.fault or "")
    assert data.fault is None


@pytest.mark.parametrize(
    "proto", ["RTP/AVPF", "RTP/SAVP", "UDP/TLS/RTP/SAVP", "udp/tls/rtp/savpf", "TCP/DTLS/RTP/SAVPF"]
)
def test_all_protocols_of_rtp_have_one_normal_form(proto: str) -> None:
    media = read(*SESSION, f"m=video 9/2 {proto} 96", *VIDEO[1:], *CODECS, *DATA)
    assert media.sections[0].fault is None
    assert lines_of(media, "0")[0] == "m=video 9 UDP/TLS/RTP/SAVPF 96"


@pytest.mark.parametrize(
    ("lines", "shown", "form"),
    [
        (
            ("DTLS/SCTP 5001", "a=sctpmap:5001 webrtc-datachannel 1024"),
            ("a=sctp-port:5001",),
            Form("DTLS/SCTP", "5001"),
        ),
        (
            ("DTLS/SCTP 5000", "a=fmtp:5000 protocol=webrtc-datachannel;streams=16"),
            ("a=sctp-port:5000",),
            Form("DTLS/SCTP", "5000"),
        ),
        (
            ("DTLS/SCTP webrtc-datachannel", "a=fmtp:webrtc-datachannel max-message-size=100000", "a=sctp-port:5000"),
            ("a=sctp-port:5000", "a=max-message-size:100000"),
            Form("DTLS/SCTP", "webrtc-datachannel"),
        ),
        (
            ("UDP/DTLS/SCTP webrtc-datachannel", "a=max-message-size:0"),
            ("a=sctp-port:5000", "a=max-message-size:0"),
            None,
        ),
        (("UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:99999"), ("a=sctp-port:5000",), None),
        (("DTLS/SCTP 0",), ("a=sctp-port:5000",), Form("DTLS/SCTP", "0")),
    ],
)
def test_old_and_new_data_sections_have_one_normal_form(
    lines: tuple[str, ...], shown: tuple[str, ...], form: Form | None
) -> None:
    old = read(*SESSION, *VIDEO, *CODECS, f"m=application 9 {lines[0]}", *lines[1:], *DATA[1:])
    found = lines_of(old, "1")
    assert found[0] == DATA[0]
    assert [line for line in found if "sctp" in line[2:] or "message" in line] == list(shown)
    assert old.sections[1].form == form


def test_an_answer_has_the_form_of_its_offer() -> None:
    text = "\r\n".join((*SESSION, *VIDEO, *DATA, "a=sctp-port:5000", "a=max-message-size:65536", ""))
    written = in_form(text, {"0": Form("RTP/SAVPF"), "1": Form("DTLS/SCTP", "5001")})
    video, data = written.split("m=")[1:]
    assert video.startswith("video 9 RTP/SAVPF 96 97\r\n")
    assert data.startswith("application 9 DTLS/SCTP 5000\r\n")
    assert data.endswith("a=max-message-size:65536\r\na=sctpmap:5000 webrtc-datachannel 65535\r\n")
    assert "sctp-port" not in written
    assert in_form(text, {}) == text
    newer = in_form(text, {"1": Form("DTLS/SCTP", "webrtc-datachannel")})
    assert newer == text.replace("UDP/DTLS/SCTP", "DTLS/SCTP")


def test_a_declined_section_without_a_mid_has_the_mid_of_its_position() -> None:
    text = "\r\n".join((*SESSION, *VIDEO, "m=video 0 UDP/TLS/RTP/SAVPF 96", ""))
    assert [section.facts.mid for section in read_remote(text, ["x", "b", "c"]).sections] == ["0", "b"]


def test_a_section_without_a_mid_of_its_own_has_a_fault_and_a_made_up_one() -> None:
    sections = read(*SESSION, *VIDEO, *CODECS, *DATA, *VIDEO, *CODECS, "m=video 9 RTP/SAVPF 96").sections
    assert [section.facts.mid for section in sections] == ["0", "1", "x-nameless-2", "x-nameless-3"]
    assert [section.fault for section in sections] == [
        None,
        None,
        "it has no mid of its own: 'a=mid:0'",
        "it has no mid of its own: 'm=video 9 RTP/SAVPF 96'",
    ]
    declined = {section.facts.mid: section.first_line for section in sections[2:]}
    text = "\r\n".join((*VIDEO, *DATA, "m=video 9 x 96", "a=mid:x-nameless-2", ""))
    assert with_port_zero(text, declined).endswith(
        "m=video 0 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n"
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "no sections"),
        (SESSION, "no sections"),
        ((*SESSION, "m=video 9 UDP/TLS/RTP/SAVPF 96", *TRANSPORT), "no sections with a mid"),
        ((*SESSION, *VIDEO, *("m=video 9 x 1", "a=mid:x-nameless-2") * 2), "'a=mid:x-nameless-2'"),
        ((*SESSION, *VIDEO[:3]), "user fragment"),
        ((*SESSION, *TRANSPORT, *("m=video 9 x 1",) * (MAX_SDP_SECTIONS + 1)), "sections"),
        (("x" * (remote_sdp.MAX_SDP_LENGTH + 1),), "characters"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_with_its_line(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(SdpError, match=words):
        read(*lines)


def test_a_feedback_wildcard_does_not_multiply_the_text() -> None:
    numbers = [*range(64), *range(96, 128)]
    lines = [f"a=rtpmap:{number} C{number}/90000" for number in numbers]
    lines += [f"a=rtcp-fb:* {kind}" for kind in ("nack", "nack pli", "ccm fir", *(f"x{n}" for n in range(400)))]
    first = f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, numbers))}"
    crowded = read(*SESSION, first, *VIDEO[1:], *lines, *DATA)
    assert len(crowded.sections[0].codecs) == len(numbers)
    assert len(crowded.text.splitlines()) < 3 * len(lines)


def test_there_is_a_bound_for_each_kind_of_line() -> None:
    def crowd(line: str, count: int = 1000) -> list[str]:
        crowded = offer(*(line.format(number) for number in range(1, count + 1)))
        assert crowded.odd_lines > count / 3
        return lines_of(crowded, "0")

    plain = len(lines_of(offer(), "0"))
    assert len(crowd("a=ssrc:{} cname:x")) == plain + sdp_attributes.MAX_SOURCES
    assert len(crowd("a=ssrc-group:FID 1 {}")) == plain + sdp_attributes.MAX_SOURCES
    assert len(crowd("a=extmap:{0} urn:x:{0}", 254)) <= plain + sdp_attributes.MAX_EXTENSIONS
    assert len(crowd("a=fingerprint:sha-{} AA")) == plain - 1 + sdp_attributes.MAX_FINGERPRINTS
    assert len(crowd("a=fmtp:96 p{}=1")[-1]) < 5000


def test_candidates_are_taken_out_of_the_text_once_and_bounded() -> None:
    line = "a=candidate:1 {} udp 1 192.0.2.1 {} typ host"
    few = [line.format(1, port) for port in (1000, 1001, 1001)] + [line.format(2, 1002)]
    found = read(*SESSION, *VIDEO, *CODECS, *few, *DATA, *few)
    assert [candidate.port for candidate in found.candidates] == [1000, 1001]
    assert "candidate:" not in found.text
    many = offer(*(line.format(1, port) for port in range(1000, 1500)))
    assert (len(many.candidates), many.candidates_refused) == (MAX_REMOTE_CANDIDATES, 500 - MAX_REMOTE_CANDIDATES)
    assert "more than 200" in many.refusal


@pytest.mark.parametrize("line", ["a=candidate:", "a=candidate", "a=candidate:1 1 udp 1 192.0.2.1 x typ host"])
def test_a_candidate_that_cannot_be_read_is_refused_alone(line: str) -> None:
    odd, plain = offer(line), offer()
    assert (odd.text, odd.odd_lines, odd.candidates_refused) == (plain.text, 0, 1)
    assert line in odd.refusal


@pytest.mark.parametrize(
    "line",
    [
        f"a=ice-pwd:{SECRET}",
        f"a=ice-pwd {SECRET}",
        f"ice-pwd={SECRET}",
        f"a= ICE-PWD :{SECRET} {SECRET}",
        f"a=ice-ufrag:{SECRET}",
        f"a=candidate:1 1 udp 1 nowhere 9 typ host ufrag {SECRET}",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{SECRET}",
        f"k=clear:{SECRET}",
    ],
)
def test_no_secret_is_shown(line: str) -> None:
    assert SECRET not in masked(line)
    assert SECRET not in str(SdpError("x", line))
    read = offer(line.replace(SECRET, SECRET + "\u2028"))
    assert SECRET not in "".join(read.noted) + read.refusal
