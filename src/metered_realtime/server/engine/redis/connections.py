"""Connections to a Redis: directly, or to the primary that Sentinels name."""

from __future__ import annotations

from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from .commands import RedisLost
from .urls import RedisUrl

POOL_OPTIONS = ("max_connections", "timeout", "ssl", "connection_class", "socket_timeout", "protocol")
"""Options of URLs that connections do not take, or that must be as they are here."""


async def open_connection(url: RedisUrl, timeout: float) -> AbstractConnection:
    """Return a connection that is ready. `timeout` bounds each step.

    Its parser is Python's: hiredis keeps what a cancelled read has begun, and loses it.

    Raises:
        RedisLost: there is none. It tells nothing that the URL keeps secret.
    """
    options: dict[str, Any] = {name: value for name, value in url.options.items() if name not in POOL_OPTIONS}
    kind = url.options.get("connection_class", Connection)
    connection: AbstractConnection | None = None
    try:
        if url.sentinels:
            options["host"], options["port"] = await _find_primary(url, timeout)
            kind = SSLConnection if url.options.get("ssl") else Connection
        options["socket_connect_timeout"] = timeout
        connection = kind(socket_timeout=None, protocol=2, parser_class=_AsyncRESP2Parser, **options)
        await connection.connect()
    except (RedisError, OSError, ValueError, TypeError) as error:
        if connection is not None:
            await connection.disconnect(nowait=True)
        is_refused = isinstance(error, AuthenticationError | ResponseError)
        raise RedisLost("refused" if is_refused else "unreachable") from None
    except BaseException:
        if connection is not None:
            await connection.disconnect(nowait=True)
        raise
    return connection


async def _find_primary(url: RedisUrl, timeout: float) -> tuple[str, int]:
    options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **url.sentinel_options}
    sentinel = Sentinel(url.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    try:
        host, port = await sentinel.discover_master(url.service)
        return str(host), int(port)
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
