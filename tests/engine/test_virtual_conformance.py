"""`VirtualEngine`, whose answers take their time, does what every engine has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from random import Random

import pytest

from metered_realtime.server.engine.contract import EngineListener
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.testing.engine_conformance import LIMITS, EngineConformance
from metered_realtime.testing.engine_counts import EngineCounts
from metered_realtime.testing.virtual_engine import Schedule, VirtualEngine


class VirtualNodes:
    """Nodes of one process, with delays in an order of chance."""

    def __init__(self) -> None:
        self._store = MemoryStore(limits=LIMITS)
        self._chance = Random(1)
        self._schedule = Schedule(self._begun)

    def _begun(self, lane: Hashable) -> None:
        asyncio.get_running_loop().call_later(self._chance.random() / 1_000, self._schedule.advance, lane)

    async def add_node(self, node_id: str, listener: EngineListener) -> VirtualEngine:
        """Attach another node."""
        engine = VirtualEngine(self._store, self._schedule)
        engine.attach(node_id, listener)
        await asyncio.sleep(0.01)  # for what it has to hear first
        return engine

    async def remove_node(self, engine: VirtualEngine) -> None:
        """Detach a node."""
        engine.detach()

    async def kill(self, engine: VirtualEngine) -> None:
        """Detach a node, and end its entries."""
        engine.detach()
        engine.end_entries(self._store)


class TestVirtual(EngineConformance, EngineCounts):
    @pytest.fixture
    def world(self) -> VirtualNodes:
        return VirtualNodes()
