"""The transports that everything shares, the ICE role, and whether the path is alive."""

from __future__ import annotations

import asyncio

from aiortc import RTCPeerConnection

from metered_realtime.aiortc_compat import peer_connection, transports
from metered_realtime.aiortc_compat.transports import (
    claim_controlling_role,
    dtls_transport,
    ice_transport,
    path_is_alive,
    release_controlling_role,
    sctp_mid,
)
from tests.aiortc_compat.support.bare_connections import make, negotiate, sending
from tests.aiortc_compat.support.private_names import private_names

TOUCHED = {
    "_connection": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
    "_nominated": "test_a_path_is_alive_until_the_other_end_is_gone",
    "_role_set": "test_the_role_of_the_offerer_can_be_taken_and_given_back",
}
"""Every private name in aiortc_compat/transports.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(transports) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_data_shares_its_transport_from_the_start(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    assert pc.sctp is not None
    assert sctp_mid(pc) is None
    assert dtls_transport(pc) is pc.sctp.transport
    assert ice_transport(pc) is pc.sctp.transport.transport
    assert sending(pc).sender.transport is pc.sctp.transport


async def test_the_role_of_the_offerer_can_be_taken_and_given_back(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    ice = ice_transport(pc)
    assert ice.role == "controlled"
    claim_controlling_role(pc)
    assert ice.role == "controlling"
    release_controlling_role(pc)
    assert ice.role == "controlled"
    await pc.setLocalDescription(await pc.createOffer())
    assert ice.role == "controlling"
    release_controlling_role(pc)
    assert ice.role == "controlling", "once negotiated it stays"


async def test_a_path_is_alive_until_the_other_end_is_gone(pcs: list[RTCPeerConnection]) -> None:
    one, other = make(pcs), make(pcs)
    assert not await path_is_alive(one), "there is none yet"
    await negotiate(one, other)
    await asyncio.gather(peer_connection.connect(one), peer_connection.connect(other))
    assert await path_is_alive(one)
    await ice_transport(other)._connection.close()
    assert not await path_is_alive(one)
