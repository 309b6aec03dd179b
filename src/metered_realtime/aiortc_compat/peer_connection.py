"""Connections whose offers are made and committed by this package, not by aiortc."""

from __future__ import annotations

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtcconfiguration import RTCBundlePolicy, RTCIceTransportPolicy

from ..options import DEFAULT_TUNING, Tuning
from .certificate import SharedCertificate
from .closing import outlive_cancellation
from .ice_checks import pace_checks
from .ice_consent import keep_consent
from .message_size import assume_default
from .sctp import speed_up_data
from .stats import count_traffic, received
from .transports import ice_transport, sctp_transport

_PC = "_RTCPeerConnection__"


def create_peer_connection(
    *, relay_only: bool = False, certificate: SharedCertificate | None = None, tuning: Tuning = DEFAULT_TUNING
) -> RTCPeerConnection:
    """Create a connection whose media and data share one transport, that of SCTP, which exists from the start.

    It has no STUN or TURN servers, not even aiortc's default: `gather_from_servers` takes them. With `relay_only` only
    relayed candidates are gathered. Without a certificate the connection gets one of its own.
    """
    policy = RTCIceTransportPolicy.RELAY if relay_only else RTCIceTransportPolicy.ALL
    configuration = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE, iceTransportPolicy=policy)
    pc = RTCPeerConnection(configuration)
    setattr(pc, f"{_PC}certificates", [certificate or SharedCertificate.generateCertificate()])
    getattr(pc, f"{_PC}createSctpTransport")()
    # Otherwise a remote offer that puts SCTP behind media would stop the shared transport as a bundled leftover.
    sctp_transport(pc)._bundled = True
    # Every set*Description starts a connect of its own, and overlapping ones raise IndexError or skip new media.
    # They do nothing here; `connect` runs the real one, one at a time.
    setattr(pc, f"{_PC}connect", _connect_later)
    if tuning.fast_checks:
        pace_checks(ice_transport(pc)._connection)
    keep_consent(ice_transport(pc)._connection, lambda: received(pc)[1], lambda: only_receives(pc))
    outlive_cancellation(ice_transport(pc))
    if tuning.fast_data:
        speed_up_data(pc)
    assume_default(sctp_transport(pc))
    count_traffic(pc)
    return pc


def only_receives(pc: RTCPeerConnection) -> bool:
    """Return whether the connection sends neither media nor data, as negotiated."""
    sends = any(it.currentDirection in ("sendrecv", "sendonly") for it in pc.getTransceivers())
    return not sends and sctp_transport(pc).state == "new"


async def _connect_later() -> None:
    """Do nothing: replaces aiortc's connect, which `connect` runs."""


async def connect(pc: RTCPeerConnection) -> None:
    """Start the transports, senders and receivers that are negotiated and not running yet. Idempotent.

    Returns when ICE and DTLS are connected. Run one at a time for each connection.
    """
    await getattr(RTCPeerConnection, f"{_PC}connect")(pc)
