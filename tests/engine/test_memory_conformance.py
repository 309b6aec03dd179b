"""`MemoryEngine` does what every engine has to do."""

from __future__ import annotations

import pytest

from metered_realtime.server.engine.contract import EngineListener
from metered_realtime.server.engine.memory import MemoryEngine
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.testing.engine_conformance import LIMITS, EngineConformance
from metered_realtime.testing.engine_counts import EngineCounts


class MemoryWorld:
    """Nodes of one process."""

    def __init__(self) -> None:
        self._store = MemoryStore(limits=LIMITS)

    async def add_node(self, node_id: str, listener: EngineListener) -> MemoryEngine:
        """Attach another node."""
        engine = MemoryEngine(self._store)
        engine.attach(node_id, listener)
        return engine

    async def remove_node(self, engine: MemoryEngine) -> None:
        """Detach a node."""
        engine.detach()

    async def kill(self, engine: MemoryEngine) -> None:
        """Detach a node, and end its entries as its store does some seconds later."""
        engine.detach()
        self._store.end_node(engine)


class TestMemory(EngineConformance, EngineCounts):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
