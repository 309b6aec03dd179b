"""One Redis for all tests of a worker, with a namespace for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis.server import RedisProcess, in_memory, short_directory

pytest.register_assert_rewrite(
    "metered_realtime.testing.engine_conformance",
    "metered_realtime.testing.engine_counts",
    "metered_realtime.testing.engine_world",
)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisProcess]:
    """A Redis for tests that do it no harm."""
    with short_directory() as directory, in_memory(Path(directory)) as process:
        yield process


@pytest.fixture
def own_redis() -> Iterator[RedisProcess]:
    """A Redis for one test."""
    with short_directory() as directory, in_memory(Path(directory)) as process:
        yield process


@pytest.fixture
def namespace() -> str:
    """A namespace for one test."""
    return f"test-{secrets.token_hex(4)}"
