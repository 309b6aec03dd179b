"""The insides of aiortc and aioice that this package touches: each test fails if a release moves them."""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCPeerConnection, RTCRtpTransceiver, RTCSessionDescription
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription
from OpenSSL import SSL

from metered_realtime import IceServerConfig
from metered_realtime.aiortc_compat import peer_connection as compat
from tests.support.peers import GreyTrack, eventually

TOUCHED = {
    "__certificates": "test_connections_can_share_a_certificate",
    "__cname": "test_media_is_described_under_the_cname_of_the_connection",
    "__codecs": "test_what_a_receiver_takes_in_is_counted",
    "__connect": "test_connecting_is_left_to_connect",
    "__createSctpTransport": "test_data_shares_its_transport_from_the_start",
    "__octet_count": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "__packet_count": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "__remoteDescription": "test_the_remote_description_can_be_had_as_aiortc_has_read_it",
    "__remote_streams": "test_what_a_receiver_takes_in_is_counted",
    "__rtx_ssrc": "test_late_sources_are_routed_with_their_retransmissions",
    "__rx_bytes": "test_what_a_connection_sends_is_counted",
    "__rx_packets": "test_what_a_connection_sends_is_counted",
    "__sctp_mline_index": "test_sections_can_be_placed",
    "__stats": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "__transceivers": "test_a_new_transceiver_is_unknown_until_it_is_adopted",
    "_bundled": "test_everything_is_bundled_from_the_start",
    "_closing": "test_candidates_of_a_server_become_part_of_the_connection",
    "_codecs": "test_codecs_and_extensions_are_those_of_the_description",
    "_connection": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
    "_create_ssl_context": "test_connections_can_share_a_certificate",
    "_data_channel_open": "test_messages_of_data_channels_are_counted",
    "_data_channel_receive": "test_messages_of_data_channels_are_counted",
    "_data_channel_send": "test_messages_of_data_channels_are_counted",
    "_data_channels": "test_messages_of_data_channels_are_counted",
    "_handle_rtp_packet": "test_what_a_receiver_takes_in_is_counted",
    "_headerExtensions": "test_codecs_and_extensions_are_those_of_the_description",
    "_local_candidates": "test_candidates_of_a_server_become_part_of_the_connection",
    "_next_encoded_frame": "test_what_a_sender_sends_is_counted_and_reported_by_the_other_end",
    "_nominated": "test_a_path_is_alive_until_the_other_end_is_gone",
    "_pair_remote_candidate": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_protocols": "test_candidates_of_a_server_become_part_of_the_connection",
    "_remote_candidates": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_role_set": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
    "_rtp_router": "test_late_sources_are_routed_with_their_retransmissions",
    "_send": "test_what_a_connection_sends_is_counted",
    "_set_mline_index": "test_sections_can_be_placed",
    "_set_rtcp_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_ssrc": "test_a_new_transceiver_reports_under_the_source_of_its_sender",
    "_stream_id": "test_a_sender_is_described_under_its_msid",
    "_track_id": "test_a_sender_is_described_under_its_msid",
    "_transport_policy": "test_candidates_of_a_server_become_part_of_the_connection",
}
"""Every private name in aiortc_compat/peer_connection.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = Path(compat.__file__).read_text()
    source = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    names = set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source))
    names |= {"__" + name for name in re.findall(r"{_(?:PC|SENDER)}(\w+)", source)}
    names = {re.sub("^_RTC[A-Za-z]+?__", "__", name) for name in names}
    assert names == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_this_release_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    compat.check_version()
    monkeypatch.setattr(compat, "version", lambda name: "1.17.0")
    with pytest.raises(ImportError, match=r"1\.17\.0"):
        compat.check_version.__wrapped__()


@pytest.fixture
async def pcs() -> AsyncIterator[list[RTCPeerConnection]]:
    """Connections that are closed in the end."""
    made: list[RTCPeerConnection] = []
    yield made
    await asyncio.gather(*(pc.close() for pc in made))


def make(pcs: list[RTCPeerConnection]) -> RTCPeerConnection:
    pc = compat.create_peer_connection()
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


async def test_a_connection_has_no_servers_of_its_own(pcs: list[RTCPeerConnection]) -> None:
    connection: Any = compat.ice_transport(make(pcs)).iceGatherer._connection
    assert (connection.stun_server, connection.turn_server) == (None, None)
    ordinary = plain(pcs)
    ordinary.createDataChannel("x")
    theirs: Any = compat.ice_transport(ordinary).iceGatherer._connection
    assert theirs.stun_server is not None, "aiortc's default is a public server"


async def test_relay_only_gathers_nothing_on_its_own(pcs: list[RTCPeerConnection]) -> None:
    pc = compat.create_peer_connection(relay_only=True)
    pcs.append(pc)
    await compat.gather_host_candidates(pc)
    assert compat.ice_transport(pc).iceGatherer.getLocalCandidates() == []


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
    assert {1_001, 1_002}.isdisjoint(router.ssrc_table), "what is not described any more is forgotten"
    assert 1_002 not in inside._RTCRtpReceiver__rtx_ssrc


async def test_the_remote_description_can_be_had_as_aiortc_has_read_it(pcs: list[RTCPeerConnection]) -> None:
    pc, other = make(pcs), plain(pcs)
    other.createDataChannel("x")
    await other.setLocalDescription(await other.createOffer())
    await pc.setRemoteDescription(other.localDescription)
    read = compat.remote_description(pc)
    assert (read.type, [media.kind for media in read.media]) == ("offer", ["application"])


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


async def _on_loopback(host: str) -> str:
    assert host == "somewhere"
    return "127.0.0.1"


async def test_candidates_of_a_server_become_part_of_the_connection(pcs: list[RTCPeerConnection]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_StunServer, local_addr=("0.0.0.0", 0))
    port = transport.get_extra_info("sockname")[1]
    pc = make(pcs)
    await compat.gather_host_candidates(pc)
    gatherer = compat.ice_transport(pc).iceGatherer
    assert {it.type for it in gatherer.getLocalCandidates()} == {"host"}
    found = await compat.gather_from_servers(pc, [IceServerConfig(f"stun:somewhere:{port}")], _on_loopback)
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


def certificate(days: float) -> compat.SharedCertificate:
    """A certificate that is good for so many days."""

    class Aged(compat.SharedCertificate):
        expires = datetime.datetime.now(tz=datetime.UTC) + datetime.timedelta(days=days)

    return Aged.generateCertificate()


async def test_connections_can_share_a_certificate(pcs: list[RTCPeerConnection]) -> None:
    shared: Any = compat.certificate_for_now(None)
    for _ in range(2):
        one, other = compat.create_peer_connection(certificate=shared), make(pcs)
        pcs.append(one)
        one.createDataChannel("x")
        await compat.gather_host_candidates(other)
        await negotiate(one, other)
        fingerprints = re.findall("a=fingerprint:(.*?)\r\n", one.localDescription.sdp)
        assert fingerprints == [f"{it.algorithm} {it.value}" for it in shared.getFingerprints()]
        assert fingerprints[0] not in other.localDescription.sdp, "without one a connection makes its own"
        await asyncio.gather(compat.connect(one), compat.connect(other))
        assert (one.connectionState, other.connectionState) == ("connected", "connected")
    (context,) = shared._contexts.values()
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_a_certificate_is_renewed_before_it_expires() -> None:
    for days, kept in ((29, True), (1.1, True), (0.9, False), (-1, False)):
        previous = certificate(days)
        assert (compat.certificate_for_now(previous) is previous) is kept, days
    lasts = compat.certificate_for_now(None).expires - datetime.datetime.now(tz=datetime.UTC)
    assert lasts > 7 * compat.CERTIFICATE_MARGIN


@pytest.mark.parametrize("event_driven", [True, False])
async def test_checks_are_paced_by_events_unless_that_is_switched_off(
    pcs: list[RTCPeerConnection], monkeypatch: pytest.MonkeyPatch, event_driven: bool
) -> None:
    monkeypatch.setattr(compat, "EVENT_DRIVEN_CHECKS", event_driven)
    connection = compat.ice_transport(make(pcs))._connection
    assert ("sort_check_list" in vars(connection)) is event_driven


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("stun:example.org", True),
        ("turn:example.org:3478?transport=tcp", True),
        ("turns:example.org", True),
        ("stuns:example.org", False),
        ("turns:example.org?transport=udp", False),
        ("stun:[::1]:3478", False),
        ("STUN:example.org", False),
        ("stun:example.org?transport=udp", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_servers_that_aiortc_cannot_use_are_told_apart(url: str, good: bool) -> None:
    assert compat.is_usable(IceServerConfig(url, "u", "c")) is good


async def test_checks_are_timed(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    assert compat.selected_pair(one) is None
    await negotiate(one, other)
    await asyncio.gather(compat.connect(one), compat.connect(other))
    for pc in (one, other):
        pair = compat.selected_pair(pc)
        round_trip_time = compat.round_trip_time(pair)
        assert round_trip_time is not None
        assert 0 < round_trip_time < aioice.stun.RETRY_RTO
        assert (pair.local_candidate.type, pair.remote_candidate.type) == ("host", "host")
        assert pair.remote_addr[1] == pair.remote_candidate.port


@pytest.mark.parametrize("step", ["check_start", "query_consent"])
def test_the_step_before_every_check_is_the_one_that_has_it_timed(step: str) -> None:
    assert {"build_request", "request"} <= set(getattr(aioice.ice.Connection, step).__code__.co_names)


async def test_what_a_connection_sends_is_counted(pcs: list[RTCPeerConnection]) -> None:
    """aiortc calls the ICE transport's send function by its name each time, and counts what it receives itself."""
    one, other = make(pcs), make(pcs)
    meter = compat.transport_meter(one)
    one.createDataChannel("x")
    await negotiate(one, other)
    assert (meter.bytes_sent, meter.connected_at) == (0, None)
    await asyncio.gather(compat.connect(one), compat.connect(other))
    assert meter.connected_at is not None
    await eventually(lambda: compat.received(other) == (meter.bytes_sent, meter.packets_sent))
    assert meter.packets_sent > 2
    await one.close()
    count = meter.packets_sent
    with pytest.raises(ConnectionError):
        await compat.ice_transport(one)._send(b"x")
    assert (meter.packets_sent, meter.connected_at) == (count, None)


async def test_messages_of_data_channels_are_counted(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    named = one.createDataChannel("x")
    agreed = one.createDataChannel("y", negotiated=True, id=6)
    assert [channel for channel, _ in compat.message_counters(one)] == [agreed, named]
    heard: list[Any] = []
    other.on("datachannel", lambda channel: channel.on("message", heard.append))
    await negotiate(one, other)
    await asyncio.gather(compat.connect(one), compat.connect(other))
    await eventually(lambda: named.readyState == "open")
    for message in ("", "é", b"", b"123"):
        named.send(message)
    with pytest.raises(ValueError, match="Cannot send"):
        named.send(b"x" * 1_000_000)
    await eventually(lambda: len(heard) == 4)
    sent = compat.MessageCounter(messages_sent=4, bytes_sent=5)
    assert compat.message_total(one) == sent
    assert dict(compat.message_counters(one)) == {named: sent, agreed: compat.MessageCounter()}
    came = compat.MessageCounter(messages_received=4, bytes_received=5)
    assert compat.message_total(other) == came
    assert [counter for _, counter in compat.message_counters(other)] == [came]
    named.close()
    await eventually(lambda: [channel for channel, _ in compat.message_counters(one)] == [agreed])
    assert compat.message_total(one) == sent


async def test_what_a_sender_sends_is_counted_and_reported_by_the_other_end(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), plain(pcs)
    sender = sending(one).sender
    figures = compat.sender_figures(sender)
    assert (figures.bytes, figures.packets, figures.frames, figures.report) == (0, 0, 0, None)
    await negotiate(one, other)
    await compat.connect(one)
    await eventually(lambda: compat.sender_figures(sender).report is not None)
    figures = compat.sender_figures(sender)
    (theirs,) = [it for it in (await sender.getStats()).values() if it.type == "outbound-rtp"]
    assert (theirs.bytesSent, theirs.packetsSent) == (figures.bytes, figures.packets)
    assert figures.packets >= figures.frames > 3
    for name in ("packetsLost", "jitter", "roundTripTime", "fractionLost"):
        assert hasattr(figures.report, name)


async def test_what_a_receiver_takes_in_is_counted(pcs: list[RTCPeerConnection]) -> None:
    one, other = plain(pcs), make(pcs)
    other.on("track", lambda track: compat.count_packets(compat.receiver_of(other, track)))  # type: ignore[arg-type]
    sender = one.addTrack(GreyTrack())
    await compat.gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    (receiver,) = other.getReceivers()
    assert compat.receiver_figures(receiver).codec is None
    await one.setRemoteDescription(other.localDescription)
    await compat.connect(other)
    await eventually(lambda: compat.receiver_figures(receiver).packets > 5)
    figures = compat.receiver_figures(receiver)
    (theirs,) = [it for it in (await receiver.getStats()).values() if it.type == "inbound-rtp"]
    assert (theirs.packetsReceived, theirs.packetsLost) == (figures.packets, figures.packets_lost)
    (sent,) = [it for it in (await sender.getStats()).values() if it.type == "outbound-rtp"]
    assert 0 < figures.bytes <= sent.bytesSent
    assert (figures.codec.mimeType, figures.codec.clockRate) == ("video/VP8", 90_000)


async def test_retransmissions_are_not_counted_as_payload() -> None:
    taken: list[Any] = []

    async def handle(packet: Any, arrival_time_ms: int) -> None:
        taken.append(packet)

    media = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=96)
    repair = RTCRtpCodecParameters(mimeType="video/rtx", clockRate=90_000, payloadType=97)
    counter = compat._PacketCounter(handle, {96: media, 97: repair})
    for payload_type, ssrc in ((96, 1), (97, 2), (98, 3), (96, 1)):
        packet = RtpPacket(payload_type=payload_type, ssrc=ssrc)
        packet.payload = b"12345"
        await counter(packet, arrival_time_ms=0)
    assert (counter.bytes, counter.codec, list(counter.sources), len(taken)) == (10, media, [1], 4)
