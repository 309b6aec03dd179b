"""Fragments of descriptions with ICE credentials and candidates."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.ice_fragment import MAX_FRAGMENT_LENGTH, IceFragment, fragment_of
from metered_realtime.core.negotiation.sdp import SdpError

HOST = "candidate:1 1 udp 2130706431 192.0.2.1 1000 typ host"
SRFLX = "candidate:2 1 udp 1694498815 198.51.100.1 2000 typ srflx raddr 192.0.2.1 rport 1000"

OFFER = f"""v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0 1
a=ice-options:trickle
m=audio 1000 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=ice-ufrag:abcd
a=ice-pwd:hushhushhushhushhushhu
a={HOST}
a=end-of-candidates
a=setup:actpass
m=video 1000 UDP/TLS/RTP/SAVPF 96
a=mid:1
a=ice-ufrag:abcd
a=ice-pwd:hushhushhushhushhushhu
a={HOST}
a=end-of-candidates
"""


def test_the_fragment_of_a_description_has_one_section_for_all() -> None:
    assert fragment_of(OFFER).splitlines() == [
        "a=group:BUNDLE 0 1",
        "a=ice-options:trickle",
        "m=audio 1000 UDP/TLS/RTP/SAVPF 111",
        "a=mid:0",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:hushhushhushhushhushhu",
        f"a={HOST}",
        "a=end-of-candidates",
    ]


def test_a_fragment_may_have_other_candidates_and_may_be_of_a_fragment() -> None:
    first = fragment_of(OFFER, [SRFLX], is_complete=False)
    assert IceFragment.parse(first) == IceFragment("abcd", "hushhushhushhushhushhu", (SRFLX,), False)
    assert IceFragment.parse(fragment_of(first, [HOST], is_complete=True)).candidates == (HOST,)


def test_a_declined_section_speaks_for_none() -> None:
    declined = OFFER.replace("m=audio 1000", "m=audio 0")
    assert "m=video 1000 UDP/TLS/RTP/SAVPF 96" in fragment_of(declined)


def test_a_fragment_replaces_the_credentials_and_candidates_of_a_description() -> None:
    text = IceFragment("wxyz", "x" * 22, (SRFLX,), True).apply_to(OFFER)
    assert text.count("a=ice-ufrag:wxyz\r\n") == text.count(f"a=ice-pwd:{'x' * 22}\r\n") == 2
    assert "abcd" not in text
    assert HOST not in text
    assert text.count(SRFLX) == text.count("a=end-of-candidates") == 1
    assert "a=setup:actpass\r\n" in text


def test_candidates_alone_need_no_credentials() -> None:
    fragment = IceFragment.parse(f"m=audio 9 RTP/AVP 0\r\na=mid:0\r\na={HOST}\r\n")
    assert fragment == IceFragment(None, None, (HOST,), False)
    with pytest.raises(SdpError, match="without ICE user fragment"):
        fragment.apply_to(OFFER)


def test_of_several_transports_the_first_one_counts() -> None:
    other = OFFER.replace("a=mid:1\na=ice-ufrag:abcd", "a=mid:1\na=ice-ufrag:other").replace("m=video", "m=video")
    fragment = IceFragment.parse(other.replace(HOST, SRFLX).replace(SRFLX, HOST, 1))
    assert (fragment.ufrag, fragment.candidates) == ("abcd", (HOST,))


@pytest.mark.parametrize(
    "text",
    [
        "x" * (MAX_FRAGMENT_LENGTH + 1),
        "a=ice-ufrag:abcd\r\n",
        "a=ice-pwd:abcd\r\n",
        "a=ice-ufrag:ab cd\r\na=ice-pwd:x\r\n",
        "a=ice-ufrag:\r\na=ice-pwd:x\r\n",
        f"a=ice-ufrag:{'x' * 300}\r\na=ice-pwd:x\r\n",
        "m=audio\r\n" * 129,
        "".join(f"a=candidate:{number} 1 udp 1 192.0.2.1 9 typ host\r\n" for number in range(201)),
    ],
)
def test_what_is_no_fragment_is_refused(text: str) -> None:
    with pytest.raises(SdpError) as refused:
        IceFragment.parse(text)
    assert len(str(refused.value)) < 300


def test_the_password_is_not_shown() -> None:
    fragment = IceFragment.parse("a=ice-ufrag:abcd\r\na=ice-pwd:hush\r\n")
    assert "hush" not in repr(fragment)
    with pytest.raises(SdpError) as refused:
        IceFragment.parse("a=ice-ufrag:abcd\r\na=ice-pwd:hush hush\r\n")
    assert "hush" not in str(refused.value)
