"""The only file that touches private attributes of aiortc and aioice.

aiortc has no public way to negotiate without its own rollback-free offers, to share one transport from the start, or to
add gathered candidates later. What is needed for that stands here, one function for each need, and
tests/mesh/test_aiortc_compat.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import Any

import aioice.ice
import aioice.stun
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpTransceiver, rtcpeerconnection
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcconfiguration import RTCBundlePolicy
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceTransport, candidate_from_aioice, parse_stun_turn_uri
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtcpByePacket
from aiortc.sdp import MediaDescription, SessionDescription

from ..options import IceServerConfig

SUPPORTED = "1.16."

CONSENT_INTERVAL = 2
CONSENT_FAILURES = 3
"""RFC 7675 consent checks, for the whole process: a dead path is noticed after about 6.5 s instead of 32."""

SERVER_TIMEOUT = 5.0
"""Seconds that a STUN or TURN server may take. Gathering from them runs beside the negotiation, it delays nothing."""

_PC = "_RTCPeerConnection__"
_SENDER = "_RTCRtpSender__"


def check_version() -> None:
    """Refuse an aiortc whose insides are not the ones known here.

    Raises:
        ImportError: another minor release is installed.
    """
    installed = version("aiortc")
    if not installed.startswith(SUPPORTED):
        raise ImportError(f"aiortc {SUPPORTED}x is needed, {installed} is installed")


def speed_up_consent() -> None:
    """Make aioice notice a dead path sooner. Affects every aioice connection of the process."""
    aioice.ice.CONSENT_INTERVAL = CONSENT_INTERVAL
    aioice.ice.CONSENT_FAILURES = CONSENT_FAILURES


# --- peer connection


def is_ice_url(url: str) -> bool:
    """Tell whether aiortc understands the URL of a STUN or TURN server; one that it does not makes it refuse all."""
    try:
        parse_stun_turn_uri(url)
    except ValueError:
        return False
    return True


def create_peer_connection(ice_servers: Sequence[IceServerConfig]) -> RTCPeerConnection:
    """Create a connection whose media and data share one transport, SCTP's, which exists from the start.

    An empty list of servers stays empty: aiortc reads None as a public STUN server.
    """
    configuration = RTCConfiguration(
        iceServers=[
            RTCIceServer(urls=server.urls, username=server.username, credential=server.credential)
            for server in ice_servers
        ],
        bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
    )
    pc = RTCPeerConnection(configuration)
    getattr(pc, f"{_PC}createSctpTransport")()
    # Otherwise a remote offer that puts SCTP behind media would stop the shared transport as a bundled leftover.
    _sctp(pc)._bundled = True
    # Every set*Description starts a connect of its own, and overlapping ones raise IndexError or skip new media.
    # They are replaced by nothing here; `connect` runs the real one, one at a time.
    setattr(pc, f"{_PC}connect", _connect_later)
    return pc


async def _connect_later() -> None:
    """Stand in for aiortc's connect, which `connect` runs."""


async def connect(pc: RTCPeerConnection) -> None:
    """Start the transports, senders and receivers that have been negotiated and do not run yet. Idempotent.

    Takes until ICE and DTLS are through; run one at a time for each connection.
    """
    await getattr(RTCPeerConnection, f"{_PC}connect")(pc)


def _sctp(pc: RTCPeerConnection) -> RTCSctpTransport:
    sctp = pc.sctp
    assert sctp is not None
    return sctp


def sctp_mid(pc: RTCPeerConnection) -> str | None:
    """Return the mid of the data section, None while it is not negotiated."""
    return _sctp(pc).mid


def dtls_transport(pc: RTCPeerConnection) -> RTCDtlsTransport:
    """Return the DTLS transport that everything shares."""
    return _sctp(pc).transport


def ice_transport(pc: RTCPeerConnection) -> RTCIceTransport:
    """Return the ICE transport that everything shares."""
    return dtls_transport(pc).transport


def claim_controlling_role(pc: RTCPeerConnection) -> None:
    """Take the ICE role of an offerer when the offer leaves: checks may arrive before the answer is applied."""
    ice = ice_transport(pc)
    if not ice._role_set:
        ice._connection.ice_controlling = True


def release_controlling_role(pc: RTCPeerConnection) -> None:
    """Undo `claim_controlling_role` when the offer is forgotten."""
    ice = ice_transport(pc)
    if not ice._role_set:
        ice._connection.ice_controlling = False


async def path_is_alive(pc: RTCPeerConnection) -> bool:
    """Ask the other end, by a STUN check on the pair in use, whether it is still there. Takes 1.5 s at the most."""
    connection = ice_transport(pc)._connection
    pair = connection._nominated.get(1)
    if pair is None or connection.remote_password is None:
        return False
    try:
        await pair.protocol.request(
            connection.build_request(pair, nominate=False),
            pair.remote_addr,
            integrity_key=connection.remote_password.encode(),
            retransmissions=1,
        )
    except aioice.stun.TransactionError:
        return False
    return True


# --- sections


def new_transceiver(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpTransceiver:
    """Create a transceiver on the shared transport that the connection does not know yet.

    It stays out of every description until `adopt_transceiver`, so a forgotten offer leaves no trace.
    """
    transport = dtls_transport(pc)
    sender = RTCRtpSender(track, transport)
    receiver = RTCRtpReceiver(track.kind, transport)
    receiver._set_rtcp_ssrc(sender._ssrc)
    transceiver = RTCRtpTransceiver(kind=track.kind, sender=sender, receiver=receiver, direction="sendrecv")
    transceiver._bundled = True
    return transceiver


def adopt_transceiver(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver) -> None:
    """Make the connection know a transceiver. Idempotent."""
    transceivers = getattr(pc, f"{_PC}transceivers")
    if transceiver not in transceivers:
        transceivers.append(transceiver)


def set_sender_identity(transceiver: RTCRtpTransceiver, stream_id: str | None, track_id: str) -> None:
    """Set the msid (RFC 8830) under which a transceiver sends; no stream is `-`."""
    transceiver.sender._stream_id = stream_id or "-"
    transceiver.sender._track_id = track_id


def set_encoder(transceiver: RTCRtpTransceiver, encoder: Encoder) -> None:
    """Have a sender encode with this. Call it before the sender starts."""
    setattr(transceiver.sender, f"{_SENDER}encoder", encoder)


def set_section_index(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver | None, index: int) -> None:
    """Place a transceiver, or the data section when None, at an index of the description to be committed."""
    if transceiver is None:
        setattr(pc, f"{_PC}sctp_mline_index", index)
    else:
        transceiver._set_mline_index(index)


def codecs(transceiver: RTCRtpTransceiver) -> list[Any]:
    """Return the codecs negotiated for a transceiver, as RTCRtpCodecParameters."""
    return transceiver._codecs


def header_extensions(transceiver: RTCRtpTransceiver) -> list[Any]:
    """Return the header extensions negotiated for a transceiver, as RTCRtpHeaderExtensionParameters."""
    return transceiver._headerExtensions


def propose(transceiver: RTCRtpTransceiver, codec_list: list[Any], extension_list: list[Any]) -> None:
    """Set what a transceiver that is not negotiated yet offers."""
    transceiver._codecs = codec_list
    transceiver._headerExtensions = extension_list


def describe_media(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver, direction: str, mid: str) -> MediaDescription:
    """Describe a media section."""
    return rtcpeerconnection.create_media_description_for_transceiver(
        transceiver, cname=getattr(pc, f"{_PC}cname"), direction=direction, mid=mid
    )


def describe_data(pc: RTCPeerConnection, mid: str) -> MediaDescription:
    """Describe the data section."""
    return rtcpeerconnection.create_media_description_for_sctp(_sctp(pc), legacy=False, mid=mid)


# --- receiving


def tap_receiver(receiver: RTCRtpReceiver, put: Callable[[Any], Awaitable[None]]) -> None:
    """Have decoded frames, and None at the end, go to `put` instead of an unbounded queue (aiortc#554).

    Call it before the receiver starts. RTCP BYE is ignored from then on: a browser sends one when it pauses a sender,
    and aiortc would stop decoding for good. Directions in the SDP tell the end of a track.
    """
    tapped: Any = receiver
    tapped._track._queue = _Tap(put)
    handle = receiver._handle_rtcp_packet

    async def ignore_bye(packet: Any) -> None:
        if not isinstance(packet, RtcpByePacket):
            await handle(packet)

    tapped._handle_rtcp_packet = ignore_bye


class _Tap:
    """The part of asyncio.Queue that aiortc's decoder thread uses."""

    def __init__(self, put: Callable[[Any], Awaitable[None]]) -> None:
        self.put = put


def receiver_of(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpReceiver | None:
    """Return the receiver whose raw track this is."""
    return next((receiver for receiver in pc.getReceivers() if receiver.track is track), None)


def route_sources(pc: RTCPeerConnection, description: SessionDescription) -> None:
    """Tell the router and the receivers the SSRCs of a remote description.

    aiortc learns them only when a receiver starts. Without this a source that appears later in a running section is
    dropped, or lands in another section with the same payload type.
    """
    router = dtls_transport(pc)._rtp_router
    for media in description.media:
        transceiver = next((t for t in pc.getTransceivers() if t.mid == media.rtp.muxId), None)
        if transceiver is None or transceiver.receiver not in router.receivers or not media.ssrc:
            continue
        receiver: Any = transceiver.receiver
        for source in media.ssrc:
            router.ssrc_table[source.ssrc] = receiver
        for group in media.ssrc_group:
            if group.semantic == "FID" and len(group.items) == 2:
                receiver._RTCRtpReceiver__rtx_ssrc[group.items[1]] = group.items[0]


# --- candidates


async def gather_host_candidates(pc: RTCPeerConnection) -> Callable[[], Coroutine[Any, Any, list[RTCIceCandidate]]]:
    """Gather the host candidates, which takes about a millisecond, and return how to gather the others.

    The returned function asks the STUN and TURN server, makes their candidates part of the running connection, and
    returns them. It raises nothing: a server that fails or is silent for `SERVER_TIMEOUT` yields nothing.
    """
    gatherer = ice_transport(pc).iceGatherer
    connection = gatherer._connection
    stun, connection.stun_server = connection.stun_server, None
    turn, connection.turn_server = connection.turn_server, None
    await gatherer.gather()
    connection.stun_server, connection.turn_server = stun, turn

    async def gather_from_servers() -> list[RTCIceCandidate]:
        return await _gather_from_servers(connection)

    return gather_from_servers


def has_ice_servers(pc: RTCPeerConnection) -> bool:
    """Tell whether there is a usable STUN or TURN server to ask."""
    connection = ice_transport(pc).iceGatherer._connection
    return connection.stun_server is not None or connection.turn_server is not None


async def _gather_from_servers(connection: aioice.ice.Connection) -> list[RTCIceCandidate]:
    requests: list[asyncio.Task[Any]] = []
    if connection.stun_server is not None:
        requests += [
            asyncio.ensure_future(aioice.ice.server_reflexive_candidate(protocol, connection.stun_server))
            for protocol in connection._protocols
            if ":" not in protocol.local_candidate.host
        ]
    if connection.turn_server is not None:
        requests.append(asyncio.ensure_future(_relayed_candidate(connection)))
    if not requests:
        return []
    try:
        done, _ = await asyncio.wait(requests, timeout=SERVER_TIMEOUT)
    finally:
        for request in requests:
            request.cancel()
    found = []
    for request in done:
        if request.cancelled() or request.exception() is not None or connection._closing:
            continue
        candidate, relay = request.result()
        connection._local_candidates.append(candidate)
        found.append(candidate_from_aioice(candidate))
        if relay is not None:
            _add_protocol(connection, relay)
    return found


async def _relayed_candidate(connection: aioice.ice.Connection) -> Any:
    assert connection.turn_server is not None
    return await aioice.ice.relayed_candidate(
        component=1,
        hide_related_address=connection._transport_policy == aioice.ice.TransportPolicy.RELAY,
        protocol_factory=lambda: aioice.ice.StunProtocol(connection),
        turn_server=connection.turn_server,
        turn_username=connection.turn_username,
        turn_password=connection.turn_password,
        turn_ssl=connection.turn_ssl,
        turn_transport=connection.turn_transport,
    )


def _add_protocol(connection: aioice.ice.Connection, protocol: Any) -> None:
    """Pair a late local candidate with the remote ones known so far."""
    connection._protocols.append(protocol)
    for remote in connection._remote_candidates:
        connection._pair_remote_candidate(remote)
    connection.sort_check_list()
