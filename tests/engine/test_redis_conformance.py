"""`RedisEngine` does what every engine has to do, over one Redis and over several."""

from __future__ import annotations

import pytest

from metered_realtime.testing.engine_conformance import LIMITS, EngineConformance
from metered_realtime.testing.engine_counts import EngineCounts
from tests.support.redis.server import RedisProcess, needs_redis

from .redis_world import RedisWorld


@needs_redis
class TestOneRedis(EngineConformance, EngineCounts):
    @pytest.fixture
    def world(self, shared_redis: RedisProcess, namespace: str) -> RedisWorld:
        return RedisWorld([shared_redis.url], namespace, LIMITS)


@needs_redis
class TestSeveralRedis(EngineConformance, EngineCounts):
    """Databases of one process do as well as several: what is in one is not in another. Topics are shared by them."""

    @pytest.fixture
    def world(self, shared_redis: RedisProcess, namespace: str) -> RedisWorld:
        return RedisWorld([f"{shared_redis.url}?db={number}" for number in range(3)], namespace, LIMITS)
