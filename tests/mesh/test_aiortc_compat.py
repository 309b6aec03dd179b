"""The insides of aiortc and aioice that this package touches: each test fails if a release moves them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCPeerConnection, RTCRtpTransceiver, RTCSessionDescription
from aiortc.codecs import get_encoder
from aiortc.rtp import RtcpByePacket, RtcpSrPacket
from aiortc.sdp import SessionDescription

from metered_realtime import IceServerConfig, NoopLogger
from metered_realtime.media.fanout import ForwardTrack
from metered_realtime.media.steady_encoder import SteadyEncoder
from metered_realtime.mesh import aiortc_compat as compat
from tests.mesh.support import GreyTrack, eventually, level_of

TOUCHED = {
    "__cname": "test_media_is_described_under_the_cname_of_the_connection",
    "__connect": "test_connecting_is_left_to_connect",
    "__createSctpTransport": "test_data_shares_its_transport_from_the_start",
    "__rtx_ssrc": "test_late_sources_are_routed_with_their_retransmissions",
    "__sctp_mline_index": "test_sections_can_be_placed",
    "__transceivers": "test_a_new_transceiver_is_unknown_until_it_is_adopted",
    "__encoder": "test_a_sender_encodes_with_what_it_is_given",
    "_bundled": "test_everything_is_bundled_from_the_start",
    "_closing": "test_candidates_of_a_server_become_part_of_the_connection",
    "_codecs": "test_codecs_and_extensions_are_those_of_the_description",
    "_connection": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
    "_handle_rtcp_packet": "test_frames_go_to_the_tap_and_a_bye_is_ignored",
    "_headerExtensions": "test_codecs_and_extensions_are_those_of_the_description",
    "_local_candidates": "test_candidates_of_a_server_become_part_of_the_connection",
    "_nominated": "test_a_path_is_alive_until_the_other_end_is_gone",
    "_pair_remote_candidate": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_protocols": "test_candidates_of_a_server_become_part_of_the_connection",
    "_queue": "test_frames_go_to_the_tap_and_a_bye_is_ignored",
    "_remote_candidates": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_role_set": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
    "_rtp_router": "test_late_sources_are_routed_with_their_retransmissions",
    "_set_mline_index": "test_sections_can_be_placed",
    "_set_rtcp_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_stream_id": "test_a_sender_is_described_under_its_msid",
    "_track": "test_frames_go_to_the_tap_and_a_bye_is_ignored",
    "_track_id": "test_a_sender_is_described_under_its_msid",
    "_transport_policy": "test_candidates_of_a_server_become_part_of_the_connection",
}
"""Every private name in aiortc_compat.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = Path(compat.__file__).read_text()
    source = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    names = set(re.findall(r"\.(_[a-zA-Z]\w*)", source))
    names |= {"__" + name for name in re.findall(r"{_(?:PC|SENDER)}(\w+)", source)}
    names = {re.sub("^_RTC[A-Za-z]+?__", "__", name) for name in names}
    assert names == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


def test_no_other_file_of_the_mesh_touches_private_names_of_aiortc() -> None:
    folder = Path(compat.__file__).parent
    for file in folder.glob("*.py"):
        if file.name != "aiortc_compat.py":
            found = re.findall(r"(?:pc|transceiver|sender|receiver|sctp|ice)\._\w+", file.read_text())
            assert not found, (file.name, found)


async def test_this_release_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    compat.check_version()
    monkeypatch.setattr(compat, "version", lambda name: "1.17.0")
    with pytest.raises(ImportError, match=r"1\.17\.0"):
        compat.check_version()


@pytest.fixture
async def pcs() -> AsyncIterator[list[RTCPeerConnection]]:
    """Connections that are closed in the end."""
    made: list[RTCPeerConnection] = []
    yield made
    await asyncio.gather(*(pc.close() for pc in made))


def make(pcs: list[RTCPeerConnection], *servers: IceServerConfig) -> RTCPeerConnection:
    pc = compat.create_peer_connection(servers)
    pcs.append(pc)
    return pc


def plain(pcs: list[RTCPeerConnection]) -> RTCPeerConnection:
    pc = RTCPeerConnection()
    pcs.append(pc)
    return pc


def sending(pc: RTCPeerConnection, track: Any = None) -> RTCRtpTransceiver:
    """Give a connection a transceiver that sends, as a link does."""
    transceiver = compat.new_transceiver(pc, track if track is not None else GreyTrack())
    compat.adopt_transceiver(pc, transceiver)
    return transceiver


async def negotiate(one: RTCPeerConnection, other: RTCPeerConnection) -> None:
    """Offer and answer by the public interface, then connect."""
    await compat.gather_host_candidates(one)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)


async def test_data_shares_its_transport_from_the_start(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    assert pc.sctp is not None
    assert compat.sctp_mid(pc) is None
    assert compat.dtls_transport(pc) is pc.sctp.transport
    assert compat.ice_transport(pc) is pc.sctp.transport.transport
    assert sending(pc).sender.transport is pc.sctp.transport


async def test_everything_is_bundled_from_the_start(pcs: list[RTCPeerConnection]) -> None:
    """Without the mark a remote offer that puts data behind media stops the transport that is shared."""
    pc = make(pcs)
    transceiver = sending(pc)
    assert pc.sctp._bundled is True  # type: ignore[union-attr]
    assert transceiver._bundled is True
    other = plain(pcs)
    other.addTrack(GreyTrack())
    other.createDataChannel("x")
    await other.setLocalDescription(await other.createOffer())
    before = compat.dtls_transport(pc)
    await pc.setRemoteDescription(other.localDescription)
    assert {it.receiver.transport for it in pc.getTransceivers()} == {before}
    assert compat.dtls_transport(pc) is before
    assert before.transport.state == "new"


async def test_an_empty_list_of_servers_stays_empty(pcs: list[RTCPeerConnection]) -> None:
    assert not compat.has_ice_servers(make(pcs))
    assert compat.has_ice_servers(plain(pcs_with_data(pcs))) is True


def pcs_with_data(pcs: list[RTCPeerConnection]) -> Any:
    """A list whose connections have data: aiortc's default is a public server."""

    class Added(list[RTCPeerConnection]):
        def append(self, pc: RTCPeerConnection) -> None:
            pc.createDataChannel("x")
            pcs.append(pc)

    return Added()


async def test_a_path_is_alive_until_the_other_end_is_gone(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    assert not await compat.path_is_alive(one), "there is none yet"
    await negotiate(one, other)
    await asyncio.gather(compat.connect(one), compat.connect(other))
    assert await compat.path_is_alive(one)
    await compat.ice_transport(other)._connection.close()
    assert not await compat.path_is_alive(one)


async def test_connecting_is_left_to_connect(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    one.createDataChannel("x")
    await compat.gather_host_candidates(other)
    await negotiate(one, other)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (compat.ice_transport(one).state, compat.ice_transport(other).state) == ("new", "new")
    await asyncio.gather(compat.connect(one), compat.connect(other))
    assert (one.connectionState, other.connectionState) == ("connected", "connected")
    await compat.connect(one)


async def test_a_new_transceiver_is_unknown_until_it_is_adopted(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = compat.new_transceiver(pc, GreyTrack())
    assert pc.getTransceivers() == []
    assert "m=video" not in (await pc.createOffer()).sdp
    compat.adopt_transceiver(pc, transceiver)
    compat.adopt_transceiver(pc, transceiver)
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
    compat.set_sender_identity(sending(pc), stream, "t")
    assert f"a=msid:{expected}\r\n" in (await pc.createOffer()).sdp


async def test_sections_can_be_placed(pcs: list[RTCPeerConnection]) -> None:
    """Committing an offer that aiortc has not made gives every section its mid by the index that it was placed at."""
    pc = make(pcs)
    transceiver = sending(pc)
    other = plain(pcs)
    other.addTrack(GreyTrack())
    other.createDataChannel("x")
    offer = (await other.createOffer()).sdp.replace("a=mid:0", "a=mid:x").replace("a=mid:1", "a=mid:y")
    compat.set_section_index(pc, transceiver, 0)
    compat.set_section_index(pc, None, 1)
    await pc.setLocalDescription(RTCSessionDescription(offer.replace("BUNDLE 0 1", "BUNDLE x y"), "offer"))
    assert (transceiver.mid, compat.sctp_mid(pc)) == ("x", "y")
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
    codecs, extensions = compat.codecs(transceiver), compat.header_extensions(transceiver)
    assert [codec.payloadType for codec in codecs] == [codec.payloadType for codec in offered.codecs]
    assert [it.uri for it in extensions] == [it.uri for it in offered.headerExtensions]
    compat.propose(transceiver, codecs[:1], extensions[:1])
    media = compat.describe_media(pc, transceiver, "sendonly", "7")
    assert (media.fmt, media.direction, media.rtp.muxId) == ([codecs[0].payloadType], "sendonly", "7")
    assert media.rtp.headerExtensions == extensions[:1]


async def test_media_is_described_under_the_cname_of_the_connection(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    transceiver = sending(pc)
    offer = (await pc.createOffer()).sdp
    ours = compat.describe_media(pc, transceiver, "sendrecv", "0")
    assert ours.ssrc[0].cname
    assert f"cname:{ours.ssrc[0].cname}\r\n" in offer
    data = compat.describe_data(pc, "1")
    assert (data.kind, data.rtp.muxId, data.sctp_port) == ("application", "1", 5000)
    assert data.ice.usernameFragment == ours.ice.usernameFragment


async def test_the_role_of_the_offerer_can_be_taken_and_given_back(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    ice = compat.ice_transport(pc)
    assert ice.role == "controlled"
    compat.claim_controlling_role(pc)
    assert ice.role == "controlling"
    compat.release_controlling_role(pc)
    assert ice.role == "controlled"
    await pc.setLocalDescription(await pc.createOffer())
    assert ice.role == "controlling"
    compat.release_controlling_role(pc)
    assert ice.role == "controlling", "once negotiated it stays"


async def test_a_sender_encodes_with_what_it_is_given(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), plain(pcs)
    sent: list[Any] = []

    class Spy(SteadyEncoder):
        def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
            sent.append(frame)
            return super().encode(frame, force_keyframe)

    forward = ForwardTrack("video")
    transceiver = sending(one, forward)
    await negotiate(one, other)
    codec = compat.codecs(transceiver)[0]
    encoder = Spy(lambda: get_encoder(codec), codec.clockRate, NoopLogger())
    compat.set_encoder(transceiver, encoder)
    await compat.connect(one)
    for _ in range(3):
        forward._feed(await GreyTrack().recv())
        await eventually(lambda: not forward._frames)
    await eventually(lambda: len(sent) == 3)
    assert encoder.frames_failed == 0


async def test_frames_go_to_the_tap_and_a_bye_is_ignored(pcs: list[RTCPeerConnection]) -> None:
    one, other = plain(pcs), make(pcs)
    frames: list[Any] = []

    async def put(frame: Any) -> None:
        frames.append(frame)

    one.addTrack(GreyTrack(60))
    tapped: list[Any] = []

    def tap(track: Any) -> None:
        receiver = compat.receiver_of(other, track)
        assert receiver is not None
        compat.tap_receiver(receiver, put)
        tapped.append(receiver)

    other.on("track", tap)
    await compat.gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    await compat.connect(other)
    await eventually(lambda: len(frames) >= 2)
    assert abs(level_of(frames[-1]) - 60) < 6
    (receiver,) = tapped
    assert receiver.track._queue.__class__.__name__ == "_Tap", "nothing piles up in aiortc"
    (ssrc,) = receiver._RTCRtpReceiver__remote_streams
    await receiver._handle_rtcp_packet(RtcpByePacket(sources=[ssrc]))
    count = len(frames)
    await eventually(lambda: len(frames) >= count + 2)
    assert None not in frames
    await other.close()
    await eventually(lambda: frames[-1] is None)


async def test_other_rtcp_packets_still_reach_the_receiver(pcs: list[RTCPeerConnection]) -> None:
    pc, other = make(pcs), plain(pcs)
    other.addTrack(GreyTrack())
    await other.setLocalDescription(await other.createOffer())
    await pc.setRemoteDescription(other.localDescription)
    receiver: Any = pc.getReceivers()[0]

    async def put(frame: Any) -> None:
        """Take nothing."""

    compat.tap_receiver(receiver, put)
    from aiortc.rtp import RtcpSenderInfo

    info = RtcpSenderInfo(ntp_timestamp=1 << 32, rtp_timestamp=0, packet_count=0, octet_count=0)
    await receiver._handle_rtcp_packet(RtcpSrPacket(ssrc=7, sender_info=info))
    assert receiver._RTCRtpReceiver__lsr == {7: 1 << 16}


async def test_late_sources_are_routed_with_their_retransmissions(pcs: list[RTCPeerConnection]) -> None:
    one, other = plain(pcs), make(pcs)
    one.addTrack(GreyTrack())
    await compat.gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    await compat.connect(other)
    description = SessionDescription.parse(one.localDescription.sdp)
    media = description.media[0]
    router = compat.dtls_transport(other)._rtp_router
    (receiver,) = router.receivers
    for ssrc, rtx in ((1_001, 1_002), (1_003, 1_004)):
        media.ssrc[0].ssrc, media.ssrc[1].ssrc = ssrc, rtx
        media.ssrc_group[0].items = [ssrc, rtx]
        compat.route_sources(other, description)
        assert router.ssrc_table[ssrc] is router.ssrc_table[rtx] is receiver
        inside: Any = receiver
        assert inside._RTCRtpReceiver__rtx_ssrc[rtx] == ssrc


class _StunServer(asyncio.DatagramProtocol):
    """Answers binding requests as if it saw another address."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        request = aioice.ice.stun.parse_message(data)
        response = aioice.ice.stun.Message(
            message_method=request.message_method,
            message_class=aioice.ice.stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.7", 4_242)
        self.transport.sendto(bytes(response), address)


async def test_candidates_of_a_server_become_part_of_the_connection(pcs: list[RTCPeerConnection]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_StunServer, local_addr=("0.0.0.0", 0))
    port = transport.get_extra_info("sockname")[1]
    pc = make(pcs, IceServerConfig(f"stun:127.0.0.1:{port}"))
    assert compat.has_ice_servers(pc)
    gather_rest = await compat.gather_host_candidates(pc)
    gatherer = compat.ice_transport(pc).iceGatherer
    assert {it.type for it in gatherer.getLocalCandidates()} == {"host"}
    assert compat.has_ice_servers(pc), "the servers are only put aside"
    found = await gather_rest()
    transport.close()
    assert {(it.type, it.ip, it.port) for it in found} == {("srflx", "203.0.113.7", 4_242)}
    assert {it.type for it in gatherer.getLocalCandidates()} == {"host", "srflx"}
    connection = gatherer._connection
    for name in ("_protocols", "_transport_policy", "_closing"):
        assert hasattr(connection, name)


async def test_a_late_protocol_is_paired_with_the_remote_candidates(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    await compat.gather_host_candidates(pc)
    connection: Any = compat.ice_transport(pc).iceGatherer._connection
    await connection.add_remote_candidate(aioice.Candidate.from_sdp("1 1 udp 2130706431 192.0.2.9 9 typ host"))
    before = len(connection._check_list)
    late = connection._protocols.pop()
    connection._check_list = [pair for pair in connection._check_list if pair.protocol is not late]
    compat._add_protocol(connection, late)
    assert len(connection._check_list) == before
    assert late in connection._protocols


async def test_a_dead_path_is_noticed_sooner() -> None:
    compat.speed_up_consent()
    assert (aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES) == (2, 3)
    assert {"CONSENT_INTERVAL", "CONSENT_FAILURES"} <= set(aioice.ice.Connection.query_consent.__code__.co_names)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("stun:example.org", True),
        ("turn:example.org:3478?transport=tcp", True),
        ("turns:example.org", True),
        ("stun:[::1]:3478", False),
        ("STUN:example.org", False),
        ("stun:example.org?transport=udp", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_urls_that_aiortc_refuses_are_told_apart(url: str, good: bool) -> None:
    assert compat.is_ice_url(url) is good
