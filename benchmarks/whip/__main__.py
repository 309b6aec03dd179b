"""Runs the benchmark that this package describes."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Page
from rich.console import Console
from rich.table import Table
from tests.bridge.certificates import p256
from tests.bridge.whip_whep import client_page, client_site, is_installed
from tests.support.browsers import Browser, Chromium, Firefox, until
from tests.support.browsers.processes import cpu_seconds
from tests.support.patience import PATIENCE

import benchmarks.whip
from metered_realtime import Bridge, BridgeSessionClosed
from metered_realtime.server import SignallingServer

from .pages import CHANNEL, WATCH, WORKER, Listener, Seen, first_pictures, open_room, play, seen_by
from .phases import Phases, StuckError

LEAST_SHOWN = 0.98
"""Share of the pictures that a browser has to show from its first one on."""

MOST_APART = 0.08
"""Seconds between sound and picture of the same moment at the most."""

SETTLING = 15.0
"""Seconds in which a browser brings sound and picture together: Chromium plays sound about 0.1 s after its arrival from
the first moment on, pictures at once, and delays these once a second by half of what it finds over several seconds."""

PLAYERS_TIME = 40.0
"""Seconds for which FFmpeg goes on while other players are opened. Starting them takes CPU time from the others."""

MIXED_TIME = 5.0
"""Seconds for which the mixed room is watched."""

TICK = 0.01
"""Seconds between looks at how late the event loop of the bridge is."""

FIRST_PICTURE = 1.0
"""Seconds within which a player has to show a picture."""


@dataclass
class Result:
    """The figures of a run."""

    seconds: float
    """How long the pages watched before other players were opened."""
    sent: int
    seen: list[Seen]
    ended: str
    first: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until the first picture, by player."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of CPU per second while the room pages and one player watch, by program."""
    latest: float = 0.0
    """Seconds by which the event loop of the bridge was late at most meanwhile."""
    cpu_mixing: float | None = None
    """The same of the process with the bridge, while the mixed room is watched as well."""

    def faults(self) -> list[str]:
        """Return what is not as it has to be."""
        faults = []
        for page in self.seen:
            worst = max(map(abs, page.offsets(SETTLING, self.seconds)), default=0.0)
            if page.shown(self.sent) < LEAST_SHOWN:
                faults.append(f"{page.name} showed {page.shown(self.sent):.1%} of the pictures")
            if not page.offsets():
                faults.append(f"{page.name} heard no click beside its picture")
            if worst > MOST_APART:
                faults.append(f"{page.name}: sound and picture are {worst * 1000:.0f} ms apart")
        for player, seconds in self.first.items():
            if (slow := statistics.median(seconds)) > FIRST_PICTURE:
                faults.append(f"{player}: the first picture took {slow:.2f} s")
        if self.ended != "deleted":
            faults.append(f"the publisher's session ended by {self.ended}")
        return faults


class Encoder:
    """FFmpeg in a process of its own. If it or its session ends before its time, `phases` fails."""

    def __init__(self, bridge: Bridge, phases: Phases, seconds: float) -> None:
        self.ended = "nothing"
        self._bridge = bridge
        self._phases = phases
        self._seconds = seconds
        self._process: Process | None = None
        bridge.on(BridgeSessionClosed, self._session_closed)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @asynccontextmanager
    async def publishing(self, token: str) -> AsyncIterator[None]:
        """Publish meanwhile, for the given time at most."""
        with tempfile.TemporaryDirectory() as folder:
            arguments = (self._bridge.whip_url, token, str(self._seconds), *p256(Path(folder)))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.whip.source", *arguments, stdout=asyncio.subprocess.PIPE
            )
            watching = asyncio.ensure_future(self._watch(self._process))
            try:
                yield
            finally:
                watching.cancel()
                if self._process.returncode is None:
                    self._process.kill()  # FFmpeg's muxer hangs where its session was ended by the bridge
                    await self._process.wait()

    async def finish(self) -> int:
        """Wait for its end. Return the number of pictures."""
        assert self._process is not None
        out, _ = await self._process.communicate()
        return int(out)

    async def _watch(self, process: Process) -> None:
        if await process.wait():
            self._phases.fail(f"FFmpeg ended with {process.returncode}")

    def _session_closed(self, event: BridgeSessionClosed) -> None:
        if event.role == "publisher":
            self.ended = event.reason
            if event.reason != "deleted":
                self._phases.fail(f"the encoder's session ended by {event.reason} {event.detail}")


async def run(seconds: float, *, mixed: bool = False, firefox: bool = False) -> Result:
    """Publish for some seconds, and return what was seen.

    Raises:
        StuckError: something did not come.
    """
    phases = Phases()
    async with AsyncExitStack() as stack:
        async with phases.phase("starting the server, the bridge and the browsers"):
            server = await stack.enter_async_context(SignallingServer(port=0))
            bridge = await stack.enter_async_context(Bridge(CHANNEL, url=server.url, api_key=server.api_key))
            site = await stack.enter_async_context(client_site())
            browsers: dict[str, Browser] = {"Chromium": await stack.enter_async_context(chromium := Chromium())}
            if firefox:
                browsers["Firefox"] = await stack.enter_async_context(Firefox())
        async with phases.phase("opening the pages"):
            listener = Listener(server)
            await listener.join()
            stack.push_async_callback(listener.close)
            rooms = [await open_room(chromium, server, name) for name in ("Ann", "Bob")]
            player = await client_page(chromium, site)
            await player.evaluate(WATCH, WORKER)
        encoder = Encoder(bridge, phases, seconds + PLAYERS_TIME)
        url = f"{bridge.whep_url}/encoder"
        async with encoder.publishing(server.mint_token("encoder")):
            async with phases.phase("waiting for FFmpeg's first picture in the room pages"):
                for room in rooms:
                    await until(room, "window.seen.pictures.length > 0")
            async with phases.phase("opening the player"):
                await play(player, url, server.mint_token("player"))
                await player.evaluate("() => stream.getTracks().forEach((track) => watch(track))")
            async with phases.phase(f"watching for {seconds:.0f} s", seconds + PATIENCE):
                processes = {"FFmpeg": [encoder.pid], "server, bridge and measurement": [os.getpid()]}
                processes |= {name: browser.processes() for name, browser in browsers.items()}
                cpu, latest = await asyncio.gather(_cost(processes, seconds), _latest(seconds))
            first: dict[str, list[float]] = {}
            for name, browser in browsers.items():
                async with phases.phase(f"opening players in {name}"):
                    first[name] = await first_pictures(browser, site, url, server.mint_token("guest"))
            cpu_mixing = None
            if mixed:
                async with phases.phase("watching the mixed room"):
                    other = await client_page(chromium, site)
                    first["Chromium, mixed room"] = [await play(other, bridge.whep_url, server.mint_token("other"))]
                    cpu_mixing = sum((await _cost({"": [os.getpid()]}, MIXED_TIME)).values())
                    await other.evaluate("client.stop()")
            async with phases.phase("waiting for FFmpeg's end", PLAYERS_TIME + PATIENCE):
                sent = await encoder.finish()
        async with phases.phase("reading what was seen"):
            seen = [await seen_by(name, page) for name, page in _named(rooms, player)] + [await listener.close()]
            for room in rooms:
                await room.evaluate("room.leave()")
        async with phases.phase("closing everything"):
            await stack.aclose()
    return Result(seconds, sent, seen, encoder.ended, first, cpu, latest, cpu_mixing)


def _named(rooms: list[Page], player: Page) -> list[tuple[str, Page]]:
    return [*((f"room {number}", room) for number, room in enumerate(rooms, 1)), ("player", player)]


async def _cost(processes: Mapping[str, list[int]], seconds: float) -> dict[str, float]:
    """Return how many seconds of CPU the processes of each program take per second."""
    loop = asyncio.get_running_loop()
    began, used = loop.time(), {name: cpu_seconds(pids) for name, pids in processes.items()}
    await asyncio.sleep(seconds)
    passed = loop.time() - began
    return {name: (cpu_seconds(pids) - used[name]) / passed for name, pids in processes.items()}


async def _latest(seconds: float) -> float:
    """Return by how many seconds the event loop was late at most."""
    loop = asyncio.get_running_loop()
    end, latest = loop.time() + seconds, 0.0
    while (now := loop.time()) < end:
        await asyncio.sleep(TICK)
        latest = max(latest, loop.time() - now - TICK)
    return latest


def _print(result: Result) -> None:
    console = Console()
    console.print(f"{result.sent} pictures by FFmpeg's WHIP client. Sound after picture in ms, median and worst:")
    table = Table()
    settled = f"{SETTLING:.0f} to {result.seconds:.0f} s"
    for name in ("page", "pictures", "shown", f"until {SETTLING:.0f} s", settled, "with new players"):
        table.add_column(name, justify="left" if name == "page" else "right")
    for page in result.seen:
        row = [page.name, str(len(page.pictures)), f"{page.shown(result.sent):.2%}"]
        for after, before in ((0.0, SETTLING), (SETTLING, result.seconds), (result.seconds, float("inf"))):
            apart = [1000 * it for it in page.offsets(after, before)]
            row.append(f"{statistics.median(apart):.0f}, {max(apart, key=abs):.0f}" if apart else "-")
        table.add_row(*row)
    console.print(table)
    for player, seconds in result.first.items():
        console.print(f"first picture in {player}: {', '.join(f'{it * 1000:.0f}' for it in seconds)} ms")
    console.print("CPU s/s: " + ", ".join(f"{name} {used:.2f}" for name, used in result.cpu.items()))
    console.print(f"the event loop was late by {result.latest * 1000:.0f} ms at most")
    if result.cpu_mixing is not None:
        console.print(f"CPU s/s of server, bridge and measurement while mixing: {result.cpu_mixing:.2f}")
    console.print(f"the session ended by: {result.ended}")
    for fault in result.faults():
        console.print(f"[red]{fault}[/]")


def main() -> int:
    """Run the benchmark. The exit code is 1 if something is not as it has to be."""
    parser = argparse.ArgumentParser(description=(benchmarks.whip.__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--no-mix", action="store_true", help="leave the player of the mixed room out")
    parser.add_argument("--no-firefox", action="store_true", help="leave the player in Firefox out")
    arguments = parser.parse_args()
    if Chromium.executable() is None or not is_installed():
        print("Chromium and npm's whip-whep are needed: tools/install-test-programs", file=sys.stderr)
        return 2
    firefox = not arguments.no_firefox
    if firefox and Firefox.executable() is None:
        print(f"{Firefox.MISSING}, or give --no-firefox", file=sys.stderr)
        return 2
    try:
        result = asyncio.run(run(arguments.seconds, mixed=not arguments.no_mix, firefox=firefox))
    except StuckError as error:
        Console(stderr=True).print(f"[red]stuck while {error}[/]")
        return 1
    _print(result)
    return 1 if result.faults() else 0


if __name__ == "__main__":
    raise SystemExit(main())
