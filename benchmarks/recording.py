"""Recording a peer over a link that loses packets: is it in sync, how long is it, and what does it cost?

The sender is a process of its own. It flashes and clicks each second, and loses a share of what it sends, and of its
answers. This process records it: first as it comes, then decoded and encoded again, and both as long. Before, it is in
the channel without recording, which is what is subtracted.

    python -m benchmarks.recording --seconds 60 --loss 0.02
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metered_realtime import MediaStream, MeteredPeer, Recorder
from metered_realtime.server import SignallingServer

from .flash_and_click import ClickTrack, FlashTrack, Metronome, losing, offsets, seconds_of

IDLE_SECONDS = 5.0
STEP = 0.2

WAYS = {"as it comes": ("webm", False), "encoded again": ("webm", True)}


@dataclass(frozen=True)
class Outcome:
    """CPU seconds per second of the recording process, and what the file is like."""

    cpu: float
    offsets: list[float]
    duration: float
    expected: float
    holes: int


async def send(url: str, token: str, loss: float) -> None:
    """Flash and click in the channel until the process is ended."""
    peer, beat = MeteredPeer(token_provider=lambda: token, url=url), Metronome()
    peer.add_stream(MediaStream([FlashTrack(beat), ClickTrack(beat)]))
    await peer.join("room")
    while not peer.remote_peers or peer.remote_peers[0].state != "connected":  # noqa: ASYNC110 - once
        await asyncio.sleep(0.05)
    print("connected", flush=True)
    with losing(peer.remote_peers[0].pc, loss):
        await asyncio.Event().wait()


async def measure(seconds: float, loss: float, progress: Progress) -> tuple[float, dict[str, Outcome]]:
    """Return the CPU seconds per second without a recording, and what each way of recording gave."""
    task = progress.add_task("recording", total=IDLE_SECONDS + seconds * len(WAYS))
    async with SignallingServer(port=0) as server:
        bot = MeteredPeer(token_provider=lambda: server.mint_token(peer_id="bot"), url=server.url)
        async with bot:
            await bot.join("room")
            sender = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.recording", "--send", server.url),
                *("--token", server.mint_token(peer_id="ann"), "--loss", str(loss)),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert sender.stdout is not None
                await asyncio.wait_for(sender.stdout.readline(), 20)
                idle = await _cpu(IDLE_SECONDS, progress, task)
                with tempfile.TemporaryDirectory() as folder:
                    outcomes = {
                        name: await _record(bot, Path(folder) / f"{number}.{extension}", again, seconds, progress, task)
                        for number, (name, (extension, again)) in enumerate(WAYS.items())
                    }
            finally:
                sender.kill()
                await sender.wait()
    return idle, outcomes


async def _record(
    bot: MeteredPeer, path: Path, again: bool, seconds: float, progress: Progress, task: object
) -> Outcome:
    recorder = Recorder(path)
    recorder.follow(bot.remote_peers[0], transcode=again)
    async with recorder:
        while not recorder.stats().bytes_written:  # noqa: ASYNC110 - once
            await asyncio.sleep(0.05)
        cpu = await _cpu(seconds, progress, task)
    stats = recorder.stats()
    (figures,) = stats.participants
    expected = stats.seconds - (figures.began or 0.0)
    found = await asyncio.to_thread(offsets, path)  # packets must not pile up in the meantime
    return Outcome(cpu, found, seconds_of(path), expected, figures.lost)


async def _cpu(seconds: float, progress: Progress, task: object) -> float:
    began, spent = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - began) < seconds:
        await asyncio.sleep(min(STEP, seconds - passed))
        progress.advance(task, min(STEP, seconds - passed))  # type: ignore[arg-type]
    return (time.process_time() - spent) / (time.perf_counter() - began)


def report(idle: float, outcomes: dict[str, Outcome], loss: float) -> Table:
    """Return the figures as a table."""
    table = Table(title=f"Recording 640 x 480 at 25 fps over a link that loses {loss:.0%}; {idle:.3f} CPU s/s without")
    for name in ("way", "beats", "A/V max ms", "p95 ms", "seconds", "off %", "holes", "CPU s/s", "added", "ratio"):
        table.add_column(name, justify="left" if name == "way" else "right")
    most = max(it.cpu - idle for it in outcomes.values())
    for name, it in outcomes.items():
        away = sorted(abs(offset) * 1000 for offset in it.offsets)
        table.add_row(
            name,
            str(len(away)),
            f"{away[-1]:.0f}" if away else "-",
            f"{away[round(len(away) * 0.95) - 1]:.0f}" if away else "-",
            f"{it.duration:.2f}",
            f"{abs(it.duration - it.expected) / it.expected:.2%}",
            str(it.holes),
            f"{it.cpu:.3f}",
            f"{it.cpu - idle:.3f}",
            f"{(it.cpu - idle) / most:.2f}",
        )
    return table


def main() -> None:
    """Measure, or be the sender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each way of recording")
    parser.add_argument("--loss", type=float, default=0.02, help="share of the sender's packets")
    parser.add_argument("--send", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--token", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        asyncio.run(send(options.send, options.token, options.loss))
        return
    console = Console(width=120)
    with Progress(console=console) as progress:
        idle, outcomes = asyncio.run(measure(options.seconds, options.loss, progress))
    console.print(report(idle, outcomes, options.loss))


if __name__ == "__main__":
    main()
