"""Connections of aiortc without a peer around them: as this project makes them, and as aiortc does."""

from __future__ import annotations

from typing import Any

from aiortc import RTCPeerConnection, RTCRtpTransceiver

from metered_realtime.aiortc_compat.gathering import (
    gather_host_candidates,
)
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.transceivers import (
    adopt_transceiver,
    new_transceiver,
)
from tests.support.peers import GreyTrack


def make(pcs: list[RTCPeerConnection]) -> RTCPeerConnection:
    pc = create_peer_connection()
    pcs.append(pc)
    return pc


def plain(pcs: list[RTCPeerConnection]) -> RTCPeerConnection:
    pc = RTCPeerConnection()
    pcs.append(pc)
    return pc


def sending(pc: RTCPeerConnection, track: Any = None) -> RTCRtpTransceiver:
    """Give a connection a transceiver that sends, as a link does."""
    transceiver = new_transceiver(pc, track if track is not None else GreyTrack())
    adopt_transceiver(pc, transceiver)
    return transceiver


async def negotiate(one: RTCPeerConnection, other: RTCPeerConnection) -> None:
    """Offer and answer by the public interface, then connect."""
    await gather_host_candidates(one)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
