"""Reading the facts of a description."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation import sdp
from metered_realtime.core.negotiation.sdp import Description, SdpError

SESSION = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\na=group:BUNDLE 0 1\r\n"


def media(*lines: str, kind: str = "video", port: int = 9) -> str:
    return "\r\n".join((f"m={kind} {port} UDP/TLS/RTP/SAVPF 96", *lines, ""))


def test_the_facts_of_sections_are_read() -> None:
    text = (
        SESSION
        + media("a=mid:0", "a=ice-ufrag:abcd", kind="application")
        + media("a=mid:1", "a=sendonly", "a=msid:stream track")
        + media("a=mid:2", "a=recvonly", kind="audio")
    )
    data, video, audio = sdp.sections(text)
    assert (data.kind, data.mid, data.sends) == ("application", "0", False)
    assert (video.kind, video.direction, video.stream_ids, video.track_id) == (
        "video",
        "sendonly",
        ("stream",),
        "track",
    )
    assert video.sends
    assert (audio.direction, audio.stream_ids, audio.track_id, audio.sends) == ("recvonly", (), None, False)


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_both_kinds_of_line_ends_are_read(newline: str) -> None:
    text = (SESSION + media("a=mid:0", "a=ice-ufrag:abcd")).replace("\r\n", newline)
    assert Description.parse("offer", text).mids == ("0",)
    assert f"a=x-metered-offer:t{newline}m=" in sdp.with_offer_tag(text, "t")


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("a=msid:- track", ((), "track")),
        ("a=msid:stream", (("stream",), None)),
        ("a=msid:", ((), None)),
        ("a=msid:a b\r\na=msid:c d", (("a", "c"), "b")),
        ("a=msid:a b\r\na=msid:a b\r\na=msid:- b", (("a",), "b")),
        ("\r\n".join(f"a=msid:{number} b" for number in range(99)), (tuple(map(str, range(16))), "b")),
    ],
)
def test_msid_may_be_partial_or_repeated(line: str, ids: tuple[tuple[str, ...], str | None]) -> None:
    (section,) = sdp.sections(SESSION + media(line))
    assert (section.stream_ids, section.track_id) == ids


def test_a_direction_of_the_session_holds_for_sections_without_one() -> None:
    text = SESSION + "a=inactive\r\n" + media("a=mid:0") + media("a=mid:1", "a=sendrecv")
    assert [section.direction for section in sdp.sections(text)] == ["inactive", "sendrecv"]
    assert [section.direction for section in sdp.sections(SESSION + media())] == ["sendrecv"]


def test_port_0_rejects_a_section_unless_it_is_bundle_only() -> None:
    rejected, bundled = sdp.sections(SESSION + media("a=mid:0", port=0) + media("a=mid:1", "a=bundle-only", port=0))
    assert (rejected.rejected, rejected.sends) == (True, False)
    assert (bundled.rejected, bundled.sends) == (False, True)


def test_a_description_has_fragment_mids_and_tag() -> None:
    text = SESSION + media("a=mid:0", "a=ice-ufrag:abcd") + media("a=mid:x", "a=ice-ufrag:efgh")
    assert Description.parse("offer", text) == Description("offer", text, "abcd", ("0", "x"), None)
    offer = Description.parse("offer", sdp.with_offer_tag(text, "abcd.1"))
    assert offer.tag == "abcd.1"
    answer = Description.parse("answer", sdp.with_answer_tag(text, offer.tag))
    assert answer.tag == "abcd.1"
    assert Description.parse("answer", offer.sdp).tag is None, "an answer does not have the tag of an offer"
    assert sdp.with_answer_tag(text, None) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        SESSION,
        SESSION + "a=ice-ufrag:abcd\r\n",
        SESSION + media("a=mid:0"),
        SESSION + media("a=mid:0", "a=ice-ufrag:"),
        SESSION + media("a=ice-ufrag:abcd"),
        SESSION + media("a=mid:0", "a=ice-ufrag:abcd") + media("a=mid:0"),
        SESSION + "a=ice-ufrag:abcd\r\n" + "".join(media(f"a=mid:{n}") for n in range(sdp.MAX_SDP_SECTIONS + 1)),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(SdpError):
        Description.parse("offer", text)


def test_the_end_of_candidates_can_be_removed() -> None:
    text = SESSION + media("a=mid:0", "a=candidate:1", "a=end-of-candidates", "a=sendrecv")
    assert sdp.without_end_of_candidates(text) == text.replace("a=end-of-candidates\r\n", "")


def test_a_description_with_the_same_certificate_is_of_the_same_end_whatever_session_it_names() -> None:
    text = SESSION + media("a=mid:0", "a=ice-ufrag:abcd", "a=fingerprint:sha-256 ab:cd")
    description = Description.parse("offer", text)
    assert description.fingerprint == "SHA-256 AB:CD"
    again = Description.parse("answer", text.replace("abcd", "efgh").replace("o=- 1 1", "o=- 4611 2"))
    assert again.restarts(description)
    assert not Description.parse("answer", again.sdp.replace("ab:cd", "ab:ce")).restarts(description)
    assert not description.restarts(description)
    assert not Description.parse("answer", sdp.with_answer_tag(again.sdp, "t")).restarts(description)


def test_an_origin_keeps_its_session_and_changes_its_version() -> None:
    text = SESSION + media("a=mid:0")
    assert sdp.with_origin(text, 4611, 2) == text.replace("o=- 1 1 IN", "o=- 4611 2 IN")


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_sources_stand_only_in_sections_that_send(newline: str) -> None:
    sources = ("a=msid:stream track", "a=ssrc-group:FID 1 2", "a=ssrc:1 cname:x", "a=ssrc:2 cname:x")
    bare = SESSION + "".join(media(f"a=mid:{mid}", f"a={it}") for mid, it in enumerate(("recvonly", "inactive")))
    sending = "".join(media(f"a=mid:{mid}", f"a={it}", *sources) for mid, it in ((2, "sendonly"), (3, "sendrecv")))
    idle = SESSION + "".join(
        media(f"a=mid:{mid}", *sources, f"a={it}") for mid, it in enumerate(("recvonly", "inactive"))
    )
    full, wanted = ((text + sending).replace("\r\n", newline) for text in (idle, bare))
    assert sdp.without_idle_sources(full) == wanted
