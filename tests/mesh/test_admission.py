"""What of a remote description is taken: by a connection that goes on, whatever one section of it is like."""

from __future__ import annotations

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from metered_realtime.core.sdp import SdpError
from metered_realtime.media.testsource import PatternTrack, ToneTrack
from metered_realtime.mesh.admission import admit


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
    admitted = admit(offer)
    assert (admitted.sdp, admitted.declined, admitted.unusable) == (offer, {}, {})


async def test_a_section_without_a_common_codec_is_declined_with_the_reason(offer: str) -> None:
    admitted = admit(offer.replace(" VP8/", " AV1/").replace(" H264/", " VP9/"))
    assert admitted.unusable == {"1": "no codec in common, it has AV1, VP9, rtx"}
    assert admitted.declined["1"].startswith("m=video ")
    assert [media.direction for media in admitted.parsed.media] == ["sendrecv", "inactive", None]


async def test_an_unknown_kind_is_declined(offer: str) -> None:
    admitted = admit(offer.replace("m=video ", "m=text "))
    assert admitted.unusable == {"1": "its kind is unknown"}


async def test_a_section_without_rtcp_multiplexing_is_declined(offer: str) -> None:
    admitted = admit(without(offer, "a=rtcp-mux"))
    assert sorted(admitted.unusable) == ["0", "1"]


async def test_what_the_remote_declined_is_nothing_that_this_end_declines(offer: str) -> None:
    first = next(line for line in offer.splitlines() if line.startswith("m=audio"))
    admitted = admit(offer.replace(first, first.replace(first.split()[1], "0", 1)))
    assert list(admitted.declined) == ["0"]
    assert admitted.unusable == {}


@pytest.mark.parametrize("attribute", ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup"])
async def test_without_a_transport_nothing_can_be_taken(offer: str, attribute: str) -> None:
    with pytest.raises(SdpError, match=r"ICE credentials|DTLS fingerprint"):
        admit(without(offer, attribute))
