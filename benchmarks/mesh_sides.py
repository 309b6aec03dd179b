"""The two meshes that `benchmarks.mesh` compares, each run as a process of its own: `ours` and `bare`.

Reads one line of JSON, `{"url", "tokens", "idle"}`, forms the mesh once, and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection

from metered_realtime import DataChannel, DataChannelOpened, DCMessage, DCOpen, MeteredPeer, PeerJoined, RemotePeer

PATIENCE = 60.0
"""Seconds after which a mesh that is not complete has failed."""

SETTLE = 0.5
"""Seconds of quiet before memory and idle CPU are read."""


class Links:
    """Counts the links that have carried a message each way."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self._complete = asyncio.Event()
        if not expected:
            self._complete.set()

    def done(self) -> None:
        """Count one."""
        self._left -= 1
        if not self._left:
            self._complete.set()

    async def complete(self) -> None:
        """Return when all are there."""
        async with asyncio.timeout(PATIENCE):
            await self._complete.wait()


def pairs_of(count: int) -> int:
    """Return how many links a full mesh has."""
    return count * (count - 1) // 2


# --- this library


@asynccontextmanager
async def ours(url: str, tokens: Sequence[str]) -> AsyncIterator[None]:
    """Hold a mesh of `MeteredPeer`s that all join at once. One end of each pair opens, as often polite as impolite."""
    links = Links(pairs_of(len(tokens)))
    peers = [MeteredPeer(token_provider=_returning(token), url=url) for token in tokens]
    for peer in peers:
        peer.on(PeerJoined, partial(_greet, peer, links))
    await asyncio.gather(*(peer.join("mesh") for peer in peers))
    await links.complete()
    yield
    await asyncio.gather(*(peer.close() for peer in peers))


def _returning(token: str) -> Callable[[], str]:
    return lambda: token


def _greet(peer: MeteredPeer, links: Links, event: PeerJoined) -> None:
    remote = event.peer
    remote.on(DataChannelOpened, _answer)
    assert peer.peer_id is not None
    if opens(int(peer.peer_id.lstrip("p")), int(remote.id.lstrip("p"))):
        _open(remote, links)


def opens(own: int, other: int) -> bool:
    """Return whether the first of two opens: exactly one of them does."""
    return (own < other) == ((own + other) % 2 == 0)


def _open(remote: RemotePeer, links: Links) -> None:
    channel = DataChannel(remote.create_data_channel("mesh"))

    @channel.on(DCOpen)
    async def _(_: DCOpen) -> None:
        await channel.send("ping")

    channel.on(DCMessage, lambda _: links.done())


def _answer(event: DataChannelOpened) -> None:
    channel = DataChannel(event.channel)

    @channel.on(DCMessage)
    async def _(_: DCMessage) -> None:
        await channel.send("pong")


# --- aiortc alone


@asynccontextmanager
async def bare(url: str, tokens: Sequence[str]) -> AsyncIterator[None]:
    """Hold a mesh of bare connections, wired directly, all at once."""
    links = Links(pairs_of(len(tokens)))
    ends = await asyncio.gather(*(_wire(links) for _ in itertools.combinations(tokens, 2)))
    await links.complete()
    yield
    await asyncio.gather(*(pc.close() for pair in ends for pc in pair))


async def _wire(links: Links) -> tuple[RTCPeerConnection, RTCPeerConnection]:
    one, other = RTCPeerConnection(RTCConfiguration(iceServers=[])), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    other.on("datachannel", lambda channel: channel.on("message", lambda _: channel.send("pong")))
    channel: RTCDataChannel = one.createDataChannel("mesh")
    channel.on("open", lambda: channel.send("ping"))
    channel.on("message", lambda _: links.done())
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    return one, other


# --- measuring

Side = Callable[[str, Sequence[str]], AbstractAsyncContextManager[None]]
SIDES: dict[str, Side] = {"ours": ours, "bare": bare}


async def measure(side: Side, task: dict[str, Any]) -> dict[str, float]:
    """Form a mesh of two to warm up and then the one that counts. Return seconds, CPU seconds and bytes."""
    tokens = task["tokens"]
    async with side(task["url"], tokens[:2]):
        pass
    await asyncio.sleep(SETTLE)
    gc.collect()
    before = resident()
    started, cpu = time.perf_counter(), time.process_time()
    async with side(task["url"], tokens):
        result = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        await asyncio.sleep(SETTLE)
        gc.collect()
        result["memory"] = resident() - before
        cpu = time.process_time()
        await asyncio.sleep(task["idle"])
        result["idle"] = (time.process_time() - cpu) / task["idle"]
    return result


def resident() -> int:
    """Return the bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(SIDES[sys.argv[1]], json.loads(sys.stdin.readline())))))
