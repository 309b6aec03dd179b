"""One end of the connection that `benchmarks.data_channel` measures, in a process of its own.

It is told what to do by lines of JSON and answers with one line each. What arrives is counted where it arrives.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from metered_realtime import DataChannel, DCMessage
from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection

HIGH_WATER = 262_144
"""Bytes buffered beyond which a sender waits: what a careful program would take, and the wrapper is told the same."""

WARM_UP = 0.25
"""Seconds of a run that do not count: windows open meanwhile."""

PING_INTERVAL = 0.01
"""Seconds between round trips under load."""


class Side:
    """A connection with three channels: `bulk` one way, `ping` there and back, `hold` kept idle."""

    def __init__(self, kind: str) -> None:
        self.ours = kind != "stock"
        self.wrapped = kind == "wrapped"
        if self.ours:
            self.pc = create_peer_connection()
        else:
            self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channels: dict[str, RTCDataChannel] = {}
        self.messages = 0
        self.bytes = 0
        self.pong: asyncio.Future[None] | None = None
        self.bulk: asyncio.Task[None] | None = None
        self.pings: asyncio.Task[list[float]] | None = None
        self.began: dict[str, float] = {}
        self.pc.on("datachannel", self.adopt)

    def adopt(self, channel: RTCDataChannel) -> None:
        """Answer pings, count the rest."""
        self.channels[channel.label] = channel
        if channel.label == "ping":
            channel.on("message", channel.send)
        elif self.wrapped:
            self.wrapper = DataChannel(channel)
            self.wrapper.on(DCMessage, lambda event: self.count(event.data))
        else:
            channel.on("message", self.count)

    def count(self, message: str | bytes) -> None:
        self.messages += 1
        self.bytes += len(message)

    async def offer(self) -> str:
        self.channels = {label: self.pc.createDataChannel(label) for label in ("bulk", "ping")}
        self.channels["ping"].on("message", self.on_pong)
        if self.wrapped:
            self.wrapper = DataChannel(self.channels["bulk"], max_buffered_amount=2 * HIGH_WATER)
        if self.ours:
            await gather_host_candidates(self.pc)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def answer(self, sdp: str) -> str:
        if self.ours:
            await gather_host_candidates(self.pc)
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        self.connect()
        return self.pc.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        self.connect()
        async with asyncio.timeout(10):
            while self.channels["ping"].readyState != "open":  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def connect(self) -> None:
        if self.ours:
            self.connecting = asyncio.ensure_future(peer_connection.connect(self.pc))

    # --- measurements

    def on_pong(self, _: Any) -> None:
        if self.pong is not None and not self.pong.done():
            self.pong.set_result(None)

    async def round_trip(self) -> float:
        self.pong = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self.channels["ping"].send(bytes(64))
        await self.pong
        return time.perf_counter() - started

    async def idle(self, count: int) -> list[float]:
        """Return the seconds that round trips take while nothing else is sent."""
        return [await self.round_trip() for _ in range(count)]

    async def keep_pinging(self) -> list[float]:
        """Return the seconds that round trips took until this was cancelled, the last one so far."""
        times: list[float] = []
        while True:
            started = time.perf_counter()
            try:
                times.append(await self.round_trip())
                await asyncio.sleep(PING_INTERVAL)
            except asyncio.CancelledError:
                return times or [time.perf_counter() - started]

    async def flood(self, size: int) -> None:
        """Send for as long as it is let, with as much backpressure as a program writes by hand."""
        channel, message = self.channels["bulk"], bytes(size)
        low = asyncio.Event()
        channel.bufferedAmountLowThreshold = HIGH_WATER // 2
        channel.on("bufferedamountlow", low.set)
        try:
            while True:
                low.clear()
                if channel.bufferedAmount >= HIGH_WATER:
                    await low.wait()
                channel.send(message)
        finally:
            channel.remove_listener("bufferedamountlow", low.set)

    async def flood_wrapped(self, size: int) -> None:
        message = bytes(size)
        while True:
            await self.wrapper.send(message)

    def start(self, size: int) -> None:
        self.bulk = asyncio.ensure_future(self.flood_wrapped(size) if self.wrapped else self.flood(size))

    async def mark(self) -> dict[str, float]:
        """Return what has been counted so far, and when."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        return {"at": time.perf_counter(), "messages": self.messages, "bytes": self.bytes, "cpu": cpu}

    def ping(self) -> None:
        self.pings = asyncio.ensure_future(self.keep_pinging())

    async def stop(self) -> list[float]:
        """Stop sending, let what is buffered leave, and return the round trips."""
        assert self.bulk is not None
        assert self.pings is not None
        self.pings.cancel()
        times = await self.pings
        self.bulk.cancel()
        await asyncio.wait([self.bulk])
        async with asyncio.timeout(60):
            while self.channels["bulk"].bufferedAmount:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await self.round_trip()
        return times


COMMANDS: dict[str, Callable[..., Any]] = {
    name: getattr(Side, name) for name in ("offer", "answer", "accept", "idle", "start", "ping", "mark", "stop")
}


async def serve(side: Side) -> None:
    """Do what standard input says until it ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        name, *arguments = json.loads(line)
        result = COMMANDS[name](side, *arguments)
        if asyncio.iscoroutine(result):
            result = await result
        print(json.dumps(result), flush=True)
    await side.pc.close()


async def main() -> None:
    """Be one end."""
    await serve(Side(sys.argv[1]))


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile of a few or many values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


if __name__ == "__main__":
    asyncio.run(main())
