"""What a mesh costs each participant, with and without an SFU behind a bridge, and what the bridge costs.

A real Janus, a real server, the bridge of examples/sfu_bridge. Video is encoded beforehand, so that what is measured
is what further participants cost: connections and packets. The measured participant sends, and reads the packets of
everybody else without decoding them. CPU is told for each packet that is sent or received: on a busy machine there are
fewer of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from aiortc.mediastreams import MediaStreamTrack
from examples.sfu_bridge.bridge import JanusRoom, SfuBridge
from examples.sfu_bridge.janus import open_session
from examples.sfu_bridge.videoroom import VideoRoom
from tests.support.sfu.janus import janus

from metered_realtime import MediaStream, MeteredPeer, OneShotConnection, PeerJoined, Track
from metered_realtime.media.pacing import Pacer
from metered_realtime.server import SignallingServer

FPS, BITRATE, WIDTH, HEIGHT = 10, 80_000, 160, 120
"""A packet for each picture, so that a mesh of 16, with its 240 streams, fits on one machine."""

ROOM = 1234
SETTLE = 3.0
"""Seconds between the moment from which everything arrives and the measurement."""

PATIENCE = 120.0
"""Seconds that everything may take to arrive."""

CASES = ((1, 1), (4, 0), (8, 0), (4, 4), (2, 6), (1, 8), (8, 8))
"""Participants of the channel and of the room, with a bridge between them."""


class EncodedVideo(MediaStreamTrack):
    """Pictures that are encoded already, over and over again."""

    kind = "video"
    codec = "video/VP8"

    def __init__(self, packets: list[bytes]) -> None:
        super().__init__()
        self._packets = packets
        self._next = self._sent = 0
        self._pacer = Pacer(Fraction(1, FPS))

    async def recv(self) -> Any:
        await self._pacer.wait()
        packet: Any = av.Packet(self._packets[self._next])
        packet.pts, packet.time_base = self._sent * 90_000 // FPS, Fraction(1, 90_000)
        self._next, self._sent = (self._next + 1) % len(self._packets), self._sent + 1
        return packet

    def request_key_frame(self) -> None:
        self._next = 0


def made_up() -> list[bytes]:
    """Return two seconds of VP8 (RFC 6386 section 9.1) that nobody decodes: a frame header, then anything."""
    size = BITRATE // FPS // 8
    key = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", WIDTH, HEIGHT) + os.urandom(3 * size)
    return [key, *(b"\x11\x00\x00" + os.urandom(size) for _ in range(2 * FPS - 1))]


# --- a crowd, in a process of its own


async def crowd(wanted: dict[str, Any]) -> None:
    """Let members and guests come in, and tell the figures of the first member whenever a line is read."""
    packets, stdin = made_up(), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    async with contextlib.AsyncExitStack() as stack:
        peers = [MeteredPeer(url=wanted["url"], api_key=wanted["key"]) for _ in range(wanted["members"])]
        readers: list[Any] = []
        for peer in peers:
            await stack.enter_async_context(peer)
            peer.add_stream(MediaStream([EncodedVideo(packets)]))
            if wanted["reads"]:
                _read_everything(peer, readers)
            await peer.join("room")
        if wanted["guests"]:
            session = await stack.enter_async_context(open_session(wanted["janus"]))
            room = VideoRoom(session, ROOM)
            for _ in range(wanted["guests"]):
                publisher = await stack.enter_async_context(room.publisher("guest"))
                guest = await stack.enter_async_context(OneShotConnection([EncodedVideo(packets)]))
                await guest.accept_answer(await publisher.publish(await guest.create_offer(), "", {}))
        print("{}", flush=True)
        while await stdin.readline():
            print(json.dumps(_figures(peers[0], len(readers)) if peers else {}), flush=True)
        for task in readers:
            task.cancel()


def _read_everything(peer: MeteredPeer, readers: list[Any]) -> None:
    async def read(track: Any) -> None:
        reader = track.encoded()
        while True:
            await reader.recv()

    def follow(event: PeerJoined) -> None:
        event.peer.on(Track, lambda event: readers.append(asyncio.ensure_future(read(event.track))))

    peer.on(PeerJoined, follow)


async def bridge(wanted: dict[str, Any]) -> None:
    """Bridge the channel and the room, and tell the figures of the bridge whenever a line is read."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    entered = asyncio.Event()
    peer = MeteredPeer(url=wanted["url"], api_key=wanted["key"])
    where = JanusRoom(wanted["janus"], ROOM, create=True)

    def report(event: str, **fields: Any) -> None:
        if event == "room entered":
            entered.set()
        elif event in ("not carried", "not sent", "janus lost"):
            print(event, fields, file=sys.stderr)

    running = asyncio.ensure_future(SfuBridge(peer, "room", where, report).run())
    await entered.wait()
    print("{}", flush=True)
    while await stdin.readline():
        print(json.dumps(_figures(peer, 0)), flush=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _figures(peer: MeteredPeer, received: int) -> dict[str, Any]:
    stats = [remote.stats() for remote in peer.remote_peers]
    return {
        "cpu": time.process_time(),
        "at": time.perf_counter(),
        "out": sum(it.packets_sent or 0 for it in stats),
        "in": sum(it.packets_received or 0 for it in stats),
        "connections": sum(it.state == "connected" for it in stats),
        "received": received,
    }


# --- the driver


class Side:
    """A process that is measured, or that others are measured against."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return line

    async def asked(self) -> dict[str, Any]:
        """Return the figures of now."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self.told()


@contextlib.asynccontextmanager
async def side(role: str, wanted: dict[str, Any]) -> AsyncIterator[Side]:
    """Run a process in a role, and yield it when it is ready. It ends when its input does."""
    arguments = ("-m", "benchmarks.sfu_bridge", f"--{role}", json.dumps(wanted))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    try:
        made = Side(process)
        await made.told()
        yield made
    finally:
        await process.communicate()


async def measure(members: int, guests: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Measure one participant of the channel, and the bridge."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sfu = await stack.enter_async_context(janus(folder))
        server = await stack.enter_async_context(SignallingServer(port=0))
        where = {"url": server.url, "key": server.api_key, "janus": sfu.url}
        bridging = await stack.enter_async_context(side("bridge", where))
        others = {**where, "members": members - 1, "guests": guests, "reads": False}
        await stack.enter_async_context(side("crowd", others))
        one = {**where, "members": 1, "guests": 0, "reads": True}
        measured = await stack.enter_async_context(side("crowd", one))
        async with asyncio.timeout(PATIENCE):
            while (await measured.asked())["received"] < members + guests - 1:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.5)
        await asyncio.sleep(SETTLE)
        before = [await it.asked() for it in (measured, bridging)]
        await asyncio.sleep(seconds)
        after = [await it.asked() for it in (measured, bridging)]
        participant, bot = (_between(*it) for it in zip(before, after, strict=True))
        return participant, bot


def _between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    return {**after, **{name: after[name] - before[name] for name in ("cpu", "at", "in", "out")}}


def row(members: int, guests: int, participant: dict[str, float], bot: dict[str, float]) -> str:
    """Return a row of the table."""
    packets = participant["in"] + participant["out"]
    # Each packet that came from the channel went to Janus, and each that went to the members came from there once.
    carried = 2 * bot["in"] + bot["out"] * (1 + 1 / members)
    return (
        f"| {members} | {guests} | {participant['connections']} | {participant['received']} "
        f"| {participant['out'] / participant['at']:.0f} | {participant['in'] / participant['at']:.0f} "
        f"| {1e6 * participant['cpu'] / packets:.0f} | {carried / bot['at']:.0f} | {1e6 * bot['cpu'] / carried:.0f} |"
    )


async def main(seconds: float) -> None:
    print(
        "| members | guests | connections | received | packets/s out | in | µs each | packets/s of bridge | µs each |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for members, guests in CASES:
        print(row(members, guests, *await measure(members, guests, seconds)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each case is measured")
    parser.add_argument("--crowd", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--bridge", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        asyncio.run(crowd(options.crowd))
    elif options.bridge:
        asyncio.run(bridge(options.bridge))
    else:
        asyncio.run(main(options.seconds))
