"""Random lives of two ends: calls of every kind on channels that stall, close and are replaced."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest

from metered_realtime.core.rpc import callee
from metered_realtime.rpc import calls as rpc_calls
from metered_realtime.rpc import channels
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.endpoint import RpcEndpoint
from metered_realtime.rpc.errors import RpcError
from tests.support.patience import PATIENCE
from tests.support.rpc.world import World, eventually

STEPS = 60
FORMATS = ("jsonrpc-2.0", "msgpack-rpc")


class Life:
    """Everything that happens follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World()
        self.world.options["prompt"] = seed % 2 == 1
        self.runs: Counter[int] = Counter()
        self.last = 0
        for methods in (self.world.methods_a, self.world.methods_b):
            methods.add("work", self.work)

    async def work(self, key: int, delay: float, size: int) -> str:
        self.runs[key] += 1
        await asyncio.sleep(delay)
        return "x" * size

    def arguments(self) -> tuple[int, float, int]:
        self.last += 1
        return self.last, self.chance.choice([0, 0, 0.001, 0.04]), self.chance.choice([0, 10, 100_000, 300_000])

    async def call(self, client: RpcClient) -> None:
        """Call or notify, alone or in a batch, and perhaps cancel it. Every call ends, one way or another."""
        kind, timeout = self.chance.choice(["call", "call", "notify", "batch"]), self.chance.choice([0.03, 0.5, 15.0])
        client = client.using(format=self.chance.choice(FORMATS), timeout=timeout)  # type: ignore[arg-type]
        work = asyncio.ensure_future(getattr(self, f"_{kind}")(client))
        if self.chance.random() < 0.15:
            await asyncio.sleep(self.chance.random() * 0.01)
            work.cancel()
        with suppress(RpcError, asyncio.CancelledError):
            await work

    async def _call(self, client: RpcClient) -> None:
        key, delay, size = self.arguments()
        assert await client.call("work", key, delay, size) == "x" * size

    async def _notify(self, client: RpcClient) -> None:
        await client.notify("work", *self.arguments())

    async def _batch(self, client: RpcClient) -> None:
        async with client.batch() as batch:
            calls = [(batch.call("work", *given), given[2]) for given in (self.arguments(), self.arguments())]
        for call, size in calls:
            assert await call == "x" * size

    def happen(self) -> None:
        """Let something fail, or recover."""
        ends = [end for pair in self.world.wires for end in pair]
        match self.chance.randrange(24):
            case 0:
                self.world.replace()
            case 1:
                self.world.break_wires()
            case 2 if ends:
                self.chance.choice(ends).close()
            case 3 | 4 if ends:
                self.chance.choice(ends).flowing.clear()
        for end in ends:
            if self.chance.random() < 0.3:
                end.flowing.set()


async def live(life: Life) -> None:
    calls: list[asyncio.Task[None]] = []
    for _ in range(STEPS):
        for _ in range(life.chance.randrange(4)):
            client = life.chance.choice([life.world.to_a, life.world.to_b])
            calls.append(asyncio.ensure_future(life.call(client)))
        life.happen()
        await asyncio.sleep(life.chance.random() * 0.004)
    for pair in life.world.wires:
        for end in pair:
            end.flowing.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*calls)


def nothing_is_under_way(end: RpcEndpoint) -> bool:
    stats = end.stats()
    return (stats.pending, stats.running, stats.queued) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_calls_end_run_once_and_leave_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.02)
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 0.05)
    life = Life(seed)
    await live(life)
    assert [key for key, runs in life.runs.items() if runs > 1] == []
    for end in (life.world.a, life.world.b):
        await eventually(lambda end=end: nothing_is_under_way(end))  # type: ignore[misc]
    monkeypatch.setattr(callee, "MAX_HELD_BYTES", 0)  # a request is refused if any other one is held
    for client in (life.world.to_a, life.world.to_b):
        assert await client.call("work", *life.arguments()[:1], 0, 5) == "xxxxx"
    await life.world.close()
