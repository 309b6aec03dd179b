"""The command `record`, which records a channel to files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..log import StdlibLogger
from .peers import Channel, Insecure, Key, Token, Url, peer_options, run

if TYPE_CHECKING:
    from ..recording.recorder import Recorder
    from ..recording.stats import RecorderStats

REFRESH = 0.5
"""Seconds between updates of the progress display."""


def add_to(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("record")(record)


def record(
    output: Annotated[
        Path, typer.Argument(help="File name, with {peer} and {start} filled in; without {peer} all are mixed.")
    ],
    channel: Channel,
    url: Url = None,
    key: Key = None,
    token: Token = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after this many seconds; by default with Ctrl-C.")
    ] = None,
    transcode: Annotated[bool, typer.Option(help="Transcode even where it is not necessary.")] = False,
    allow_insecure_url: Insecure = False,
) -> None:
    """Record all peers of a channel, as MP4, WebM or Matroska by the file name. Prints the path of each file."""
    options = peer_options(url, key, token, allow_insecure_url)
    run(_record(options, channel, output, seconds, transcode))


async def _record(options: dict[str, Any], channel: str, output: Path, seconds: float | None, transcode: bool) -> int:
    from ..mesh.peer import MeteredPeer
    from ..recording.recorder import Recorder

    recorder = Recorder(output, logger=StdlibLogger())
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        async with MeteredPeer(**options) as peer:
            recorder.follow(peer, transcode=transcode)
            await peer.join(channel)
            await recorder.start()
            typer.echo(f"recording {channel} as {peer.peer_id}", err=True)
            try:
                await _show(recorder, seconds)
            finally:
                await recorder.close()
    finally:  # also after an interruption, or a failure of one of the files
        _print_files(recorder.stats())
    return 0


def _print_files(stats: RecorderStats) -> None:
    for path in (path for it in stats.participants for path in it.files):
        typer.echo(path)
    if stats.participants_forgotten:
        typer.echo(f"and files of {stats.participants_forgotten} participants before them", err=True)


async def _show(recorder: Recorder, seconds: float | None) -> None:
    """Show the progress on a terminal, until the duration is over or the task is cancelled."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while seconds is None or recorder.stats().seconds < seconds:
            if console.is_terminal:
                live.update(_table(recorder.stats()), refresh=True)
            left = REFRESH if seconds is None else max(0.0, seconds - recorder.stats().seconds)
            await asyncio.sleep(min(REFRESH, left))


def _table(stats: RecorderStats) -> Table:
    table = Table(title=f"{stats.seconds:.0f} s, {stats.bytes_written / 1e6:.1f} MB")
    for name in ("participant", "state", "seconds", "MB", "pictures", "sound", "holes", "dropped"):
        table.add_column(name, justify="left" if name in ("participant", "state") else "right")
    for it in stats.participants:
        figures = (f"{it.duration:.1f}", f"{it.bytes_written / 1e6:.2f}", *(str(n) for n in it.packets.values()))
        seconds, size, sound, pictures = figures
        state = it.state if it.error is None else f"{it.state}: {it.error}"
        table.add_row(it.peer_id, state, seconds, size, pictures, sound, str(it.lost), str(it.dropped))
    return table
