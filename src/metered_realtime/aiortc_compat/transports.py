"""The transports of a connection: SCTP, DTLS and ICE, which media and data share."""

from __future__ import annotations

from typing import Any

import aioice.stun
from aiortc import RTCPeerConnection
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpTransport


def sctp_transport(pc: RTCPeerConnection) -> RTCSctpTransport:
    """Return the SCTP transport, which exists from the start."""
    sctp = pc.sctp
    assert sctp is not None
    return sctp


def sctp_mid(pc: RTCPeerConnection) -> str | None:
    """Return the mid of the data section, None until it is negotiated."""
    return sctp_transport(pc).mid


def dtls_transport(pc: RTCPeerConnection) -> RTCDtlsTransport:
    """Return the DTLS transport, which media and data share."""
    return sctp_transport(pc).transport


def ice_transport(pc: RTCPeerConnection) -> RTCIceTransport:
    """Return the ICE transport, which media and data share."""
    return dtls_transport(pc).transport


def selected_pair(pc: RTCPeerConnection) -> Any:
    """Return the candidate pair in use (of aioice), None without one."""
    return ice_transport(pc)._connection._nominated.get(1)


def claim_controlling_role(pc: RTCPeerConnection) -> None:
    """Take the ICE role of an offerer when the offer is sent: checks may arrive before the answer is applied."""
    ice = ice_transport(pc)
    if not ice._role_set:
        ice._connection.ice_controlling = True


def release_controlling_role(pc: RTCPeerConnection) -> None:
    """Undo `claim_controlling_role` when the offer is withdrawn."""
    ice = ice_transport(pc)
    if not ice._role_set:
        ice._connection.ice_controlling = False


async def path_is_alive(pc: RTCPeerConnection) -> bool:
    """Return whether the remote answers a STUN check on the pair in use. Takes at most 1.5 s."""
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
