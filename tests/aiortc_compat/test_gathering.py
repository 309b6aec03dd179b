"""Candidates of the host, and those of servers that are added later."""

from __future__ import annotations

import asyncio
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCPeerConnection

from metered_realtime import IceServerConfig
from metered_realtime.aiortc_compat import gathering
from metered_realtime.aiortc_compat.gathering import (
    _add_protocol,
    gather_from_servers,
    gather_host_candidates,
    is_usable,
)
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.transports import (
    ice_transport,
)
from tests.aiortc_compat.support.bare_connections import make
from tests.aiortc_compat.support.private_names import private_names

TOUCHED = {
    "_closing": "test_candidates_of_a_server_become_part_of_the_connection",
    "_connection": "test_candidates_of_a_server_become_part_of_the_connection",
    "_local_candidates": "test_candidates_of_a_server_become_part_of_the_connection",
    "_pair_remote_candidate": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_protocols": "test_candidates_of_a_server_become_part_of_the_connection",
    "_remote_candidates": "test_a_late_protocol_is_paired_with_the_remote_candidates",
    "_transport_policy": "test_candidates_of_a_server_become_part_of_the_connection",
}
"""Every private name in aiortc_compat/gathering.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(gathering) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_relay_only_gathers_nothing_on_its_own(pcs: list[RTCPeerConnection]) -> None:
    pc = create_peer_connection(relay_only=True)
    pcs.append(pc)
    await gather_host_candidates(pc)
    assert ice_transport(pc).iceGatherer.getLocalCandidates() == []


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
    await gather_host_candidates(pc)
    gatherer = ice_transport(pc).iceGatherer
    assert {it.type for it in gatherer.getLocalCandidates()} == {"host"}
    found = await gather_from_servers(pc, [IceServerConfig(f"stun:somewhere:{port}")], _on_loopback)
    transport.close()
    assert {(it.type, it.ip, it.port) for it in found} == {("srflx", "203.0.113.7", 4_242)}
    assert {it.type for it in gatherer.getLocalCandidates()} == {"host", "srflx"}
    connection = gatherer._connection
    for name in ("_protocols", "_transport_policy", "_closing"):
        assert hasattr(connection, name)


async def test_a_late_protocol_is_paired_with_the_remote_candidates(pcs: list[RTCPeerConnection]) -> None:
    pc = make(pcs)
    await gather_host_candidates(pc)
    connection: Any = ice_transport(pc).iceGatherer._connection
    await connection.add_remote_candidate(aioice.Candidate.from_sdp("1 1 udp 2130706431 192.0.2.9 9 typ host"))
    before = len(connection._check_list)
    late = connection._protocols.pop()
    connection._check_list = [pair for pair in connection._check_list if pair.protocol is not late]
    _add_protocol(connection, late)
    assert len(connection._check_list) == before
    assert late in connection._protocols


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
    assert is_usable(IceServerConfig(url, "u", "c")) is good
