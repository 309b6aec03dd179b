"""A channel with a victim and an honest third, and what an attack on the victim costs.

The victim and its server run in one process with the attacker, so attacks prepare what they send before `Stage.watch`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from metered_realtime import DataChannel, DataChannelOpened, DCMessage, MeteredPeer, PeerJoined, RemotePeer
from metered_realtime.server import SignallingServer

CHANNEL = "stage"
HONEST_INTERVAL = 0.02
"""Seconds between two messages of the honest third, as sound would come."""
SETTLE = 0.3
"""Seconds after an attack in which its cost still counts."""


@dataclass
class Cost:
    """What an attack cost. `blocked` is the longest time that the event loop did nothing else, `gap` the longest
    between two messages of the honest third (both in seconds), `memory` the growth of the peak in bytes, `descriptors`
    the most that were open above what was open before."""

    blocked: float = 0.0
    gap: float = 0.0
    memory: int = 0
    descriptors: int = 0

    def row(self, name: str) -> str:
        return f"| {name} | {self.blocked:.3f} | {self.gap:.3f} | {self.memory / 1e6:.1f} | {self.descriptors} |"


class Stage:
    """A server, a victim and an honest third who sends it a message every 20 ms over a data channel.

    Attributes:
        server: The embedded server, with default limits.
        victim: The peer under attack, joined to `CHANNEL`.
        honest: The honest third.
        cost: What was measured within `watch`.
    """

    def __init__(self, server: SignallingServer, victim: MeteredPeer, honest: MeteredPeer) -> None:
        self.server, self.victim, self.honest = server, victim, honest
        self.cost = Cost()
        self._heard: float | None = None

    def peer(self, peer_id: str, **options: object) -> MeteredPeer:
        """Return a further peer, not joined. It is the caller's to close."""
        return make_peer(self.server, peer_id, **options)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Measure what happens inside, and shortly after."""
        resident, descriptors = resident_bytes(), open_descriptors()
        reset_peak()
        self._heard = time.perf_counter()
        ticker = asyncio.ensure_future(self._tick(descriptors))
        try:
            yield
            await asyncio.sleep(SETTLE)
        finally:
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker
            self._note_gap()
            self.cost.memory = max(self.cost.memory, peak_bytes() - resident)

    def _on_honest(self, _: DCMessage) -> None:
        self._note_gap()
        self._heard = time.perf_counter()

    def _note_gap(self) -> None:
        if self._heard is not None:
            self.cost.gap = max(self.cost.gap, time.perf_counter() - self._heard)

    async def _tick(self, before: int) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            self.cost.blocked = max(self.cost.blocked, now - last - 0.005)
            self.cost.descriptors = max(self.cost.descriptors, open_descriptors() - before)
            last = time.perf_counter()


Attack = Callable[[Stage], Awaitable[None]]


async def measure(attack: Attack) -> Cost:
    """Set the stage, run an attack, and return its cost."""
    async with SignallingServer(port=0) as server:
        victim, honest = make_peer(server, "victim"), make_peer(server, "honest")
        stage = Stage(server, victim, honest)
        arrived, to_victim = asyncio.Event(), asyncio.get_running_loop().create_future()

        @victim.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            @event.peer.on(DataChannelOpened)
            def _(opened: DataChannelOpened) -> None:
                if event.peer.id == "honest":
                    DataChannel(opened.channel).on(DCMessage, lambda m: (arrived.set(), stage._on_honest(m)))

        @honest.on(PeerJoined)
        def _(event: PeerJoined) -> None:
            if event.peer.id == "victim" and not to_victim.done():
                to_victim.set_result(event.peer)

        await victim.join(CHANNEL)
        await honest.join(CHANNEL)
        sending = asyncio.ensure_future(_send_honestly(await to_victim))
        try:
            await asyncio.wait_for(arrived.wait(), 20.0)
            await attack(stage)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await asyncio.gather(victim.close(), honest.close())
        return stage.cost


async def _send_honestly(to_victim: RemotePeer) -> None:
    channel = DataChannel(to_victim.create_data_channel("honest"))
    while channel.ready_state != "open":  # noqa: ASYNC110 - the benchmark also runs against versions without an event
        await asyncio.sleep(0.01)
    number = 0
    while True:
        await channel.send(str(number))
        number += 1
        await asyncio.sleep(HONEST_INTERVAL)


def make_peer(server: SignallingServer, peer_id: str, **options: object) -> MeteredPeer:
    """Return a peer with an id at a server, not joined."""
    return MeteredPeer(token_provider=lambda: server.mint_token(peer_id=peer_id), url=server.url, **options)  # type: ignore[arg-type]


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    """Return the memory of this process that is resident."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory of this process that was resident since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak start at what is resident now (proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
