"""The candidates of this end: those of the host first, those of STUN and TURN servers when they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiortc import RTCPeerConnection
from aiortc.sdp import candidate_to_sdp

from ..aiortc_compat.gathering import gather_from_servers, gather_host_candidates
from ..aiortc_compat.transports import ice_transport
from ..options import IceServerConfig
from .ice_servers import resolve


class LocalCandidates:
    """Gathers the candidates of one connection, and again after a restart of ICE.

    Attributes:
        gathering: The task that gathers host candidates, None before it has begun.
        is_complete: Whether every candidate is known.
    """

    def __init__(self, pc: RTCPeerConnection, *, has_servers: bool) -> None:
        self._pc = pc
        self._has_servers = has_servers
        self.gathering: asyncio.Task[None] | None = None
        self.renew()

    def renew(self) -> None:
        """Expect to ask the servers again: the credentials of ICE are new ones."""
        self._servers_due = self._has_servers
        self.is_complete = not self._has_servers

    async def gather_hosts(self) -> None:
        """Gather host candidates. Later calls return at once."""
        if self.gathering is None:
            self.gathering = asyncio.ensure_future(gather_host_candidates(self._pc))
        # Cancelled half-way, aioice would forget the sockets that it has opened.
        await asyncio.shield(self.gathering)

    def claim_servers(self) -> bool:
        """Return True once, if the STUN and TURN servers are to be asked."""
        claimed, self._servers_due = self._servers_due, False
        return claimed

    async def ask_servers(self, servers: Sequence[IceServerConfig]) -> list[str]:
        """Ask STUN and TURN servers, one URL each, and return the candidates as `candidate:...` lines."""
        found = await gather_from_servers(self._pc, servers, resolve)
        self.is_complete = True
        return [f"candidate:{candidate_to_sdp(candidate)}" for candidate in found]

    @property
    def lines(self) -> list[str]:
        """The candidates so far, as `candidate:...` lines."""
        known = ice_transport(self._pc).iceGatherer.getLocalCandidates()
        return [f"candidate:{candidate_to_sdp(candidate)}" for candidate in known]
