"""A bot in a room with four senders that reads nothing, beside one that decodes them all.

Each sender is a process of its own and sends 640x480 at 30 pictures a second, with the noise of a camera, and sound.
The bot is a process, too: first one that reads nothing, then one that takes every frame of every track. What counts is
the CPU time of the bot's process, and its resident memory over time, from the moment at which everything flows.

    python -m benchmarks.idle_bot --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from aiortc.mediastreams import MediaStreamTrack
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from metered_realtime import MediaStream, MeteredPeer, PeerJoined, Track, iter_frames
from metered_realtime.media.pacing import Pacer
from metered_realtime.media.sources.testsource import ToneTrack
from metered_realtime.server import SignallingServer

SENDERS = 4
WIDTH, HEIGHT, FPS = 640, 480, 30
PATIENCE = 30.0
"""Seconds until everything flows."""

SETTLE = 2.0
"""Seconds in which connections and encoders reach their rate, and memory its level."""

MODES = ("reading nothing", "decoding all")


class CameraTrack(MediaStreamTrack):
    """Pictures that move and are as noisy as those of a camera, made beforehand."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        graph = av.filter.Graph()
        source = graph.add("testsrc2", f"size={WIDTH}x{HEIGHT}:rate={FPS}")
        graph.link_nodes(
            source, graph.add("noise", "alls=6:allf=t"), graph.add("format", "yuv420p"), graph.add("buffersink")
        ).configure()
        self._pictures: list[Any] = [graph.pull() for _ in range(2 * FPS)]
        self._pacer = Pacer(Fraction(1, FPS))
        self._number = 0

    async def recv(self) -> av.VideoFrame:
        await self._pacer.wait()
        frame: av.VideoFrame = self._pictures[self._number % len(self._pictures)]
        frame.pts, frame.time_base = self._number * 90_000 // FPS, Fraction(1, 90_000)
        self._number += 1
        return frame


async def send(url: str, token: str) -> None:
    """Be a sender until standard input ends."""
    async with MeteredPeer(token_provider=lambda: token, url=url) as peer:
        peer.add_stream(MediaStream([CameraTrack(), ToneTrack()]))
        await peer.join("room")
        print(json.dumps("ready"), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def bot(url: str, token: str, mode: str, seconds: float) -> None:
    """Be the bot for so long, and print what it cost."""
    received: list[Any] = []
    readers: set[asyncio.Task[None]] = set()

    async def read(track: Any) -> None:
        async for _ in iter_frames(track):
            pass

    def take(event: Track) -> None:
        received.append(event.track)
        if mode == "decoding all":
            readers.add(asyncio.ensure_future(read(event.track)))

    async with MeteredPeer(token_provider=lambda: token, url=url) as peer:
        peer.on(PeerJoined, lambda event: event.peer.on(Track, take))
        await peer.join("room")
        async with asyncio.timeout(PATIENCE):
            while len(received) < 2 * SENDERS or not all(it.frames_received for it in received):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLE)
        before = [count(received, name) for name in ("frames_received", "frames_decoded")]
        cpu, started = time.process_time(), time.monotonic()
        memory = []
        while time.monotonic() < started + seconds:
            memory.append(resident())
            await asyncio.sleep(min(1.0, seconds))
        spent, passed = time.process_time() - cpu, time.monotonic() - started
        after = [count(received, name) for name in ("frames_received", "frames_decoded")]
        arrived, decoded = (now - then for now, then in zip(after, before, strict=True))
        rate = (peer.stats().bitrate_in or 0.0) / 1e6
        figures = {"cpu": spent / passed, "arrived": arrived / passed, "decoded": decoded / passed, "rate": rate}
        print(json.dumps(figures | {"memory": memory}), flush=True)
    await asyncio.gather(*readers)


def count(tracks: list[Any], name: str) -> int:
    """Return the sum of a counter over the tracks."""
    return sum(getattr(track, name) for track in tracks)


def resident() -> int:
    """Return the bytes of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """Start this program in another role."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.idle_bot", *arguments, stdin=pipe, stdout=pipe
    )


async def answer(process: asyncio.subprocess.Process) -> Any:
    """Return what a child says next."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise SystemExit("a process of the benchmark has failed")
    return json.loads(line)


async def measure(seconds: float) -> dict[str, Any]:
    """Let the bots take turns in one room."""
    async with SignallingServer() as server:
        tokens = [server.mint_token(peer_id=f"sender-{number}") for number in range(SENDERS)]
        senders = [await start("--send", server.url, token) for token in tokens]
        await asyncio.gather(*map(answer, senders))
        figures = {}
        for mode in progress(MODES, console=Console(stderr=True)):
            child = await start("--bot", server.url, server.mint_token(peer_id="bot"), mode, str(seconds))
            figures[mode] = await answer(child)
            await child.wait()
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.close()
        await asyncio.gather(*(sender.wait() for sender in senders))
    return figures


def report(figures: dict[str, Any], seconds: float) -> None:
    """Print both bots and their ratio."""
    table = Table("", *MODES, "ratio", title=f"{SENDERS} senders, {WIDTH}x{HEIGHT} at {FPS}, and sound, {seconds:g} s")
    rows = [("CPU, s/s", "cpu", ".3f"), ("frames arrived per s", "arrived", ".0f"), ("decoded per s", "decoded", ".0f")]
    for label, name, form in [*rows, ("received, Mbit/s", "rate", ".2f")]:
        idle, busy = (figures[mode][name] for mode in MODES)
        table.add_row(label, f"{idle:{form}}", f"{busy:{form}}", f"{idle / busy:.2f}" if busy else "")
    memory = {mode: [it / 1e6 for it in figures[mode]["memory"]] for mode in MODES}
    table.add_row("memory at the start, MB", *(f"{memory[mode][0]:.1f}" for mode in MODES), "")
    table.add_row("memory at the end, MB", *(f"{memory[mode][-1]:.1f}" for mode in MODES), "")
    table.add_row("growth, kB/s", *(f"{slope(memory[mode]) * 1_000:.1f}" for mode in MODES), "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def slope(values: list[float]) -> float:
    """Return by how much values rise from one to the next (least squares)."""
    return statistics.linear_regression(range(len(values)), values).slope if len(values) > 1 else 0.0


def main() -> None:
    """Measure and report, or be a child of one who does."""
    if sys.argv[1:2] == ["--send"]:
        asyncio.run(send(*sys.argv[2:4]))
    elif sys.argv[1:2] == ["--bot"]:
        url, token, mode, duration = sys.argv[2:6]
        asyncio.run(bot(url, token, mode, float(duration)))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--seconds", type=float, default=10.0, help="how long each bot is watched")
        seconds = parser.parse_args().seconds
        if not 2 <= seconds <= 3_600:
            parser.error("seconds are from 2 to 3600")
        report(asyncio.run(measure(seconds)), seconds)


if __name__ == "__main__":
    main()
