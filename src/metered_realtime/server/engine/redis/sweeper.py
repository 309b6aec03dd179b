"""Ending the entries of nodes that are gone, each by one node that holds the lock for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from .commands import Command, OnReply, script_command
from .keys import Keys, ScopeId, run_of
from .scripts import script
from .shard import Shard
from .stats import EngineStats
from .timings import RedisTimings

CLAIM = 10.0
"""Seconds until another node may sweep what one has claimed: it may be gone as well."""

CHUNK = 500
"""Entries of an index that are swept at a time, so that other requests come in between."""


class SweepWorld(Protocol):
    """The engine, as sweepers see it."""

    def command(
        self,
        name: str,
        scope_id: ScopeId,
        shard: Shard,
        *arguments: str | bytes | int,
        request: int = 0,
        on_reply: OnReply | None = None,
        node: str | None = None,
    ) -> Command:
        """Return a command that runs a script of a channel or a peer."""

    def settle(self, shard: Shard) -> None:
        """Do what is due."""


async def sweep_forever(world: SweepWorld, shard: Shard, keys: Keys, stats: EngineStats, timings: RedisTimings) -> None:
    """Look for nodes that are gone, until cancelled.

    Nobody is given up before the shard has been up for `settling`: others may have lost Redis at the same time, and
    need as long to be back.
    """
    settled_at = asyncio.get_running_loop().time() + timings.settling
    while True:
        await asyncio.sleep(timings.sweep)
        world.settle(shard)
        if asyncio.get_running_loop().time() >= settled_at:
            stats.swept_nodes += await sweep_nodes(world, shard, keys, ())


async def sweep_nodes(world: SweepWorld, shard: Shard, keys: Keys, known: Sequence[str]) -> int:
    """End the entries of nodes that are `known` to be gone, or without them, of all that are. Return their number."""
    nodes = await shard.call("claim", (keys.alive, keys.sweeping), int(CLAIM * 1000), int(CLAIM * 6000), *known)
    for node in nodes:
        await _sweep(world, shard, keys, node.decode())
    return len(nodes)


async def _sweep(world: SweepWorld, shard: Shard, keys: Keys, node: str) -> None:
    index = sorted(await shard.fetch("SMEMBERS", keys.index(node)))
    for at in range(0, len(index), CHUNK):
        for entry in index[at : at + CHUNK]:
            kind, app, name = entry.decode().split("\0", 2)
            if kind == "a":
                shard.send(script_command(script("sweep_app"), keys.of_app(app), (0, 0, 0, run_of(node), node), None))
            elif kind == "c":
                shard.send(world.command("sweep_channel", ScopeId("c", app, name), shard, node=node))
            elif kind == "p":
                shard.send(world.command("sweep_peer", ScopeId("p", app, name), shard, node=node))
        await shard.fetch("PING")
    await shard.fetch("UNLINK", keys.index(node))
    await shard.fetch("ZREM", keys.sweeping, node)
