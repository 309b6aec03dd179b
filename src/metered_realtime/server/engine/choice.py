"""Which engine a server has: one in memory, for itself, or Redis, for several nodes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...log import Logger
from .contract import Engine
from .memory import MemoryEngine
from .memory_store import MemoryStore

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes that serve as one: the Redis servers that they share, and the name of this node in logs and metrics.

    Channels and peers are spread over all `redis` URLs: every node needs the same ones. Without a `node_id` the node
    has a random one.

    Raises:
        ValueError: there is no URL, or the name has other characters than letters, digits, `.`, `_` and `-`, or more
            than 64.
    """

    redis: tuple[str, ...] = field(repr=False)  # they may contain a password
    node_id: str | None = None

    def __post_init__(self) -> None:
        if not self.redis:
            raise ValueError("redis must have at least one URL")
        if self.node_id is not None:
            check_node_id(self.node_id)


def check_node_id(node_id: str) -> None:
    """Raise ValueError unless a text can name a node."""
    if not _NODE_ID.fullmatch(node_id):
        raise ValueError(f"node_id must be 1 to 64 letters, digits, '.', '_' or '-', not {node_id!r}")


def new_node_id() -> str:
    """Return a random name for a node."""
    return f"node-{secrets.token_hex(4)}"


def private_engine() -> Engine:
    """Return an engine in memory for one node."""
    return MemoryEngine(MemoryStore())


def redis_engine(urls: Sequence[str], logger: Logger) -> Engine:
    """Return an engine for nodes that share Redis.

    Raises:
        ValueError: redis-py is not installed, or a URL cannot be used.
    """
    try:
        from .redis.engine import RedisEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise ValueError("several nodes need redis-py: pip install 'metered-realtime-mesh[redis]'") from None
    return RedisEngine(urls, logger=logger)
