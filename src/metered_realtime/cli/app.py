"""The commands for the server, keys and tokens.

Those for files are in `cli.files`, for recordings in `cli.record`, for media servers in `cli.media_server`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from .._version import __version__
from ..log import StdlibLogger
from ..server import MetricsOptions, SignallingServer, mint_token, new_webhook_secret
from ..server.config.file import DEFAULT_APP, ConfigError, load_config
from ..server.config.keyfile import create_key, revoke_key
from ..server.config.schema import DEFAULT_PORT, KeyKind
from ..server.keys import (
    DEFAULT_PUBLISHABLE_ACTIONS,
    PublishableKey,
    SecretKey,
    new_publishable_key,
    new_secret_pair,
)
from ..server.rights import ACTIONS
from . import bridge, files, media_server, record
from .event_loop import EventLoop
from .event_loop import run as run_on
from .logs import LogFormat, log_to_stderr

PROGRAM = "metered-realtime"

ACTIONS_FOR = {"calls": ACTIONS, "messages": DEFAULT_PUBLISHABLE_ACTIONS}

CANNOT_CALL = """\
Note: this key is for publish/subscribe and presence alone. Peers that use it cannot call each other: audio, video and
data between them need the action "send", which lets the key address every peer of the app. To grant it, use
--for calls. To omit this note, use --for messages."""

T = TypeVar("T")

app = typer.Typer(
    name=PROGRAM,
    help="WebRTC rooms for Python programs and browsers: the signalling server and its keys.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich boxes would wrap messages, and the keys in them
    add_completion=False,
    pretty_exceptions_enable=False,
)

keys_app = typer.Typer(help="Create keys, and manage those in a configuration file.", rich_markup_mode=None)
app.add_typer(keys_app, name="keys")
files.add_to(app)
record.add_to(app)
bridge.add_to(app)
media_server.add_to(app)

ConfigFile = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration file.")]
SecretId = Annotated[str | None, typer.Option("--secret-id", envvar="METERED_SECRET_ID", help="Id of a secret key.")]
Secret = Annotated[
    str | None, typer.Option("--secret", envvar="METERED_SECRET", help="The secret itself; better in the environment.")
]


def run() -> None:
    """Run the command line with the arguments of this process."""
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
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Configuration file, TOML. SIGHUP reloads it."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(parser=_port, metavar="PORT", help="7880 by default; 0 picks a free one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print URL and keys as one line of JSON.")] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="METERED_API_KEY", help="Publishable key (pk_live_…) to use instead of a new one."),
    ] = None,
    secret_id: SecretId = None,
    secret: Secret = None,
    ice_server: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="STUN or TURN server for clients; repeatable.")
    ] = None,
    public_page: Annotated[
        bool, typer.Option("--public-page", help="Give the publishable key to all visitors of the room page.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain in PEM format, for https and wss.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the certificate, in PEM format.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(parser=_port, metavar="PORT", help="Serve /metrics for Prometheus on a port of this machine."),
    ] = None,
    metrics_token: Annotated[
        str | None,
        typer.Option(envvar="METERED_METRICS_TOKEN", help="Serve /metrics beside the rest, to those with this token."),
    ] = None,
    loop: Annotated[
        EventLoop, typer.Option(help="Event loop. auto is uvloop if it is installed, asyncio's own otherwise.")
    ] = EventLoop.AUTO,
    log_format: Annotated[LogFormat, typer.Option(help="Log lines for people, or objects of JSON.")] = LogFormat.TEXT,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log all connections, and how they end.")] = False,
) -> None:
    """Run the signalling server and the room page until SIGINT or SIGTERM."""
    log_to_stderr(logging.INFO if verbose else logging.WARNING, log_format)
    if config is not None:
        _refuse_beside_config(context)
        server = _checked(lambda: _configured(config, host, port))
        return _run_server(server, lambda _: _print_address(server, as_json), config, loop)
    server = _checked(
        lambda: SignallingServer(
            "127.0.0.1" if host is None else host,
            DEFAULT_PORT if port is None else port,
            api_key=api_key,
            secret_id=secret_id,
            secret=secret,
            ice_servers=ice_server or (),
            public_page=public_page,
            tls_cert=tls_cert,
            tls_key=tls_key,
            logger=StdlibLogger(),
            metrics=_metrics(metrics_port, metrics_token),
        )
    )
    return _run_server(server, _print_json if as_json else _print_banner, None, loop)


_NOT_WITH_CONFIG = (
    "api_key",
    "secret_id",
    "secret",
    "ice_server",
    "public_page",
    "tls_cert",
    "tls_key",
    "metrics_port",
    "metrics_token",
)


def _metrics(port: int | None, token: str | None) -> MetricsOptions | None:
    return None if port is None and token is None else MetricsOptions(port=port, token=token)


def _refuse_beside_config(context: typer.Context) -> None:
    """Refuse options that the file covers. Those from the environment are ignored: it may have keys for other runs."""
    for name in _NOT_WITH_CONFIG:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} does not go with --config: write it in the file")


def _configured(path: Path, host: str | None, port: int | None) -> SignallingServer:
    return SignallingServer.from_config(load_config(path), host=host, port=port, logger=StdlibLogger())


def _run_server(
    server: SignallingServer, announce: Callable[[SignallingServer], None], config: Path | None, loop: EventLoop
) -> None:
    try:
        run_on(_serve(server, announce, config), loop)
    except OSError as error:
        typer.echo(f"Error: {error.strerror}", err=True)
        raise typer.Exit(1) from None


@app.command()
def demo(
    media: Annotated[Path | None, typer.Argument(help="Media file to stream. Without it, a clip is generated.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the recording and the contact sheet.")] = Path("demo-output"),
    port: Annotated[
        int, typer.Option(parser=_port, metavar="PORT", help="Port of the server, or 0 for a free one.")
    ] = 0,
    stay: Annotated[float, typer.Option(help="Seconds to keep the channel open afterwards.")] = 0.0,
) -> None:
    """Stream a media file between two peers, exchange data, and show that everything arrived."""
    log_to_stderr(logging.WARNING)
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


@keys_app.callback(invoke_without_command=True)
def _keys(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _print_new_keys()


@keys_app.command("webhook-secret")
def _new_webhook_secret() -> None:
    """Print a new secret that signs webhooks."""
    print(new_webhook_secret())


@keys_app.command("new")
def _new_keys() -> None:
    """Print a new publishable key and a new secret pair, as lines for an environment file."""
    _print_new_keys()


@keys_app.command("create")
def _create_key(
    config: ConfigFile,
    kind: Annotated[KeyKind, typer.Option(help="publishable for clients, secret for backends.")],
    app_id: Annotated[str, typer.Option("--app", help="The app that the key belongs to.")] = DEFAULT_APP,
    pattern: Annotated[list[str] | None, typer.Option(help="Channels in scope, all by default; repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="publish, subscribe, presence or send; repeatable.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Origin of web pages to admit; repeatable.")] = None,
    purpose: Annotated[
        Literal["calls", "messages"] | None,
        typer.Option(
            "--for",
            help="Instead of --action. calls: all actions, for audio, video and data between peers. "
            "messages: all actions except send, the default of publishable keys.",
        ),
    ] = None,
) -> None:
    """Append a new key to a configuration file, and print it. Its secret is not shown again.

    A publishable key is for calls only with --for calls: they need the action send, which a public key gets on request
    only.
    """
    if action and purpose:
        raise typer.BadParameter("--for and --action say the same: give one of them")
    actions = sorted(ACTIONS_FOR[purpose]) if purpose else action or ()
    credentials = _checked_file(
        lambda: create_key(config, kind, app=app_id, patterns=pattern or (), actions=actions, origins=origin or ())
    )
    for name, value in credentials.items():
        typer.echo(f"{name} = {value}")
    if kind == "publishable" and not actions:
        typer.echo(CANNOT_CALL, err=True)


@keys_app.command("list")
def _list_keys(config: ConfigFile) -> None:
    """List the keys of a configuration file, without secrets."""
    for known in _checked_file(lambda: load_config(config)).apps:
        for publishable in known.publishable_keys:
            _print_key(known.id, "publishable", publishable.key, publishable)
        for secret in known.secret_keys:
            _print_key(known.id, "secret", secret.id, secret)


@keys_app.command("revoke")
def _revoke_key(
    config: ConfigFile, key: Annotated[str, typer.Argument(help="A publishable key, or the id of a secret key.")]
) -> None:
    """Mark a key as revoked in a configuration file. A running server applies it on SIGHUP."""
    _checked_file(lambda: revoke_key(config, key))


def _print_key(app_id: str, kind: str, name: str, key: PublishableKey | SecretKey) -> None:
    row = (app_id, kind, name, ",".join(key.channel_patterns), ",".join(sorted(key.actions)))
    typer.echo("\t".join((*row, "revoked" if key.revoked else "active")))


def _print_new_keys() -> None:
    secret_id, secret = new_secret_pair()
    for name, value in (("API_KEY", new_publishable_key()), ("SECRET_ID", secret_id), ("SECRET", secret)):
        typer.echo(f"METERED_{name}={value}")


@app.command()
def mint(
    peer_id: Annotated[str, typer.Argument(help="The id of the peer.")],
    secret_id: SecretId = None,
    secret: Secret = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel or pattern that the token is limited to; repeatable.")
    ] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="publish, subscribe, presence or send; repeatable.")
    ] = None,
    expires_in: Annotated[int, typer.Option(help="Seconds until the token expires.")] = 3600,
    metadata: Annotated[str | None, typer.Option(help="JSON object for the peer only.")] = None,
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


async def _serve(server: SignallingServer, announce: Callable[[SignallingServer], None], config: Path | None) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    async with server:
        if config is not None:
            _on_hang_up(lambda: _reload(server, config))
        announce(server)
        await stop.wait()


def _on_hang_up(reload: Callable[[], None]) -> None:
    if hasattr(signal, "SIGHUP"):  # not on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _reload(server: SignallingServer, path: Path) -> None:
    try:
        server.reload(load_config(path))
    except ValueError as error:
        StdlibLogger().error("configuration kept: the new one cannot be used", {"error": str(error)})


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def _print_json(server: SignallingServer) -> None:
    line = {"url": server.url, "api_key": server.api_key, "secret_id": server.secret_id, "secret": server.secret}
    if server.metrics_url is not None:
        line["metrics"] = server.metrics_url
    print(json.dumps(line), flush=True)


def _print_address(server: SignallingServer, as_json: bool) -> None:
    text = json.dumps({"url": server.url}) if as_json else f"metered-realtime is listening on {server.http_url}"
    print(text, flush=True)


def _print_banner(server: SignallingServer) -> None:
    rows = [
        ("Room page", server.http_url),
        ("Signalling", server.url),
        ("API key", server.api_key),
        ("Secret id", server.secret_id),
        ("Secret", server.secret),
    ]
    if server.metrics_url is not None:
        rows.append(("Metrics", server.metrics_url))
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
    """Return the result of `make`. A ValueError ends the program with exit code 2."""
    try:
        return make()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _checked_file(make: Callable[[], T]) -> T:
    """Return the result of `make`. An unusable file ends the program with exit code 1."""
    try:
        return make()
    except (ConfigError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


def _json_object(name: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {text!r} ({error})") from None
