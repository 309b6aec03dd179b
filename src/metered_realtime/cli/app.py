"""The command line, and the commands for the server and the demo.

Those for keys and tokens are in `cli.keys`, for files in `cli.files`, for recordings in `cli.record`, for media servers
in `cli.media_server`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from .._version import __version__
from ..log import StdlibLogger
from ..server import MetricsOptions, SignallingServer, TelemetryOptions, TurnServer
from ..server.config.file import load_config
from ..server.config.schema import DEFAULT_PORT
from ..server.engine.choice import redis_engine
from ..server.engine.contract import EngineUnavailable
from . import bridge, files, keys, media_server, record
from .event_loop import EventLoop
from .event_loop import run as run_on
from .keys import Secret, SecretId, checked
from .logs import LogFormat, log_to_stderr

PROGRAM = "metered-realtime"

app = typer.Typer(
    name=PROGRAM,
    help="WebRTC rooms for Python programs and browsers: the signalling server and its keys.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich boxes would wrap messages, and the keys in them
    add_completion=False,
    pretty_exceptions_enable=False,
)

keys.add_to(app)
files.add_to(app)
record.add_to(app)
bridge.add_to(app)
media_server.add_to(app)


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
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="METERED_TRUSTED_PROXIES",
            help="Address or network whose X-Forwarded-For is trusted; repeatable.",
        ),
    ] = None,
    turn_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", envvar="METERED_TURN_URLS", help="TURN server of the shared secret; repeatable."),
    ] = None,
    turn_secret: Annotated[
        str | None,
        typer.Option(envvar="METERED_TURN_SECRET", help="The secret shared with the TURN servers: static-auth-secret."),
    ] = None,
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
    otel: Annotated[
        bool, typer.Option("--otel", envvar="METERED_OTEL", help="Export traces with OpenTelemetry (OTLP over HTTP).")
    ] = False,
    otel_frames: Annotated[
        float,
        typer.Option(
            metavar="RATIO", envvar="METERED_OTEL_FRAMES", help="Share of publishes and sends that are traced, 0 to 1."
        ),
    ] = 0.0,
    redis_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            envvar="METERED_REDIS_URL",
            help="Redis that several nodes share; repeatable, channels are spread over all.",
        ),
    ] = None,
    node_id: Annotated[
        str | None,
        typer.Option(metavar="NAME", envvar="METERED_NODE_ID", help="Name of this node; a random one by default."),
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
        server = checked(lambda: _configured(config, host, port, redis_url, node_id))
        return _run_server(server, lambda _: _print_address(server, as_json), config, loop)
    telemetry = checked(lambda: TelemetryOptions(frame_ratio=otel_frames)) if otel else None
    server = checked(
        lambda: SignallingServer(
            "127.0.0.1" if host is None else host,
            DEFAULT_PORT if port is None else port,
            api_key=api_key,
            secret_id=secret_id,
            secret=secret,
            ice_servers=_listed(ice_server),
            public_page=public_page,
            tls_cert=tls_cert,
            tls_key=tls_key,
            trusted_proxies=_listed(trusted_proxy),
            turn=_turn(turn_url, turn_secret),
            logger=StdlibLogger(),
            metrics=_metrics(metrics_port, metrics_token),
            telemetry=telemetry,
            engine=redis_engine(_listed(redis_url), StdlibLogger()) if redis_url else None,
            node_id=node_id,
        )
    )
    return _run_server(server, _print_json if as_json else _print_banner, None, loop)


FILE_KEYS = {
    "host": "server.host",
    "port": "server.port",
    "api_key": "publishable_keys.key",
    "secret_id": "secret_keys.id",
    "secret": "secret_keys.secret",
    "ice_server": "ice_servers.urls",
    "public_page": "server.public_page",
    "trusted_proxy": "server.trusted_proxies",
    "turn_url": "turn.urls",
    "turn_secret": "turn.shared_secret",
    "tls_cert": "server.tls_cert",
    "tls_key": "server.tls_key",
    "metrics_port": "metrics.port",
    "metrics_token": "metrics.token",
    "redis_url": "cluster.redis",
    "node_id": "cluster.node_id",
    "otel": "telemetry.traces",
    "otel_frames": "telemetry.frame_ratio",
}
"""The options that the configuration file covers, with their keys in it."""

OVERRIDES = frozenset(("host", "port", "redis_url", "node_id"))
"""Those that override the file. The others do not go with one."""


def _metrics(port: int | None, token: str | None) -> MetricsOptions | None:
    return None if port is None and token is None else MetricsOptions(port=port, token=token)


def _turn(urls: list[str] | None, secret: str | None) -> TurnServer | None:
    if not urls and not secret:
        return None
    if not urls or not secret:
        raise ValueError("--turn-url and --turn-secret go together: give both or neither")
    return TurnServer(urls=_listed(urls), shared_secret=secret)


def _listed(values: list[str] | None) -> list[str]:
    """Return the values of a repeatable option. In the environment commas may separate them, as well as spaces."""
    return [value for text in values or () for value in text.split(",") if value]


def _refuse_beside_config(context: typer.Context) -> None:
    """Refuse options that the file covers. Those from the environment are ignored: it may have keys for other runs."""
    for name in FILE_KEYS.keys() - OVERRIDES:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} does not go with --config: write {FILE_KEYS[name]} in the file")


def _configured(
    path: Path, host: str | None, port: int | None, redis_urls: list[str] | None, node_id: str | None
) -> SignallingServer:
    return SignallingServer.from_config(
        load_config(path),
        host=host,
        port=port,
        logger=StdlibLogger(),
        redis_urls=_listed(redis_urls),
        node_id=node_id,
    )


def _run_server(
    server: SignallingServer, announce: Callable[[SignallingServer], None], config: Path | None, loop: EventLoop
) -> None:
    try:
        with _exported_traces() if server.is_traced else nullcontext():
            run_on(_serve(server, announce, config), loop)
    except OSError as error:
        typer.echo(f"Error: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    except EngineUnavailable as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


def _exported_traces() -> AbstractContextManager[None]:
    try:
        from .telemetry import exported_traces
    except ModuleNotFoundError as error:
        typer.echo(f"Error: traces need {error.name}: pip install 'metered-realtime-mesh[otel]'", err=True)
        raise typer.Exit(1) from None
    return exported_traces()


@app.command()
def demo(
    media: Annotated[Path | None, typer.Argument(help="Media file to stream. Without it, a clip is generated.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the recording and the contact sheet.")] = Path("demo-output"),
    port: Annotated[
        int, typer.Option(parser=_port, metavar="PORT", help="Port of the server, or 0 for a free one.")
    ] = 0,
    stay: Annotated[float, typer.Option(help="Seconds to keep the room open afterwards; inf: until Ctrl-C.")] = 0.0,
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
