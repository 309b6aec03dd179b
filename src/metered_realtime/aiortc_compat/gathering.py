"""Gathering of candidates: of the host at once, of STUN and TURN servers later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aioice.ice
from aiortc import RTCIceServer, RTCPeerConnection
from aiortc.rtcicetransport import RTCIceCandidate, candidate_from_aioice, connection_kwargs

from ..options import IceServerConfig
from .transports import ice_transport

SERVER_TIMEOUT = 5.0
"""Timeout of a STUN or TURN server, in seconds. Nothing waits for it: gathering runs beside the negotiation."""


def is_usable(server: IceServerConfig) -> bool:
    """Return whether aiortc can use a server with one URL. It refuses all servers for one that it cannot parse."""
    try:
        return bool(connection_kwargs([_ice_server(server)]))
    except ValueError:
        return False


async def gather_host_candidates(pc: RTCPeerConnection) -> None:
    """Gather host candidates, which takes about a millisecond. Idempotent."""
    await ice_transport(pc).iceGatherer.gather()


async def gather_from_servers(
    pc: RTCPeerConnection, servers: Sequence[IceServerConfig], resolve: Callable[[str], Awaitable[str]]
) -> list[RTCIceCandidate]:
    """Gather from one STUN and one TURN server, add the candidates to the connection, and return them.

    A server that fails, or does not answer within `SERVER_TIMEOUT`, yields nothing. `resolve` looks up host names.
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
    """Add what a server gave to the connection, or release it if the connection has closed."""
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
    """Release what a server gave after gathering was cancelled."""
    if not request.cancelled() and request.exception() is None and request.result()[1] is not None:
        farewell = asyncio.ensure_future(request.result()[1].close())
        _farewells.add(farewell)
        farewell.add_done_callback(_farewells.discard)


_farewells: set[asyncio.Future[None]] = set()
"""Allocations that are being released: the event loop does not keep tasks alive."""


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
    """Add the protocol of a late local candidate, and pair it with the remote candidates known so far."""
    connection._protocols.append(protocol)
    for remote in connection._remote_candidates:
        connection._pair_remote_candidate(remote)
    connection.sort_check_list()
