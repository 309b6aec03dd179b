"""The URLs of Redis: who answers there, and which of several keeps a channel or a peer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import parse_url

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where a Redis is. `options` are arguments of redis-py's connections; those of Sentinels are `sentinels`,
    `service` and `sentinel_options`.

    `name` is the same at all nodes, for the same data: it has no credentials and shows none.
    """

    name: str
    options: dict[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL: `redis://[user:password@]host[:port][/db]`, `rediss://`, `unix://path[?db=0]`, or
    `redis+sentinel://[user:password@]host[:port],.../service[?db=0&sentinel_password=...]`.

    Raises:
        ValueError: it is none. The text has no part of the URL but its scheme.
    """
    scheme, mark, _ = url.partition("://")
    if not mark or scheme not in SCHEMES:
        raise ValueError(f"a Redis URL begins with {', '.join(f'{each}://' for each in SCHEMES)}")
    try:
        return _parse_sentinel(url) if scheme.endswith("+sentinel") else _parse_plain(url)
    except (ValueError, TypeError):
        raise ValueError(f"not a {scheme}:// URL that can be read") from None


def _parse_plain(url: str) -> RedisUrl:
    options: dict[str, Any] = dict(parse_url(url))
    database = int(options.get("db", 0))
    if "path" in options:
        return RedisUrl(f"unix:{options['path']}/{database}", options)
    parts = urlsplit(url)
    if not parts.hostname or (len(parts.path.strip("/")) > 0 and not parts.path.strip("/").isdigit()):
        raise ValueError("no host, or no database")
    return RedisUrl(f"{options['host']}:{options.get('port', 6379)}/{database}", options)


def _parse_sentinel(url: str) -> RedisUrl:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    service = unquote(parts.path.strip("/"))
    if not service or not hosts or set(query) - {"db", "sentinel_username", "sentinel_password"}:
        raise ValueError("no service, no host, or an unknown option")
    options: dict[str, Any] = {"db": int(query.get("db", 0))}
    user, _, password = credentials.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    sentinel_options: dict[str, Any] = {
        name.removeprefix("sentinel_"): value for name, value in query.items() if name.startswith("sentinel_")
    }
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = sentinel_options["ssl"] = True
    sentinels = tuple(map(_host_and_port, hosts.split(",")))
    return RedisUrl(f"sentinel:{service}/{options['db']}", options, sentinels, service, sentinel_options)


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or SENTINEL_PORT


def choose(names: Sequence[str], key: str) -> int:
    """Return the index of the shard that keeps a key: the one with the highest hash of both.

    The order of the names does not matter, and when one is added or removed, only what it keeps moves.
    """
    if len(names) == 1:
        return 0
    return max(range(len(names)), key=lambda index: _weight(names[index], key))


def _weight(name: str, key: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
