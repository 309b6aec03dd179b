"""Connections that are set up by this project, and connect when they are told to."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from aiortc import RTCPeerConnection

from metered_realtime import Tuning
from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat.certificate import certificate_for_now
from metered_realtime.aiortc_compat.gathering import (
    gather_host_candidates,
)
from metered_realtime.aiortc_compat.transports import (
    dtls_transport,
    ice_transport,
)
from tests.aiortc_compat.support.bare_connections import make, negotiate, plain, sending
from tests.aiortc_compat.support.private_names import private_names
from tests.support.peers import GreyTrack

TOUCHED = {
    "__certificates": "test_connections_can_share_a_certificate",
    "__connect": "test_connecting_is_left_to_connect",
    "__createSctpTransport": "test_everything_is_bundled_from_the_start",
    "_bundled": "test_everything_is_bundled_from_the_start",
    "_connection": "test_checks_are_paced_by_events_unless_that_is_switched_off",
}
"""Every private name in aiortc_compat/peer_connection.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(peer_connection) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


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
    before = dtls_transport(pc)
    await pc.setRemoteDescription(other.localDescription)
    assert {it.receiver.transport for it in pc.getTransceivers()} == {before}
    assert dtls_transport(pc) is before
    assert before.transport.state == "new"


async def test_a_connection_has_no_servers_of_its_own(pcs: list[RTCPeerConnection]) -> None:
    connection: Any = ice_transport(make(pcs)).iceGatherer._connection
    assert (connection.stun_server, connection.turn_server) == (None, None)
    ordinary = plain(pcs)
    ordinary.createDataChannel("x")
    theirs: Any = ice_transport(ordinary).iceGatherer._connection
    assert theirs.stun_server is not None, "aiortc's default is a public server"


async def test_connecting_is_left_to_connect(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    one.createDataChannel("x")
    await gather_host_candidates(other)
    await negotiate(one, other)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (ice_transport(one).state, ice_transport(other).state) == ("new", "new")
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    assert (one.connectionState, other.connectionState) == ("connected", "connected")
    await peer_connection.connect(one)


@pytest.mark.parametrize("event_driven", [True, False])
async def test_checks_are_paced_by_events_unless_that_is_switched_off(
    pcs: list[RTCPeerConnection], event_driven: bool
) -> None:
    pc = peer_connection.create_peer_connection(tuning=Tuning(fast_checks=event_driven))
    pcs.append(pc)
    assert ("sort_check_list" in vars(ice_transport(pc)._connection)) is event_driven


async def test_connections_can_share_a_certificate(pcs: list[RTCPeerConnection]) -> None:
    shared: Any = certificate_for_now(None)
    for _ in range(2):
        one, other = peer_connection.create_peer_connection(certificate=shared), make(pcs)
        pcs.append(one)
        one.createDataChannel("x")
        await gather_host_candidates(other)
        await negotiate(one, other)
        fingerprints = re.findall("a=fingerprint:(.*?)\r\n", one.localDescription.sdp)
        assert fingerprints == [f"{it.algorithm} {it.value}" for it in shared.getFingerprints()]
        assert fingerprints[0] not in other.localDescription.sdp, "without one a connection makes its own"
        await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
        assert (one.connectionState, other.connectionState) == ("connected", "connected")


async def test_a_connection_that_is_sent_media_only_receives_until_it_sends_media_or_data(
    pcs: list[RTCPeerConnection],
) -> None:
    one, other = make(pcs), make(pcs)
    transceiver = sending(one)
    transceiver.direction = "sendonly"
    await negotiate(one, other)
    assert not peer_connection.only_receives(one)
    assert peer_connection.only_receives(other)
    one.createDataChannel("x")
    await gather_host_candidates(other)
    await negotiate(one, other)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    assert not peer_connection.only_receives(other)
