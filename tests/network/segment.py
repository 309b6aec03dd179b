"""A server and peers, each in a network namespace of its own, on a segment that can be harmed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from metered_realtime.server.keys import new_secret_pair
from tests.network.programs import Program
from tests.support.patience import PATIENCE

PREFIX = "metered"
"""Namespaces are called `metered-PID-NUMBER-NAME`, after the process that made them."""

BRIDGE = "bridge"
BRIDGE_PROGRAM = Path(__file__).with_name("bridge.py")

ADDRESSES = {"server": "10.80.0.1", "a": "10.80.0.11", "b": "10.80.0.12", "c": "10.80.0.13"}
"""The same on every segment: nothing leads from one to another."""

PORT = 7880

_numbers = itertools.count(1)


def _ip(*arguments: str, batch: Sequence[str] = ()) -> str:
    """Run iproute2's `ip`, on a batch of commands if there is one.

    Raises:
        OSError: it failed, for want of rights for instance.
    """
    command = ["ip", *arguments, *(["-batch", "-"] if batch else [])]
    done = subprocess.run(command, input="\n".join(batch), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _can_make_namespaces() -> bool:
    name = f"{PREFIX}-{os.getpid()}-0-probe"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except OSError:
        return False
    return True


needs_namespaces = pytest.mark.skipif(
    "CI" not in os.environ and not _can_make_namespaces(),
    reason="network namespaces of Linux are needed: apt-get install iproute2, and run as root",
)
"""Skips where there are none, except in CI: there the test runs, and fails."""


class Peer(Program):
    """A peer program, with words for what is asked of it most."""

    async def flows(self, sender: str, *, after: float = 0.0, count: int = 10, within: float = PATIENCE) -> float:
        """Return when the first of `count` frames of video since a time came from another peer."""
        await self.until("frame", count=count, after=after, within=within, peer=sender, kind="video")
        return float(self.of("frame", after=after, peer=sender, kind="video")[0]["at"])

    async def sees(self, peer: str, state: str, *, after: float = 0.0, within: float = PATIENCE) -> float:
        """Return when it saw another peer enter a state since a time."""
        return float((await self.until("state", after=after, within=within, peer=peer, to=state))["at"])

    def states(self, peer: str) -> list[str]:
        """Return the states in which it saw another peer, in order."""
        return [it["to"] for it in self.of("state", peer=peer)]

    def longest_gap(self, sender: str, since: float, until: float) -> float:
        """Return the longest time, in seconds, without a frame of video from another peer."""
        frames = [it["at"] for it in self.of("frame", peer=sender, kind="video") if since <= it["at"] <= until]
        return float(max(later - earlier for earlier, later in itertools.pairwise([since, *frames, until])))

    async def talks_to(self, other: Peer, label: str, messages: int = 100) -> None:
        """Open a data channel to another peer, and see every message arrive there, in order."""
        await self.tell(do="open", to=other.name, label=label)
        await self.until("open", label=label)
        await self.tell(do="send", label=label, count=messages)
        await other.until("message", count=messages, label=label)
        assert [it["data"] for it in other.of("message", label=label)] == [str(it) for it in range(messages)]


class Segment:
    """The namespaces of one scenario. Made by `segment`, which also ends everything in them."""

    def __init__(self, directory: Path) -> None:
        self._names = tuple(ADDRESSES)
        self._directory = directory
        self._number = next(_numbers)
        self._secret_id, self._secret = new_secret_pair()
        self._programs: list[Program] = []

    def _namespace(self, name: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{self._number}-{name}"

    # --- programs

    async def start_server(self) -> Program:
        """Start the server, always at the same address and with the same keys."""
        where = ("--host", ADDRESSES["server"], "--port", str(PORT), "--json")
        keys = ("--secret-id", self._secret_id, "--secret", self._secret)
        command = (sys.executable, "-m", "metered_realtime", "serve", *where, *keys, "--verbose")
        server = Program("server", self._namespace("server"), command, self._directory / "server.log")
        self._programs.append(server)
        await server.until("said")
        return server

    def start_peer(self, name: str, *media: str) -> Peer:
        """Start a peer that sends this media, video if none is named."""
        options = {
            "url": f"ws://{ADDRESSES['server']}:{PORT}",
            "id": name,
            "secret_id": self._secret_id,
            "secret": self._secret,
            "media": media or ("video",),
        }
        command = (sys.executable, "-m", "tests.network.peer_program", json.dumps(options))
        peer = Peer(name, self._namespace(name), command, self._directory / f"{name}.log")
        self._programs.append(peer)
        return peer

    async def start_call(self, *media: str) -> tuple[Program, Peer, Peer]:
        """Start the server and two peers, and return them when media flows both ways."""
        server = await self.start_server()
        a, b = self.start_peer("a", *media), self.start_peer("b", *media)
        await asyncio.gather(a.flows("b"), b.flows("a"))
        return server, a, b

    def what_happened(self) -> str:
        """Return what every program told and logged."""
        return "\n".join(program.story() for program in self._programs)

    # --- harm

    async def impair(self, **how: float) -> None:
        """Harm every frame from now on: `loss` is a fraction, `delay` and `jitter` are seconds each way."""
        await self._command(**how)

    async def cut(self, *pairs: str) -> None:
        """Let nothing pass between these pairs of names, like `a-b`, and everything between all others."""
        await self._command(cut=[pair.split("-") for pair in pairs])

    async def cut_off(self, name: str) -> None:
        """Let nothing pass from or to one name."""
        await self.cut(*(f"{name}-{other}" for other in self._names if other != name))

    async def mend(self) -> None:
        """Let everything pass again."""
        await self.cut()

    async def narrow(self, mtu: int) -> None:
        """Let packets be so long at the most. Longer ones leave in fragments, which are lost on the way."""
        for name in self._names:
            _ip("-n", self._namespace(name), "link", "set", "dev", "eth0", "mtu", str(mtu))
        await self._command(loses_fragments=True)

    def change_address(self, name: str, address: str) -> None:
        """Take the address of a namespace away, and give it another one."""
        _ip("-n", self._namespace(name), batch=["address flush dev eth0", f"address add {address}/24 dev eth0"])

    async def _command(self, **command: Any) -> None:
        bridge = self._programs[0]
        obeyed = len(bridge.of("obeyed"))
        await bridge.tell(**command)
        await bridge.until("obeyed", count=obeyed + 1)

    # --- from the beginning to the end

    async def _set_up(self) -> None:
        _ip(batch=[f"netns add {self._namespace(name)}" for name in (BRIDGE, *self._names)])
        bridge = self._namespace(BRIDGE)
        _ip("-n", bridge, batch=[f"link add name {it} type veth peer name {it}.in" for it in self._names])
        _ip("-n", bridge, batch=[f"link set dev {it} up" for it in self._names])
        # -S -E: it needs nothing that is installed, and is there at once.
        command = (sys.executable, "-S", "-E", str(BRIDGE_PROGRAM), self._directory.name, *self._names)
        self._programs.append(Program(BRIDGE, bridge, command, self._directory / "bridge.log"))
        await self._programs[0].until("carrying")
        for name in self._names:
            namespace, address = self._namespace(name), f"address add {ADDRESSES[name]}/24 dev eth0"
            _ip("-n", bridge, "link", "set", f"{name}.in", "netns", namespace, "name", "eth0")
            _ip("-n", namespace, batch=[address, "link set eth0 up", "link set lo up"])

    async def _tear_down(self) -> None:
        try:
            await asyncio.gather(*(program.kill() for program in self._programs))
        finally:
            for name in (BRIDGE, *self._names):
                _remove(self._namespace(name))


@asynccontextmanager
async def segment(directory: Path) -> AsyncIterator[Segment]:
    """Make a segment. Its programs log in the directory, and its chance is seeded with the directory's name."""
    made = Segment(directory)
    try:
        await made._set_up()
        yield made
    finally:
        await made._tear_down()


def remove_stale() -> None:
    """Remove what runs have left that were killed: namespaces, and the programs in them."""
    for namespace, pid in re.findall(rf"^({PREFIX}-(\d+)-\S+)", _ip("netns", "list"), re.MULTILINE):
        if not Path(f"/proc/{pid}").exists():
            _remove(namespace)


def _remove(namespace: str) -> None:
    with suppress(OSError):
        for pid in _ip("netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", namespace)
