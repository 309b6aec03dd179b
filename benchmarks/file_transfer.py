"""A file between two programs while everything goes wrong: whole, nearly nothing sent twice, in bounded memory.

    python -m benchmarks.file_transfer [--megabytes 200]

Three lost signalling connections, two replaced WebRTC connections, and one receiver that is killed without a word and
started again, at set shares of the file. Prints what came of it; exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tests.support.peers import Wire

from metered_realtime.server import SignallingServer

MAX_SENT_TWICE = 0.05
"""Share of the file that may go over the network a second time."""

MAX_MEMORY = 48 * 1024 * 1024
"""Bytes above an idle peer: blocks that are read ahead, windows, and what SCTP and the allocator keep."""

PATIENCE = 600.0

WRITE = 1024 * 1024


@dataclass
class Verdict:
    """What came of a run. Bytes and seconds. `resent` is by the channel, when it went on over another connection."""

    size: int
    sent: int
    resent: int
    attempts: int
    seconds: float
    is_whole: bool
    sender_memory: int
    receiver_memory: int
    sender_peak: int
    receiver_peak: int
    done: list[str] = field(default_factory=list)

    @property
    def sent_twice(self) -> float:
        """The share that was sent more than once."""
        return (self.sent - self.size + self.resent) / self.size


class Side:
    """One of the two programs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str, url: str, token: str) -> Side:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.file_transfer_sides",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "URL": url, "TOKEN": token},
        )
        return cls(process)

    async def line(self) -> dict[str, Any]:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError("a program ended early")
        fields: dict[str, Any] = json.loads(line)
        return fields

    def reset(self) -> None:
        """Let it replace its connection."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"reset\n")

    def peak(self) -> int:
        """Return the most memory that it has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    async def kill(self) -> None:
        """End it without a word, if it has not ended."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


class Run:
    """A sender, a receiver, and what happens to them."""

    def __init__(self, server: SignallingServer, wires: tuple[Wire, Wire], path: Path, inbox: Path) -> None:
        self._server = server
        self._sender_wire, self._receiver_wire = wires
        self._path = path
        self._inbox = inbox
        self._receiver_peak = 0
        self._receiver_baseline = 0
        self.done: list[str] = []

    async def run(self) -> Verdict:
        """Send the file through everything."""
        self.receiver = await self._start_receiver()
        token = self._server.mint_token(peer_id="sender")
        self.sender = await Side.start("send", str(self._path), url=self._sender_wire.url, token=token)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._watch()
        finally:
            await self.sender.kill()
            await self.receiver.kill()

    async def _start_receiver(self) -> Side:
        token = self._server.mint_token(peer_id="receiver")
        side = await Side.start("receive", str(self._inbox), url=self._receiver_wire.url, token=token)
        self._receiver_baseline = (await side.line())["baseline"]
        return side

    async def _watch(self) -> Verdict:
        mishaps = self._mishaps()
        while "size" not in (line := await self.sender.line()):
            if mishaps and line["share"] >= mishaps[0][0]:
                share, name, action = mishaps.pop(0)
                await action()
                self.done.append(f"{share:.0%} {name}")
        received = await self.receiver.line()
        peak = max(self._receiver_peak, received["peak"])
        return Verdict(
            size=line["size"],
            sent=line["sent"],
            resent=line["resent"],
            attempts=line["attempts"],
            seconds=line["seconds"],
            is_whole=not mishaps and received["digest"] == line["digest"] == _digest(Path(received["path"])),
            sender_memory=line["peak"] - line["baseline"],
            receiver_memory=peak - self._receiver_baseline,
            sender_peak=line["peak"],
            receiver_peak=peak,
            done=self.done,
        )

    def _mishaps(self) -> list[tuple[float, str, Callable[[], Awaitable[None]]]]:
        return [
            (0.15, "sender loses signalling", lambda: self._drop(self._sender_wire)),
            (0.30, "sender's connection replaced", lambda: self._reset(self.sender)),
            (0.45, "receiver loses signalling", lambda: self._drop(self._receiver_wire)),
            (0.55, "receiver killed and started again", self._kill),
            (0.70, "sender loses signalling", lambda: self._drop(self._sender_wire)),
            (0.85, "receiver's connection replaced", lambda: self._reset(self.receiver)),
        ]

    async def _drop(self, wire: Wire) -> None:
        wire.break_off(told=True)

    async def _reset(self, side: Side) -> None:
        side.reset()

    async def _kill(self) -> None:
        self._receiver_peak = self.receiver.peak()
        await self.receiver.kill()
        self.receiver = await self._start_receiver()


async def scenario(size: int, directory: Path) -> Verdict:
    """Run it with a file of so many bytes, in an empty directory."""
    path, inbox = directory / "big.bin", directory / "inbox"
    await asyncio.to_thread(_write_random, path, size)
    async with SignallingServer(port=0) as server:
        port = int(server.url.rpartition(":")[2])
        async with Wire(port) as first, Wire(port) as second:
            return await Run(server, (first, second), path, inbox).run()


def _write_random(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        for start in range(0, size, WRITE):
            file.write(os.urandom(min(WRITE, size - start)))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = blake2b()
        while piece := file.read(WRITE):
            digest.update(piece)
    return digest.hexdigest()


def main() -> int:
    """Run and print. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    size = parser.parse_args().megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        verdict = asyncio.run(scenario(size, Path(directory)))
    for line in verdict.done:
        print(f"at {line}")
    memory = max(verdict.sender_memory, verdict.receiver_memory)
    promises = (
        ("whole, digests equal", verdict.is_whole, f"{verdict.size} bytes in {verdict.attempts} attempts"),
        (
            "at most 5 % sent twice",
            verdict.sent_twice <= MAX_SENT_TWICE,
            f"{verdict.sent_twice:.2%}, {verdict.resent} bytes of it by the channel",
        ),
        ("memory above idle", memory <= MAX_MEMORY, f"at most {memory / 1e6:.1f} MB of {MAX_MEMORY / 1e6:.0f}"),
    )
    for name, kept, figure in promises:
        print(f"{'kept' if kept else 'BROKEN':<7} {name}: {figure}")
    print(f"peak RSS: sender {verdict.sender_peak / 1e6:.1f} MB, receiver {verdict.receiver_peak / 1e6:.1f} MB")
    print(f"{verdict.seconds:.1f} s, {verdict.size / verdict.seconds / 1e6:.1f} MB/s with everything")
    return 0 if all(kept for _, kept, _ in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
