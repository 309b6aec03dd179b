"""The STUN and TURN servers of new connections: given by the program, or named by the signalling server."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..log import Logger, log_exception
from ..options import IceServerConfig, IceServersOption, IceTransportPolicy
from ..signalling.scrubbing import scrub_error

REFRESH_AFTER = 60.0
"""Seconds for which the servers of a provider are used for new connections. Credentials are valid for minutes at
least."""

PROVIDER_TIMEOUT = 10.0
"""Maximum time of a provider, in seconds: that of a token provider."""

ADDRESS_LIFETIME = 60.0
"""Seconds for which the address of a host is cached: a mesh that comes up resolves it once, not once per connection."""

MAX_ADDRESSES = 64
"""Hosts whose addresses are cached: a server that names other ones each time must not fill memory."""


class IceServers:
    """The servers that connections ask, fetched when they are needed.

    `given` comes before what the signalling server names; an empty list means no servers at all. `policy` `relay`
    allows relayed candidates only (RFC 8828 section 5.2, mode 4).

    Raises:
        TypeError: `given` is neither a sequence of `IceServerConfig` nor callable.
        ValueError: an unknown policy.
    """

    def __init__(
        self,
        given: IceServersOption | None,
        named: Callable[[], Sequence[IceServerConfig] | None],
        logger: Logger,
        policy: IceTransportPolicy = "all",
    ) -> None:
        if policy not in ("all", "relay"):
            raise ValueError(f"ice_transport_policy must be 'all' or 'relay', not {policy!r}")
        self.policy = policy
        self._provider = given if callable(given) else None
        self._given = None if given is None or callable(given) else _checked(given)
        self._named = named
        self._logger = logger
        self._checked: Sequence[IceServerConfig] | None = None
        self._usable: tuple[IceServerConfig, ...] = ()
        self._fetched_at: float | None = None
        self._fetching: asyncio.Task[tuple[IceServerConfig, ...]] | None = None

    @property
    def may_have_any(self) -> bool:
        """Whether there may be servers to ask."""
        return self._provider is not None or bool(self._latest())

    async def prepare(self) -> None:
        """Call the provider now, so that a broken one is noticed before its servers are needed.

        Raises:
            TimeoutError: it took longer than `PROVIDER_TIMEOUT`.
            TypeError: it did not return a sequence of `IceServerConfig`.
            Exception: what it raised, credentials masked.
        """
        if self._provider is not None and self._is_stale():
            await self._fetch()

    async def get(self) -> Sequence[IceServerConfig]:
        """Return the servers, from the provider if its last answer is old. If it fails, the old ones stay in use."""
        try:
            await self.prepare()
        except Exception as error:
            log_exception(self._logger, "ICE server provider failed", error, level="warning")
        return self._latest()

    async def usable(self, is_usable: Callable[[IceServerConfig], bool]) -> Sequence[IceServerConfig]:
        """Return an entry for each URL that can be used. A list is checked once, for all connections."""
        latest = await self.get()
        if latest is not self._checked:
            every = list(each_url(latest))
            verdicts = [is_usable(server) for server in every]
            self._checked = latest
            self._usable = tuple(server for server, fits in zip(every, verdicts, strict=True) if fits)
            left_out = [server.urls for server, fits in zip(every, verdicts, strict=True) if not fits]
            if left_out:
                self._logger.warning("ICE servers left out", {"urls": left_out})
        return self._usable

    def close(self) -> None:
        """Stop calling the provider."""
        if self._fetching is not None:
            self._fetching.cancel()

    def _latest(self) -> Sequence[IceServerConfig]:
        return self._given if self._given is not None else self._named() or ()

    def _is_stale(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._fetched_at is None or now - self._fetched_at >= REFRESH_AFTER

    async def _fetch(self) -> None:
        """Call the provider, once for all callers at the same time."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(self._ask())
        self._given = await asyncio.shield(self._fetching)
        self._fetched_at = asyncio.get_running_loop().time()

    async def _ask(self) -> tuple[IceServerConfig, ...]:
        assert self._provider is not None
        try:
            async with asyncio.timeout(PROVIDER_TIMEOUT):
                answer: Any = self._provider()
                return _checked(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:
            raise scrub_error(error) from None


def choose(servers: Iterable[IceServerConfig], attempt: int) -> list[IceServerConfig]:
    """Return the one STUN and the one TURN server that an attempt asks: each attempt takes the next ones.

    The caller leaves out IPv6 literals and URLs that are not supported.
    """
    by_scheme: dict[bool, list[IceServerConfig]] = {True: [], False: []}
    for server in each_url(servers):
        by_scheme[str(server.urls).startswith("stun")].append(server)
    return [entries[attempt % len(entries)] for entries in by_scheme.values() if entries]


def each_url(servers: Iterable[IceServerConfig]) -> Iterator[IceServerConfig]:
    """Yield an entry for every URL."""
    for server in servers:
        for url in [server.urls] if isinstance(server.urls, str) else server.urls:
            yield replace(server, urls=url)


_addresses: dict[str, tuple[float, asyncio.Future[str]]] = {}


async def resolve(host: str) -> str:
    """Return an IPv4 address of a host, or its name if it has none. Results are cached.

    aioice resolves names in a small pool of threads, once for every local address of every connection: a slow name
    server would delay all other work that uses those threads.
    """
    if _is_address(host):
        return host
    loop = asyncio.get_running_loop()
    known = _addresses.get(host)
    if known is None or loop.time() >= known[0] or known[1].get_loop() is not loop:
        known = loop.time() + ADDRESS_LIFETIME, asyncio.ensure_future(_look_up(host))
        _addresses.pop(host, None)
        if len(_addresses) >= MAX_ADDRESSES:
            del _addresses[next(iter(_addresses))]
        _addresses[host] = known
    return await asyncio.shield(known[1])


async def _look_up(host: str) -> str:
    import socket

    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except OSError:
        _addresses.pop(host, None)
        return host
    return str(found[0][4][0])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _checked(servers: Any) -> tuple[IceServerConfig, ...]:
    if isinstance(servers, str | bytes) or not isinstance(servers, Iterable):
        raise TypeError(f"ice_servers must be a sequence of IceServerConfig, not {type(servers).__name__}")
    entries = tuple(servers)
    for entry in entries:
        if not isinstance(entry, IceServerConfig):
            raise TypeError(f"ice_servers must hold IceServerConfig, not {type(entry).__name__}")
    return entries
