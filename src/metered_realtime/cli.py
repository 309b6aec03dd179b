"""The command line: serve, make keys, mint tokens."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from ._version import __version__
from .log import StdlibLogger
from .server import SignallingServer, mint_token
from .server.keys import new_publishable_key, new_secret_pair

PROGRAM = "metered-realtime"

app = typer.Typer(
    name=PROGRAM,
    help="WebRTC rooms for Python programs and browsers: the signalling server and its keys.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its boxes break sentences, and the keys in them, into lines
    add_completion=False,
    pretty_exceptions_enable=False,
)

SecretId = Annotated[str | None, typer.Option("--secret-id", envvar="METERED_SECRET_ID", help="Id of a secret key.")]
Secret = Annotated[
    str | None, typer.Option("--secret", envvar="METERED_SECRET", help="The secret itself; better in the environment.")
]


def run() -> None:
    """Run the program on the arguments of this process."""
    app(prog_name=PROGRAM)


def _port(text: str | int) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise typer.BadParameter(f"a port is a number from 0 to 65535, not {text!r}")
    return port


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(parser=_port, metavar="PORT", help="0 takes a free one.")] = 7880,
    as_json: Annotated[bool, typer.Option("--json", help="Print URL and keys as one line of JSON.")] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="METERED_API_KEY", help="Publishable key (pk_live_…) to use instead of a new one."),
    ] = None,
    secret_id: SecretId = None,
    secret: Secret = None,
    ice_server: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="STUN or TURN server to tell clients of; repeatable.")
    ] = None,
    public_page: Annotated[
        bool, typer.Option("--public-page", help="Let everybody who opens the room page use the publishable key.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every connection.")] = False,
) -> None:
    """Run the signalling server and the room page until SIGINT or SIGTERM."""
    _log_to_stderr(logging.INFO if verbose else logging.WARNING)
    server = _checked(
        lambda: SignallingServer(
            host,
            port,
            api_key=api_key,
            secret_id=secret_id,
            secret=secret,
            ice_servers=ice_server or (),
            public_page=public_page,
            logger=StdlibLogger(),
        )
    )
    try:
        asyncio.run(_serve(server, _print_json if as_json else _print_banner))
    except OSError as error:
        typer.echo(f"Error: {error.strerror}", err=True)
        raise typer.Exit(1) from None


@app.command()
def demo(
    media: Annotated[Path | None, typer.Argument(help="Media file to stream. Without it, a clip is generated.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the recording and the contact sheet.")] = Path("demo-output"),
    port: Annotated[int, typer.Option(parser=_port, metavar="PORT", help="Port of the server; 0 takes a free one.")] = 0,
    stay: Annotated[float, typer.Option(help="Seconds to keep the room open afterwards.")] = 0.0,
) -> None:
    """Stream a media file between two peers, exchange data, and show that everything arrived."""
    _log_to_stderr(logging.WARNING)
    try:
        from .demo import run_demo
    except ModuleNotFoundError as error:
        typer.echo(f"Error: the demo needs {error.name}: pip install 'metered-realtime-mesh[all]'", err=True)
        raise typer.Exit(1) from None
    try:
        ok = asyncio.run(run_demo(media, output, port=port, stay=stay))
    except OSError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if ok else 1)


@app.command()
def keys() -> None:
    """Print a new publishable key and a new secret pair, as lines for an environment file."""
    secret_id, secret = new_secret_pair()
    for name, value in (("API_KEY", new_publishable_key()), ("SECRET_ID", secret_id), ("SECRET", secret)):
        typer.echo(f"METERED_{name}={value}")


@app.command()
def mint(
    peer_id: Annotated[str, typer.Argument(help="The id that the peer gets.")],
    secret_id: SecretId = None,
    secret: Secret = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel or pattern that the token is limited to; repeatable.")
    ] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="publish, subscribe, presence or send; repeatable.")
    ] = None,
    expires_in: Annotated[int, typer.Option(help="Seconds until the token expires.")] = 3600,
    metadata: Annotated[str | None, typer.Option(help="JSON object for the peer alone.")] = None,
    peer_metadata: Annotated[str | None, typer.Option(help="JSON object that other peers see.")] = None,
) -> None:
    """Print a token for a peer, signed with a secret key."""
    if secret_id is None or secret is None:
        raise typer.BadParameter("a secret key is needed: set METERED_SECRET_ID and METERED_SECRET")
    typer.echo(
        _checked(
            lambda: mint_token(
                secret_id=secret_id,
                secret=secret,
                peer_id=peer_id,
                channels=channel,
                permissions=permission,
                expires_in=expires_in,
                metadata=_json_object("metadata", metadata),
                peer_metadata=_json_object("peer_metadata", peer_metadata),
            )
        )
    )


async def _serve(server: SignallingServer, announce: Callable[[SignallingServer], None]) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    async with server:
        announce(server)
        await stop.wait()


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def _print_json(server: SignallingServer) -> None:
    line = {"url": server.url, "api_key": server.api_key, "secret_id": server.secret_id, "secret": server.secret}
    print(json.dumps(line), flush=True)


def _print_banner(server: SignallingServer) -> None:
    rows = (
        ("Room page", server.http_url),
        ("Signalling", server.url),
        ("API key", server.api_key),
        ("Secret id", server.secret_id),
        ("Secret", server.secret),
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold green]metered-realtime is listening[/]\n")
    for name, value in rows:
        console.print(f"  [bold]{name:<12}[/]{escape(value)}")
    console.print("\nJoin from Python:\n")
    console.print(Syntax(_snippet(server), "python", background_color="default"))
    console.print("\nCtrl-C stops it.")


def _snippet(server: SignallingServer) -> str:
    return (
        f'async with MeteredPeer(url="{server.url}", api_key="{server.api_key}") as peer:\n'
        f'    await peer.join("lobby")\n'
        f'    await peer.send({{"hello": "everybody"}})'
    )


def _checked(make: Callable[[], Any]) -> Any:
    """Return what `make` makes; an argument that it refuses ends the program with exit code 2."""
    try:
        return make()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _json_object(name: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {text!r} ({error})") from None


def _log_to_stderr(level: int) -> None:
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s")
