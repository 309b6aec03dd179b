"""The commands `publish` and `play`, which send a file to a media server and receive from one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

import metered_realtime as realtime

from ..log import StdlibLogger
from .peers import run

if TYPE_CHECKING:
    from ..media.sources.player import Player
    from ..whip.session import MediaSession

REFRESH = 1.0
"""Seconds between updates of the progress display, and between lines of JSON."""

BearerToken = Annotated[
    str | None, typer.Option("--token", envvar="METERED_WHIP_TOKEN", help="Bearer token of the endpoint.")
]
IceServer = Annotated[
    list[str] | None,
    typer.Option("--ice-server", metavar="URL", help="STUN server instead of those of the endpoint; repeatable."),
]
Insecure = Annotated[
    bool, typer.Option("--allow-insecure-url", help="Allow a token on http:// to other hosts, which can be read there.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the progress as one line of JSON a second.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("publish")(publish)
    app.command("play")(play)


def publish(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Media file, or a URL that FFmpeg can read.")],
    whip: Annotated[str, typer.Option("--whip", metavar="URL", help="WHIP endpoint of the media server.")],
    token: BearerToken = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end, until Ctrl-C.")] = False,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Send the sound.")] = True,
    video: Annotated[bool, typer.Option("--video/--no-video", help="Send the pictures.")] = True,
    packets: Annotated[
        bool, typer.Option("--packets", help="Send packets as they are in the file, where WebRTC has their codec.")
    ] = False,
    ice_server: IceServer = None,
    as_json: AsJson = False,
    allow_insecure_url: Insecure = False,
) -> None:
    """Send a media file to a media server by WHIP, in real time. Ctrl-C ends the session there."""
    options = _options(token, ice_server, allow_insecure_url)
    run(_publish(whip, file, options, loop=loop, kinds=_kinds(audio, video), packets=packets, as_json=as_json))


def play(
    whep: Annotated[str, typer.Option("--whep", metavar="URL", help="WHEP endpoint of the media server.")],
    token: BearerToken = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record to this file: MP4, WebM or Matroska by its name.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after this many seconds; by default with Ctrl-C.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Receive the sound.")] = True,
    video: Annotated[bool, typer.Option("--video/--no-video", help="Receive the pictures.")] = True,
    ice_server: IceServer = None,
    as_json: AsJson = False,
    allow_insecure_url: Insecure = False,
) -> None:
    """Receive from a media server by WHEP, and record it as it arrives."""
    options = _options(token, ice_server, allow_insecure_url)
    run(_play(whep, options, output=output, seconds=seconds, kinds=_kinds(audio, video), as_json=as_json))


def _options(token: str | None, ice_servers: list[str] | None, allow_insecure_url: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"token": token, "allow_insecure_url": allow_insecure_url, "logger": StdlibLogger()}
    if ice_servers:
        options["ice_servers"] = [realtime.IceServerConfig(url) for url in ice_servers]
    return options


def _kinds(audio: bool, video: bool) -> tuple[str, ...]:
    kinds = ("audio",) * audio + ("video",) * video
    if not kinds:
        raise typer.BadParameter("--no-audio and --no-video together leave nothing")
    return kinds


async def _publish(
    url: str, file: str, options: dict[str, Any], *, loop: bool, kinds: tuple[str, ...], packets: bool, as_json: bool
) -> int:
    player = await asyncio.to_thread(realtime.from_file, file, loop=loop, packets=None if packets else False)
    try:
        tracks = _tracks(player, kinds)
        async with await realtime.whip_publish(url, tracks, **options) as session:
            ended = asyncio.ensure_future(_all_ended(session, len(tracks)))
            return await _show(session, _sent, ended, as_json=as_json)
    finally:
        await player.close()


def _tracks(player: Player, kinds: tuple[str, ...]) -> list[Any]:
    tracks = [track for track in (player.audio, player.video) if track is not None]
    for track in tracks:
        if track.kind not in kinds:
            track.stop()
    chosen = [track for track in tracks if track.kind in kinds]
    if not chosen:
        raise ValueError(f"the file has no {' or '.join(kinds)}")
    return chosen


async def _all_ended(session: MediaSession, count: int) -> None:
    async with session.connection.events(realtime.LocalTrackEnded) as events:
        async for _ in events:  # ends with the session too
            count -= 1
            if count == 0:
                return


async def _play(
    url: str,
    options: dict[str, Any],
    *,
    output: Path | None,
    seconds: float | None,
    kinds: tuple[str, ...],
    as_json: bool,
) -> int:
    recorder = realtime.Recorder(output, logger=StdlibLogger()) if output is not None else None
    session = await realtime.whep_play(url, kinds=kinds, **options)
    try:
        if recorder is not None:
            recorder.follow(session.connection)
            await recorder.start()
        enough = asyncio.ensure_future(asyncio.sleep(seconds) if seconds is not None else asyncio.Event().wait())
        return await _show(session, _received, enough, as_json=as_json)
    finally:
        if recorder is not None:
            await recorder.close()
        await session.close()
        for path in (path for it in (recorder.stats().participants if recorder else ()) for path in it.files):
            typer.echo(path)


async def _show(session: MediaSession, figures: Any, done: asyncio.Future[Any], *, as_json: bool) -> int:
    """Show the progress until something is done. Raises what ended the session before."""
    lost = asyncio.ensure_future(session.wait_closed())
    console = Console(stderr=True)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not (lost.done() or done.done()):
                progress = {"state": session.state, **figures(session)}
                if as_json:
                    print(json.dumps(progress), flush=True)
                elif console.is_terminal:
                    live.update(Text(_line(progress)), refresh=True)
                await asyncio.wait([lost, done], timeout=REFRESH, return_when=asyncio.FIRST_COMPLETED)
        if session.state == "closed":
            await lost
        return 0
    finally:
        for task in (lost, done):
            task.cancel()
        await asyncio.wait([lost, done])


def _sent(session: MediaSession) -> dict[str, Any]:
    stats = session.stats()
    return {
        "seconds": _rounded(stats.connected_for, 1),
        "bytes": stats.bytes_sent,
        "bitrate": _rounded(stats.bitrate_out, 0),
        "round_trip_time": _rounded(stats.round_trip_time, 4),
    }


def _received(session: MediaSession) -> dict[str, Any]:
    stats = session.stats()
    return {
        "seconds": _rounded(stats.connected_for, 1),
        "bytes": stats.bytes_received,
        "bitrate": _rounded(stats.bitrate_in, 0),
        "round_trip_time": _rounded(stats.round_trip_time, 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return round(value, digits) if value is not None else None


def _line(progress: dict[str, Any]) -> str:
    seconds, bitrate, round_trip = (progress[name] or 0.0 for name in ("seconds", "bitrate", "round_trip_time"))
    return f"{progress['state']}  {seconds:.0f} s  {bitrate / 1000:.0f} kbit/s  round trip {round_trip * 1000:.0f} ms"
