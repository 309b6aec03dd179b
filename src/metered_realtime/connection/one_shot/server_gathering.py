"""Gathering the candidates of STUN and TURN servers beside a negotiation that its program carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ...aiortc_compat.gathering import is_usable
from ...events import LocalCandidate
from ...log import Logger
from ...options import IceServerConfig, IceServersOption, IceTransportPolicy
from ..ice_servers import IceServers, choose
from ..interfaces import AnyPeerConnection


class ServerGathering:
    """Asks the servers of one connection, once for each of its ICE credentials, and passes on what they give.

    `given` None means that `use` brings the servers later.
    """

    def __init__(
        self,
        given: IceServersOption | None,
        policy: IceTransportPolicy,
        found: Callable[[LocalCandidate], None],
        logger: Logger,
    ) -> None:
        self._named: Sequence[IceServerConfig] | None = None if given is None else ()
        self._servers = IceServers(given, lambda: self._named, logger, policy)
        self._found = found
        self._attempts = 0
        self._begun: AnyPeerConnection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def may_have_servers(self) -> bool:
        """Whether there may be servers to ask."""
        return self._named is None or self._servers.may_have_any

    @property
    def is_waiting(self) -> bool:
        """Whether the servers are not known yet."""
        return self._named is None

    def use(self, servers: Sequence[IceServerConfig]) -> None:
        """Ask these servers, now if a description has been made already."""
        self._named = tuple(servers)
        if self._begun is not None:
            self._ask(self._begun)

    async def begin(self, peer_connection: AnyPeerConnection, *, trickle: bool) -> None:
        """Gather host candidates, and begin to ask the servers. Without `trickle` wait for these, if they are known."""
        await peer_connection.gather_host()
        self._begun = peer_connection
        self._ask(peer_connection)
        if not trickle and self._task is not None:
            await asyncio.wait([self._task])

    async def renew(self, peer_connection: AnyPeerConnection) -> None:
        """Take new ICE credentials. Other servers are asked for them than before."""
        self._attempts += 1
        await self._stop()
        await peer_connection.restart_ice()

    async def close(self) -> None:
        """Stop asking."""
        self._servers.close()
        self._begun = None
        await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _ask(self, peer_connection: AnyPeerConnection) -> None:
        if self._named is not None and peer_connection.claim_server_gathering():
            self._task = asyncio.ensure_future(self._trickle(peer_connection))

    async def _trickle(self, peer_connection: AnyPeerConnection) -> None:
        ufrag, mid = peer_connection.local_ufrag, peer_connection.transport_mid
        servers = choose(await self._servers.usable(is_usable), self._attempts)
        for candidate in await peer_connection.gather_rest(servers):
            self._found(LocalCandidate(candidate, mid, ufrag))
        self._found(LocalCandidate(None, mid, ufrag))
