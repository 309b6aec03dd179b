"""Private attributes of aiortc and aioice, which are touched here and in aiortc_compat_*.py only.

aiortc has no public way to negotiate without its own rollback-free offers, to share one transport from the start, or to
add gathered candidates later. What is needed for that stands here, one function for each need, and
tests/aiortc_compat/test_peer_connection.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
import datetime
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import aioice.ice
import aioice.stun
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    rtcpeerconnection,
)
from aiortc.codecs import is_rtx
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcconfiguration import RTCBundlePolicy, RTCIceTransportPolicy
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsTransport, SRTPProtectionProfile
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceTransport, candidate_from_aioice, connection_kwargs
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    RTCSctpTransport,
)
from aiortc.sdp import MediaDescription, SessionDescription
from OpenSSL import SSL

from ..core.media.rates import RateWindow
from ..options import IceServerConfig
from .dtls import send_all
from .ice_checks import pace_checks
from .ice_consent import keep_consent
from .ice_monitor import outlive_cancellation
from .rtcp_feedback import count_frames
from .sctp import speed_up_data

SUPPORTED = "1.16."

SERVER_TIMEOUT = 5.0
"""Seconds that a STUN or TURN server may take. Gathering from them runs beside the negotiation, it delays nothing."""

EVENT_DRIVEN_CHECKS = True
"""Whether new connections start their connectivity checks as `pace_checks` says, or aioice's way."""

CERTIFICATE_MARGIN = datetime.timedelta(days=1)
"""What a certificate has left at least when a connection begins. aiortc makes them for 30 days."""

FAST_DATA = True
"""Whether new connections carry data channels as `speed_up_data` says, or aiortc's way."""

_PC = "_RTCPeerConnection__"
_SENDER = "_RTCRtpSender__"


@cache  # it parses the metadata of a package, and every connection asks
def check_version() -> None:
    """Refuse an aiortc whose insides are not the ones known here.

    Raises:
        ImportError: another minor release is installed.
    """
    installed = version("aiortc")
    if not installed.startswith(SUPPORTED):
        raise ImportError(f"aiortc {SUPPORTED}x is needed, {installed} is installed")


# --- peer connection


def create_peer_connection(*, relay_only: bool = False, certificate: RTCCertificate | None = None) -> RTCPeerConnection:
    """Create a connection whose media and data share one transport, SCTP's, which exists from the start.

    It has no STUN or TURN servers, and never those that aiortc takes when it is given none: `gather_from_servers` is
    told which ones to ask. With `relay_only` nothing but relayed candidates is gathered. Without a certificate it makes
    one of its own.
    """
    policy = RTCIceTransportPolicy.RELAY if relay_only else RTCIceTransportPolicy.ALL
    configuration = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE, iceTransportPolicy=policy)
    pc = RTCPeerConnection(configuration)
    if certificate is not None:
        setattr(pc, f"{_PC}certificates", [certificate])
    getattr(pc, f"{_PC}createSctpTransport")()
    # Otherwise a remote offer that puts SCTP behind media would stop the shared transport as a bundled leftover.
    _sctp(pc)._bundled = True
    # Every set*Description starts a connect of its own, and overlapping ones raise IndexError or skip new media.
    # They are replaced by nothing here; `connect` runs the real one, one at a time.
    setattr(pc, f"{_PC}connect", _connect_later)
    if EVENT_DRIVEN_CHECKS:
        pace_checks(ice_transport(pc)._connection)
    keep_consent(ice_transport(pc)._connection, lambda: received(pc)[1])
    outlive_cancellation(ice_transport(pc))
    if FAST_DATA:
        speed_up_data(pc)
    measure(pc)
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


# --- certificate


class SharedCertificate(RTCCertificate):
    """A certificate for any number of connections, with one TLS context, which costs more than the certificate.

    Remotes that compare fingerprints see that they talk to the same peer (RFC 8827 section 6.5): share it among
    connections whose other ends know that anyway.
    """

    def __init__(self, key: Any, cert: Any) -> None:
        super().__init__(key, cert)
        self._contexts: dict[tuple[bytes, ...], SSL.Context] = {}
        self._fingerprints = [(it.algorithm, it.value) for it in super().getFingerprints()]

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:
        """Return the fingerprints in all algorithms. They are computed once."""
        return [RTCDtlsFingerprint(algorithm, value) for algorithm, value in self._fingerprints]

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        names = tuple(profile.openssl_profile for profile in srtp_profiles)
        if names not in self._contexts:
            context = super()._create_ssl_context(srtp_profiles)
            # Nobody resumes a session, and a context that stays would collect them.
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            self._contexts[names] = context
        return self._contexts[names]


def certificate_for_now(previous: SharedCertificate | None) -> SharedCertificate:
    """Return what a new connection is to use: the previous certificate, or a new one if that expires soon."""
    now = datetime.datetime.now(tz=datetime.UTC)
    if previous is not None and previous.expires - now > CERTIFICATE_MARGIN:
        return previous
    return SharedCertificate.generateCertificate()


# --- sections


def new_transceiver(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpTransceiver:
    """Create a transceiver on the shared transport that the connection does not know yet.

    It stays out of every description until `adopt_transceiver`, so a forgotten offer leaves no trace.
    """
    transport = dtls_transport(pc)
    sender = RTCRtpSender(track, transport)
    count_frames(sender)
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


def set_section_index(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver | None, index: int) -> None:
    """Place a transceiver, or the data section when None, at an index of the description to be committed."""
    if transceiver is None:
        setattr(pc, f"{_PC}sctp_mline_index", index)
    else:
        transceiver._set_mline_index(index)


async def give_up_section(pc: RTCPeerConnection, transceiver: RTCRtpTransceiver) -> None:
    """Stop a transceiver and make the connection forget it: the remote uses its section for something else."""
    getattr(pc, f"{_PC}transceivers").remove(transceiver)
    await transceiver.stop()


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


def remote_description(pc: RTCPeerConnection) -> SessionDescription:
    """Return what aiortc has read out of the remote description that was set last."""
    description: SessionDescription = getattr(pc, f"{_PC}remoteDescription")()
    return description


# --- receiving


def receiver_of(pc: RTCPeerConnection, track: MediaStreamTrack) -> RTCRtpReceiver | None:
    """Return the receiver whose raw track this is."""
    return next((receiver for receiver in pc.getReceivers() if receiver.track is track), None)


def route_sources(pc: RTCPeerConnection, description: SessionDescription) -> None:
    """Tell the router and the receivers the SSRCs of a remote description.

    aiortc learns them only when a receiver starts. Without this a source that appears later in a running section is
    dropped, or lands in another section with the same payload type. Those of an earlier description that are not in
    this one are forgotten.
    """
    router = dtls_transport(pc)._rtp_router
    for media in description.media:
        transceiver = next((t for t in pc.getTransceivers() if t.mid == media.rtp.muxId), None)
        if transceiver is None or transceiver.receiver not in router.receivers or not media.ssrc:
            continue
        receiver: Any = transceiver.receiver
        described = frozenset(source.ssrc for source in media.ssrc)
        for former in _described_sources.get(receiver, frozenset()) - described:
            receiver._RTCRtpReceiver__rtx_ssrc.pop(former, None)
            if router.ssrc_table.get(former) is receiver:
                del router.ssrc_table[former]
        _described_sources[receiver] = described
        router.ssrc_table.update(dict.fromkeys(described, receiver))
        for group in media.ssrc_group:
            if group.semantic == "FID" and len(group.items) == 2:
                receiver._RTCRtpReceiver__rtx_ssrc[group.items[1]] = group.items[0]


_described_sources: weakref.WeakKeyDictionary[RTCRtpReceiver, frozenset[int]] = weakref.WeakKeyDictionary()


# --- candidates


def is_usable(server: IceServerConfig) -> bool:
    """Tell whether aiortc can use a server of one URL: one that it does not understand makes it refuse all."""
    try:
        return bool(connection_kwargs([_ice_server(server)]))
    except ValueError:
        return False


async def gather_host_candidates(pc: RTCPeerConnection) -> None:
    """Gather the candidates that cost nothing, which takes about a millisecond. Idempotent."""
    await ice_transport(pc).iceGatherer.gather()


async def gather_from_servers(
    pc: RTCPeerConnection, servers: Sequence[IceServerConfig], resolve: Callable[[str], Awaitable[str]]
) -> list[RTCIceCandidate]:
    """Ask one STUN and one TURN server, make their candidates part of the connection, and return them.

    It raises nothing: a server that fails or is silent for `SERVER_TIMEOUT` yields nothing. `resolve` looks up hosts.
    """
    connection = ice_transport(pc).iceGatherer._connection
    for name, value in connection_kwargs([_ice_server(server) for server in servers]).items():
        setattr(connection, name, value)
    requests: list[asyncio.Task[Any]] = []
    if connection.stun_server is not None:
        requests += [
            asyncio.ensure_future(_reflexive_candidate(protocol, connection.stun_server, resolve))
            for protocol in connection._protocols
            if ":" not in protocol.local_candidate.host
        ]
    if connection.turn_server is not None:
        requests.append(asyncio.ensure_future(_relayed_candidate(connection, resolve)))
    if not requests:
        return []
    try:
        done, late = await asyncio.wait(requests, timeout=SERVER_TIMEOUT)
    except asyncio.CancelledError:
        for request in requests:
            request.add_done_callback(_give_back)
            request.cancel()
        raise
    for request in late:
        request.cancel()
    return [candidate for request in done for candidate in await _take(connection, request)]


async def _take(connection: aioice.ice.Connection, request: asyncio.Task[Any]) -> list[RTCIceCandidate]:
    """Make what a server gave part of the connection, or give it back if there is none any more."""
    if request.cancelled() or request.exception() is not None:
        return []
    candidate, relay = request.result()
    if connection._closing:
        if relay is not None:
            await relay.close()
        return []
    connection._local_candidates.append(candidate)
    if relay is not None:
        _add_protocol(connection, relay)
    return [candidate_from_aioice(candidate)]


def _give_back(request: asyncio.Task[Any]) -> None:
    """Release what a server gave although nobody waits for it any more."""
    if not request.cancelled() and request.exception() is None and request.result()[1] is not None:
        farewell = asyncio.ensure_future(request.result()[1].close())
        _farewells.add(farewell)
        farewell.add_done_callback(_farewells.discard)


_farewells: set[asyncio.Future[None]] = set()
"""Allocations that are being given back: the event loop itself keeps no task alive."""


def _ice_server(server: IceServerConfig) -> RTCIceServer:
    return RTCIceServer(urls=server.urls, username=server.username, credential=server.credential)


async def _reflexive_candidate(protocol: Any, server: tuple[str, int], resolve: Callable[[str], Awaitable[str]]) -> Any:
    return await aioice.ice.server_reflexive_candidate(protocol, (await resolve(server[0]), server[1]))


async def _relayed_candidate(connection: aioice.ice.Connection, resolve: Callable[[str], Awaitable[str]]) -> Any:
    assert connection.turn_server is not None
    host, port = connection.turn_server
    return await aioice.ice.relayed_candidate(
        component=1,
        hide_related_address=connection._transport_policy == aioice.ice.TransportPolicy.RELAY,
        protocol_factory=lambda: aioice.ice.StunProtocol(connection),
        turn_server=(host if connection.turn_ssl else await resolve(host), port),  # TLS checks the name
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


# --- statistics
#
# What aiortc counts is read where it stands: its own `getStats()` is a coroutine that makes ten objects for each track.
# What it does not count is counted by objects that stand in for a bound method and pass the call on.


class TransportMeter:
    """Counts what a connection sends: stands in for the send function of its ICE transport."""

    def __init__(self, ice: RTCIceTransport) -> None:
        began_at = time.monotonic()
        self.bytes_sent = 0
        self.packets_sent = 0
        self.connected_at: float | None = None
        self.rate_out = RateWindow(began_at)
        self.rate_in = RateWindow(began_at)
        self.pass_on = ice._send
        self.pairs = ice._connection._nominated

    def __call__(self, data: bytes) -> Coroutine[Any, Any, None]:
        """Send a datagram. Without a path it raises, and is not counted."""
        if self.pairs:
            self.bytes_sent += len(data)
            self.packets_sent += 1
        return self.pass_on(data)

    def send_all(self, datagrams: Sequence[bytes]) -> Coroutine[Any, Any, None]:
        """Send several datagrams."""
        if self.pairs:
            self.bytes_sent += sum(map(len, datagrams))
            self.packets_sent += len(datagrams)
        return send_all(self.pass_on, datagrams)

    def follow(self, state: str) -> None:
        """Note since when the connection is up."""
        self.connected_at = time.monotonic() if state == "connected" else None


class _TimedRequest:
    """Stands in for the STUN request of one socket, and keeps the last round trip time to each address."""

    def __init__(self, request: Callable[..., Awaitable[Any]]) -> None:
        self.round_trips: dict[Any, float] = {}
        self.pass_on = request

    async def __call__(self, request: Any, addr: Any, *args: Any, **kwargs: Any) -> Any:
        asked_at = time.monotonic()
        response = await self.pass_on(request, addr, *args, **kwargs)
        elapsed = time.monotonic() - asked_at
        if elapsed < aioice.stun.RETRY_RTO:  # beyond that it may be the answer to a retransmission (RFC 6298 section 3)
            self.round_trips[addr] = elapsed
        return response


class _PacketCounter:
    """Counts the RTP payload that a receiver takes in, without retransmissions: stands in for its packet handler."""

    def __init__(self, handle: Callable[..., Coroutine[Any, Any, None]], codecs_by_type: dict[int, Any]) -> None:
        self.bytes = 0
        self.codec: Any = None
        self.sources: dict[int, None] = {}
        self.rate = RateWindow(time.monotonic())
        self.pass_on = handle
        self.codecs_by_type = codecs_by_type

    def __call__(self, packet: Any, arrival_time_ms: int) -> Coroutine[Any, Any, None]:
        codec = self.codecs_by_type.get(packet.payload_type)
        if codec is not None and (codec is self.codec or not is_rtx(codec)):
            self.bytes += len(packet.payload)
            self.codec = codec
            self.sources[packet.ssrc] = None
        return self.pass_on(packet, arrival_time_ms=arrival_time_ms)


@dataclass(slots=True)
class MessageCounter:
    """The messages of a data channel, or of all of a connection, and the bytes in them."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0

    def sent(self, size: int) -> None:
        """Count a message that was handed to SCTP."""
        self.messages_sent += 1
        self.bytes_sent += size

    def received(self, size: int) -> None:
        """Count a message that arrived."""
        self.messages_received += 1
        self.bytes_received += size


class _MessageMeter:
    """Counts messages: `open`, `send` and `receive` stand in for the steps of an SCTP transport.

    `total` is that of all channels there ever were, `channels` holds those that still exist.
    """

    def __init__(self, sctp: RTCSctpTransport) -> None:
        self.total = MessageCounter()
        self.channels: weakref.WeakKeyDictionary[RTCDataChannel, MessageCounter] = weakref.WeakKeyDictionary()
        self.by_id = sctp._data_channels
        self.pass_on_open = sctp._data_channel_open
        self.pass_on_send = sctp._data_channel_send
        self.pass_on_receive = sctp._data_channel_receive

    def of(self, channel: RTCDataChannel) -> MessageCounter:
        counter = self.channels.get(channel)
        if counter is None:
            counter = self.channels[channel] = MessageCounter()
        return counter

    def open(self, channel: RTCDataChannel) -> None:
        self.pass_on_open(channel)
        self.of(channel)  # it has no id yet and is known nowhere else

    def send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        self.pass_on_send(channel, data)
        size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        self.of(channel).sent(size)
        self.total.sent(size)

    def receive(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        channel = self.by_id.get(stream_id)
        if channel is not None and pp_id in _MESSAGES:
            size = 0 if pp_id in _EMPTY_MESSAGES else len(data)
            self.of(channel).received(size)
            self.total.received(size)
        return self.pass_on_receive(stream_id, pp_id, data)

    def open_channels(self) -> list[RTCDataChannel]:
        """Return the channels that have not ended, those without an id last."""
        known = {*self.channels, *self.by_id.values()}
        alive = [channel for channel in known if channel.readyState != "closed"]
        return sorted(alive, key=lambda channel: (channel.id is None, channel.id))


_EMPTY_MESSAGES = frozenset({WEBRTC_STRING_EMPTY, WEBRTC_BINARY_EMPTY})
_MESSAGES = _EMPTY_MESSAGES | {WEBRTC_STRING, WEBRTC_BINARY}


def measure(pc: RTCPeerConnection) -> None:
    """Count from now on what a new connection sends, in how long STUN checks are answered, and its data."""
    ice: Any = ice_transport(pc)
    meter = ice._send = TransportMeter(ice)
    pc.on("connectionstatechange", lambda: meter.follow(pc.connectionState))
    connection = ice._connection
    build = connection.build_request

    def build_request(pair: Any, nominate: bool) -> Any:
        """Have every check timed, on whatever socket it goes out: this is what comes before one."""
        if not isinstance(pair.protocol.request, _TimedRequest):
            pair.protocol.request = _TimedRequest(pair.protocol.request)
        return build(pair, nominate)

    connection.build_request = build_request
    sctp: Any = _sctp(pc)
    messages = _MessageMeter(sctp)
    sctp._data_channel_open = messages.open
    sctp._data_channel_send = messages.send
    sctp._data_channel_receive = messages.receive


def count_packets(receiver: RTCRtpReceiver) -> None:
    """Count the payload that a new receiver takes in."""
    counted: Any = receiver
    counted._handle_rtp_packet = _PacketCounter(counted._handle_rtp_packet, counted._RTCRtpReceiver__codecs)


def transport_meter(pc: RTCPeerConnection) -> TransportMeter:
    """Return what counts the sending of a connection that `measure` has seen."""
    meter: Any = ice_transport(pc)._send
    assert isinstance(meter, TransportMeter)
    return meter


def received(pc: RTCPeerConnection) -> tuple[int, int]:
    """Return the bytes and the packets that a connection received."""
    dtls: Any = dtls_transport(pc)
    return dtls._RTCDtlsTransport__rx_bytes, dtls._RTCDtlsTransport__rx_packets


def packets_refused(pc: RTCPeerConnection) -> int:
    """Return how many packets of the remote the faster data path has refused."""
    return sum(
        getattr(it, "media_refused", 0) + getattr(it, "packets_malformed", 0) for it in (dtls_transport(pc), pc.sctp)
    )


def selected_pair(pc: RTCPeerConnection) -> Any:
    """Return aioice's candidate pair in use, None without one."""
    return ice_transport(pc)._connection._nominated.get(1)


def round_trip_time(pair: Any) -> float | None:
    """Return the seconds that the last STUN check on a pair took."""
    request = pair.protocol.request
    return request.round_trips.get(pair.remote_addr) if isinstance(request, _TimedRequest) else None


def message_total(pc: RTCPeerConnection) -> MessageCounter:
    """Return the counter of all data channels there were."""
    return _message_meter(pc).total


def message_counters(pc: RTCPeerConnection) -> list[tuple[RTCDataChannel, MessageCounter]]:
    """Return the data channels that have not ended, by id, with their counters."""
    meter = _message_meter(pc)
    return [(channel, meter.of(channel)) for channel in meter.open_channels()]


def _message_meter(pc: RTCPeerConnection) -> _MessageMeter:
    send: Any = _sctp(pc)._data_channel_send
    meter = send.__self__
    assert isinstance(meter, _MessageMeter)
    return meter


@dataclass(slots=True)
class SenderFigures:
    """What a sender counts. `report` is aiortc's RTCRemoteInboundRtpStreamStats, None before the first one."""

    bytes: int
    packets: int
    frames: int
    rate: RateWindow
    report: Any


def sender_figures(sender: RTCRtpSender) -> SenderFigures:
    """Return the figures of a sender that `count_frames` has seen."""
    inside: Any = sender
    counter = inside._next_encoded_frame
    return SenderFigures(
        bytes=getattr(sender, f"{_SENDER}octet_count"),
        packets=getattr(sender, f"{_SENDER}packet_count"),
        frames=counter.frames,
        rate=counter.rate,
        report=getattr(sender, f"{_SENDER}stats").get(f"remote-inbound-rtp_{id(sender)}"),
    )


@dataclass(slots=True)
class ReceiverFigures:
    """What a receiver counts, over all sources of its section. `jitter` is in units of the codec's clock."""

    bytes: int
    packets: int
    packets_lost: int
    jitter: int
    rate: RateWindow
    codec: Any


def receiver_figures(receiver: RTCRtpReceiver) -> ReceiverFigures:
    """Return the figures of a receiver that `count_packets` has seen."""
    inside: Any = receiver
    counter = inside._handle_rtp_packet
    known = inside._RTCRtpReceiver__remote_streams
    streams = [known[ssrc] for ssrc in counter.sources if ssrc in known]
    return ReceiverFigures(
        bytes=counter.bytes,
        packets=sum(stream.packets_received for stream in streams),
        packets_lost=sum(stream.packets_lost for stream in streams),
        jitter=streams[-1].jitter if streams else 0,
        rate=counter.rate,
        codec=counter.codec,
    )
