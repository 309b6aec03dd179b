"""The command `bridge`, which hosts WHIP and WHEP endpoints on a channel."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..events.bridge import BridgeSessionClosed, BridgeSessionConnected, BridgeSessionOpened
from ..log import StdlibLogger
from .logs import log_to_stderr
from .peers import Channel, Insecure, Url, peer_options, run

if TYPE_CHECKING:
    from ..bridge.bridge import Bridge

BridgeEvent = BridgeSessionOpened | BridgeSessionConnected | BridgeSessionClosed


def add_to(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("bridge")(bridge)


def bridge(
    channel: Channel,
    url: Url = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", "--key", envvar="METERED_API_KEY", help="Publishable key, pk_live_….")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 picks a free one.")] = 7881,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="METERED_BRIDGE_TOKEN",
            help="Bearer token that clients need, instead of tokens of the channel. They join by the bridge's key.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print URLs and events as lines of JSON.")] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain in PEM format, for https.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the certificate, in PEM format.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log refused requests.")] = False,
    allow_insecure_url: Insecure = False,
) -> None:
    """Host WHIP and WHEP endpoints: encoders join a channel, and players watch it. Ends with Ctrl-C."""
    options = peer_options(url, api_key, None, allow_insecure_url)
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    more = {"host": host, "port": port, "token": token, "tls_cert": tls_cert, "tls_key": tls_key}
    run(_bridge(channel, {**options, **more}, as_json))


async def _bridge(channel: str, options: dict[str, Any], as_json: bool) -> int:
    from ..bridge.bridge import Bridge

    endpoints = Bridge(channel, logger=StdlibLogger(), **options)
    show = _show_json if as_json else _show_words
    for event_type in (BridgeSessionOpened, BridgeSessionConnected, BridgeSessionClosed):
        endpoints.on(event_type, show)
    async with endpoints:
        _announce(endpoints, as_json)
        await asyncio.get_running_loop().create_future()  # until a signal cancels
    return 0


def _announce(endpoints: Bridge, as_json: bool) -> None:
    urls = {"whip": endpoints.whip_url, "whep": endpoints.whep_url}
    if as_json:
        _print(json.dumps(urls))
        return
    _print(f"publish to {urls['whip']}\nwatch at   {urls['whep']}, or one participant at {urls['whep']}/PEER-ID")
    _print("Ctrl-C ends all sessions.")


def _show_json(event: BridgeEvent) -> None:
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    kind = type(event).__name__.removeprefix("BridgeSession").lower()
    _print(json.dumps({"event": kind, **{name: value for name, value in fields.items() if value not in (None, "")}}))


def _show_words(event: BridgeEvent) -> None:
    who = f"{event.role} {event.number}"
    match event:
        case BridgeSessionOpened(role="publisher"):
            name = f" ({event.name})" if event.name else ""
            _print(f"{who}: {event.address} joined as {event.peer_id}{name}")
        case BridgeSessionOpened():
            _print(f"{who}: {event.address} watches {event.peer_id or 'the room'}")
        case BridgeSessionConnected():
            _print(f"{who}: connected")
        case BridgeSessionClosed():
            _print(f"{who}: ended, {event.reason}{f' ({event.detail})' if event.detail else ''}")


def _print(text: str) -> None:
    print(text, flush=True)
