"""Nodes over a real Redis, with short times."""

from __future__ import annotations

from collections.abc import Sequence

from metered_realtime.log import StdlibLogger
from metered_realtime.server.engine.contract import EngineLimits, EngineListener
from metered_realtime.server.engine.redis.engine import RedisEngine
from metered_realtime.server.engine.redis.timings import RedisTimings

SHORT = RedisTimings(
    request=2.0,
    beat=0.1,
    node=2.5,
    sweep=0.1,
    settling=1.0,
    refresh=1.0,
    expiry=10.0,
    backoff=0.01,
    max_backoff=0.2,
)
"""Times for tests in which nodes are gone, or Redis is. A busy machine has to stay below `request` and `node`."""


class RedisWorld:
    """Engines that share one Redis, or several."""

    def __init__(
        self,
        urls: Sequence[str],
        namespace: str,
        limits: EngineLimits | None = None,
        timings: RedisTimings = SHORT,
    ) -> None:
        self.urls = urls
        self.namespace = namespace
        self.limits = limits
        self.timings = timings
        self.engines: list[RedisEngine] = []

    def new_engine(self, urls: Sequence[str] | None = None) -> RedisEngine:
        """Return an engine that has not started."""
        return RedisEngine(
            urls if urls is not None else self.urls,
            limits=self.limits,
            logger=StdlibLogger(),
            namespace=self.namespace,
            timings=self.timings,
        )

    async def add_node(self, node_id: str, listener: EngineListener) -> RedisEngine:
        """Start another node."""
        engine = self.new_engine()
        await engine.start(node_id, listener)
        self.engines.append(engine)
        return engine

    async def remove_node(self, engine: RedisEngine) -> None:
        """Stop a node."""
        await engine.stop()

    async def kill(self, engine: RedisEngine) -> None:
        """Let a node be gone: it says nothing when it stops."""
        await engine.stop()
