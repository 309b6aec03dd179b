"""The commands `send-file` and `receive-files`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from ..errors import FileTransferError
from ..events import FileFailed, FileReceived, PeerJoined
from .peers import Channel, Insecure, Key, Token, Url, peer_options, run

if TYPE_CHECKING:
    from ..files.progress import TransferProgress, TransferResult
    from ..mesh.peer import MeteredPeer


def add_to(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("send-file")(send_file)
    app.command("receive-files")(receive_files)


def send_file(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file.")],
    channel: Channel,
    url: Url = None,
    key: Key = None,
    token: Token = None,
    to: Annotated[str | None, typer.Option(metavar="PEER", help="A single peer; by default all peers present.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the file at the receivers.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a peer to join.")] = 30.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that a peer may be unreachable.")] = 60.0,
    allow_insecure_url: Insecure = False,
) -> None:
    """Send a file to the peers of a channel. Run it again to resume an interrupted transfer."""
    options = peer_options(url, key, token, allow_insecure_url)
    run(_send(options, channel, path, to, name, wait, patience))


def receive_files(
    directory: Annotated[Path, typer.Argument(file_okay=False, help="Directory for the files, created if needed.")],
    channel: Channel,
    url: Url = None,
    key: Key = None,
    token: Token = None,
    max_size: Annotated[
        int | None, typer.Option(min=0, help="Maximum size of a file in bytes, 16 GiB by default.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Exit after this many files.")] = None,
    allow_insecure_url: Insecure = False,
) -> None:
    """Receive the files that peers of a channel send, until Ctrl-C. Prints the path of each."""
    options = peer_options(url, key, token, allow_insecure_url)
    run(_receive(options, channel, directory, max_size, count))


async def _send(
    options: dict[str, Any], channel: str, path: Path, to: str | None, name: str | None, wait: float, patience: float
) -> int:
    from ..mesh.peer import MeteredPeer

    async with MeteredPeer(**options) as peer:
        there = _await_peer(peer, to)
        await peer.join(channel)
        try:
            await asyncio.wait_for(there, wait)
        except TimeoutError:
            typer.echo(f"Error: {to or 'nobody'} was {'not ' if to else ''}there within {wait:g} s", err=True)
            return 1
        with _Bars() as bars:
            results = await _send_to(peer, path, to, name=name, progress=bars.show, patience=patience)
    return _report(results)


async def _send_to(
    peer: MeteredPeer, path: Path, to: str | None, **options: Any
) -> dict[str, TransferResult | FileTransferError]:
    if to is None:
        return await peer.send_file(path, **options)
    remote = next(remote for remote in peer.remote_peers if remote.id == to)
    try:
        return {to: await remote.send_file(path, **options)}
    except FileTransferError as error:
        return {to: error}


def _await_peer(peer: MeteredPeer, wanted: str | None) -> asyncio.Future[None]:
    """Return a future that is done when the wanted peer, or any, has joined."""
    there: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @peer.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        if wanted in (None, event.peer.id) and not there.done():
            there.set_result(None)

    return there


def _report(results: dict[str, TransferResult | FileTransferError]) -> int:
    """Print the result for each peer. Return 1 if a transfer failed."""
    failed = False
    for peer_id, result in results.items():
        if isinstance(result, FileTransferError):
            failed = True
            typer.echo(f"{peer_id}: failed: {result}", err=True)
        else:
            rate = result.sent / max(result.seconds, 0.001) / 1e6
            typer.echo(f"{peer_id}: {result.name}, {result.size} bytes in {result.seconds:.1f} s, {rate:.1f} MB/s")
    return 1 if failed or not results else 0


async def _receive(
    options: dict[str, Any], channel: str, directory: Path, max_size: int | None, count: int | None
) -> int:
    from ..mesh.peer import MeteredPeer

    with _Bars() as bars:
        async with MeteredPeer(**options) as peer:
            peer.on(FileFailed, bars.failed)
            async with peer.receive_files(directory, max_size=max_size, progress=bars.show) as files:
                await peer.join(channel)
                typer.echo(f"receiving into {directory} as {peer.peer_id}", err=True)
                received = 0
                async for file in files:
                    bars.received(file)
                    received += 1
                    if received == count:
                        return 0
    typer.echo("Error: the connection ended for good", err=True)
    return 1


class _Bars:
    """Progress bars for each file and peer on a terminal, and lines of text."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            SpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not Console(stderr=True).is_terminal,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, step: TransferProgress) -> None:
        """Update a progress bar."""
        key = (step.peer_id, step.name)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"{step.name} · {step.peer_id}", total=step.size)
        self._progress.update(self._tasks[key], completed=step.done)

    def received(self, event: FileReceived) -> None:
        """Print the path of a received file."""
        typer.echo(str(event.path))
        self._drop(event.peer.id, event.path.name)

    def failed(self, event: FileFailed) -> None:
        """Print a transfer that failed."""
        typer.echo(f"{event.peer.id}: {event.name} is not complete: {event.err}", err=True)
        self._drop(event.peer.id, event.name)

    def _drop(self, peer_id: str, name: str) -> None:
        task = self._tasks.pop((peer_id, name), None)
        if task is not None:
            self._progress.remove_task(task)
