"""Sections that are negotiated without aiortc's own offers."""

from __future__ import annotations

from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap
from aiortc.sdp import SessionDescription

from metered_realtime.aiortc_compat import transceivers
from metered_realtime.aiortc_compat.transceivers import (
    adopt_transceiver,
    describe_data,
    describe_media,
    header_extensions,
    new_transceiver,
    prefer_codec,
    receive_extensions,
    remote_description,
    set_section_index,
    set_sender_identity,
    use_sender,
)
from metered_realtime.aiortc_compat.transports import (
    dtls_transport,
    sctp_mid,
)
from tests.aiortc_compat.support.bare_connections import make, plain, sending
from tests.aiortc_compat.support.private_names import private_names
from tests.support.peers import GreyTrack

TOUCHED = {
    "__cname": "test_media_is_described_under_the_cname_of_the_connection",
    "__remoteDescription": "test_the_remote_description_can_be_had_as_aiortc_has_read_it",
    "__sctp_mline_index": "test_sections_can_be_placed",
    "__transceivers": "test_a_new_transceiver_is_unknown_until_it_is_adopted",
    "_bundled": "test_a_new_transceiver_is_on_the_shared_transport",
    "_codecs": "test_codecs_and_extensions_are_those_of_the_description",
    "_headerExtensions": "test_codecs_and_extensions_are_those_of_the_description",
    "_rtp_header_extensions_map": "test_further_extensions_are_described_and_read",
    "_set_mline_index": "test_sections_can_be_placed",
    "_set_rtcp_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_stream_id": "test_a_sender_is_described_under_its_msid",
    "_track_id": "test_a_sender_is_described_under_its_msid",
}
"""Every private name in aiortc_compat/transceivers.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(transceivers) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_a_new_transceiver_is_on_the_shared_transport(pcs: list[RTCPeerConnection]) -> None:
    ordinary = plain(pcs).addTransceiver("video")
    assert ordinary._bundled is False, "aiortc marks it when a description says so"
    pc = make(pcs)
    transceiver = sending(pc)
    assert transceiver._bundled is True
    assert transceiver.sender.transport is transceiver.receiver.transport is dtls_transport(pc)


async def test_a_new_transceiver_is_unknown_until_it_is_adopted(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = new_transceiver(pc, GreyTrack())
    assert pc.getTransceivers() == []
    assert "m=video" not in (await pc.createOffer()).sdp
    adopt_transceiver(pc, transceiver)
    adopt_transceiver(pc, transceiver)
    assert pc.getTransceivers() == [transceiver]
    assert (await pc.createOffer()).sdp.count("m=video") == 1


async def test_a_new_transceiver_reports_under_the_source_of_its_sender(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = sending(pc)
    receiver: Any = transceiver.receiver
    assert receiver._RTCRtpReceiver__rtcp_ssrc == transceiver.sender._ssrc
    assert f"a=ssrc:{transceiver.sender._ssrc} " in (await pc.createOffer()).sdp


@pytest.mark.parametrize(("stream", "expected"), [("s", "s t"), (None, "- t")])
async def test_a_sender_is_described_under_its_msid(
    pcs: list[RTCPeerConnection], stream: str | None, expected: str
) -> None:
    pc = make(pcs)
    set_sender_identity(sending(pc), stream, "t")
    assert f"a=msid:{expected}\r\n" in (await pc.createOffer()).sdp


async def test_sections_can_be_placed(pcs: list[RTCPeerConnection]) -> None:
    """Committing an offer that aiortc has not made gives every section its mid by the index that it was placed at."""
    pc = make(pcs)
    transceiver = sending(pc)
    other = plain(pcs)
    other.addTrack(GreyTrack())
    other.createDataChannel("x")
    offer = (await other.createOffer()).sdp.replace("a=mid:0", "a=mid:x").replace("a=mid:1", "a=mid:y")
    set_section_index(pc, transceiver, 0)
    set_section_index(pc, None, 1)
    await pc.setLocalDescription(RTCSessionDescription(offer.replace("BUNDLE 0 1", "BUNDLE x y"), "offer"))
    assert (transceiver.mid, sctp_mid(pc)) == ("x", "y")
    instance: Any = pc
    assert instance._RTCPeerConnection__sctp_mline_index == 1
    assert transceiver._get_mline_index() == 0


async def test_codecs_and_extensions_are_those_of_the_description(pcs: list[RTCPeerConnection]) -> None:
    pc, other = make(pcs), plain(pcs)
    other.addTrack(GreyTrack())
    await other.setLocalDescription(await other.createOffer())
    await pc.setRemoteDescription(other.localDescription)
    (transceiver,) = pc.getTransceivers()
    offered = SessionDescription.parse(other.localDescription.sdp).media[0].rtp
    codecs, extensions = transceivers.codecs(transceiver), header_extensions(transceiver)
    assert [codec.payloadType for codec in codecs] == [codec.payloadType for codec in offered.codecs]
    assert [it.uri for it in extensions] == [it.uri for it in offered.headerExtensions]
    transceivers.propose(transceiver, codecs[:1], extensions[:1])
    media = describe_media(pc, transceiver, "sendonly", "7")
    assert (media.fmt, media.direction, media.rtp.muxId) == ([codecs[0].payloadType], "sendonly", "7")
    assert media.rtp.headerExtensions == extensions[:1]


async def test_media_is_described_under_the_cname_of_the_connection(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = sending(pc)
    offer = (await pc.createOffer()).sdp
    ours = describe_media(pc, transceiver, "sendrecv", "0")
    assert ours.ssrc[0].cname
    assert f"cname:{ours.ssrc[0].cname}\r\n" in offer
    data = describe_data(pc, "1")
    assert (data.kind, data.rtp.muxId, data.sctp_port) == ("application", "1", 5000)
    assert data.ice.usernameFragment == ours.ice.usernameFragment


async def test_the_remote_description_can_be_had_as_aiortc_has_read_it(pcs: list[RTCPeerConnection]) -> None:
    pc, other = make(pcs), plain(pcs)
    other.createDataChannel("x")
    await other.setLocalDescription(await other.createOffer())
    await pc.setRemoteDescription(other.localDescription)
    read = remote_description(pc)
    assert (read.type, [media.kind for media in read.media]) == ("offer", ["application"])


async def test_further_extensions_are_described_and_read(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = sending(pc)
    layers = RTCRtpHeaderExtensionParameters(id=10, uri="urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id")
    for _ in range(2):
        receive_extensions(pc, transceiver, [layers])
    assert header_extensions(transceiver).count(layers) == 1
    assert "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id" in str(
        describe_media(pc, transceiver, "recvonly", "0")
    )
    read: HeaderExtensionsMap = dtls_transport(pc)._rtp_header_extensions_map
    profile, value = read.set(HeaderExtensions(rtp_stream_id="hi"))
    assert read.get(profile, value).rtp_stream_id == "hi"


async def test_a_section_of_the_remote_sends_a_track_with_the_preferred_codec(pcs: list[RTCPeerConnection]) -> None:
    pc, other = make(pcs), plain(pcs)
    other.addTransceiver("video", direction="recvonly")
    await other.setLocalDescription(await other.createOffer())
    await pc.setRemoteDescription(other.localDescription)
    (transceiver,) = pc.getTransceivers()
    before = [codec.payloadType for codec in transceivers.codecs(transceiver)]
    track = GreyTrack()
    use_sender(transceiver, track)
    assert transceiver.sender.track is track
    prefer_codec(transceiver, "video/h264")
    names = [codec.name for codec in transceivers.codecs(transceiver)]
    assert names[:2] == ["H264", "rtx"]
    assert names.index("VP8") > max(place for place, name in enumerate(names) if name == "H264")
    assert sorted(before) == sorted(codec.payloadType for codec in transceivers.codecs(transceiver))
    prefer_codec(transceiver, "video/AV1")
    assert [codec.name for codec in transceivers.codecs(transceiver)] == names
    transceiver.direction = "sendrecv"
    answer = (await pc.createAnswer()).sdp
    assert "a=sendonly" in answer
