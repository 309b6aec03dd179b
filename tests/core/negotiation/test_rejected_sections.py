"""Descriptions with declined sections, as aiortc and the other end are given them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.negotiation.rejected_sections import first_lines, stand_in, with_port_zero
from metered_realtime.core.negotiation.sdp import Description

TRANSPORT = ("a=ice-ufrag:abcd", "a=ice-pwd:" + "p" * 22, "a=fingerprint:sha-256 AA:BB", "a=setup:actpass")


def session(*mids: str) -> str:
    return "\r\n".join(("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", f"a=group:BUNDLE {' '.join(mids)}", ""))


def section(kind: str, mid: str | None, *lines: str, port: int = 9) -> str:
    named = () if mid is None else (f"a=mid:{mid}",)
    return "\r\n".join((f"m={kind} {port} UDP/TLS/RTP/SAVPF 96 97", *named, *lines, ""))


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("audio", "m=audio 9"), ("video", "m=video 9"), ("application", "m=application 9"), ("text", "m=video 9")],
)
def test_a_declined_section_is_shown_inactive_with_the_transport_of_the_others(kind: str, shown: str) -> None:
    sdp = session("0") + section("audio", "0", *TRANSPORT) + section(kind, "1", "a=sendrecv", port=0)
    text = stand_in(sdp, ["1"])
    before, after = text.split("a=mid:1")
    assert shown in before.splitlines()[-2]
    assert "a=inactive" in after
    assert "a=sendrecv" not in after
    assert all(line in after for line in TRANSPORT)
    assert before.startswith(sdp.partition("a=mid:0")[0])


def test_a_description_has_one_data_section_at_the_most() -> None:
    data = [section("application", mid, *TRANSPORT) for mid in "012"]
    shown = stand_in(session("0", "1", "2") + "".join(data), ["0", "2"])
    kinds = [line.split()[0] for line in shown.splitlines() if line.startswith("m=")]
    assert kinds == ["m=video", "m=application", "m=video"]


def test_a_bundled_section_may_omit_the_shared_transport() -> None:
    sdp = session("0", "1") + section("audio", "0", *TRANSPORT) + section("video", "1", "a=setup:active")
    video = stand_in(sdp, []).split("m=video")[1]
    assert video.count("a=ice-ufrag:abcd") == video.count("a=fingerprint:") == video.count("a=rtcp-mux") == 1
    assert "a=setup:actpass" not in video
    alone = session("0") + section("audio", "0", *TRANSPORT) + section("video", "1")
    assert stand_in(alone, []) == alone


def test_a_description_without_declined_sections_stays_unchanged() -> None:
    sdp = session("0") + section("audio", "0", *TRANSPORT) + "a=odd  \r\n"
    assert stand_in(sdp, []) == with_port_zero(sdp, {}) == sdp


def test_a_section_that_this_end_declines_has_port_0_and_leaves_the_bundle() -> None:
    sdp = session("0", "1", "2") + "".join(section("video", mid, "a=sendrecv", *TRANSPORT) for mid in "012")
    text = with_port_zero(sdp, {"1": "m=text 9 RTP/AVP 98 99"})
    assert "a=group:BUNDLE 0 2\r\n" in text
    assert "m=text 0 RTP/AVP 98 99\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=inactive\r\nm=video 9" in text
    assert Description.parse("answer", text).mids == ("0", "1", "2")


LINES = st.lists(
    st.sampled_from(
        ["m=video 0 x 96", "m=audio 9 x 1", "m=", "m=x", "a=mid:1", "a=mid:", "a=", "a=group:BUNDLE 1", "", "x"]
    )
)


@given(lines=LINES, declined=st.sets(st.sampled_from(["", "1", "2"])))
def test_declining_sections_never_raises(lines: list[str], declined: set[str]) -> None:
    sdp = "\n".join(lines)
    known = first_lines(sdp)
    stand_in(sdp, declined)
    with_port_zero(sdp, {mid: known.get(mid, "m=video 9 x 1") for mid in declined})
