"""Shared by the commands that run a peer: server, credential, and signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from ..errors import MeteredRealtimeError

INTERRUPTED = 130
"""The exit code that shells expect after Ctrl-C."""

Channel = Annotated[str, typer.Option(help="Channel to join.")]
Url = Annotated[str | None, typer.Option(envvar="METERED_URL", help="URL of the server, ws:// or wss://. Required.")]
Key = Annotated[str | None, typer.Option("--key", envvar="METERED_API_KEY", help="Publishable key, pk_live_….")]
Token = Annotated[str | None, typer.Option(envvar="METERED_TOKEN", help="Token, from `mint`, instead of a key.")]
Insecure = Annotated[
    bool, typer.Option("--allow-insecure-url", help="Allow ws:// to other hosts, which sends credentials unencrypted.")
]


def peer_options(url: str | None, key: str | None, token: str | None, allow_insecure_url: bool) -> dict[str, Any]:
    """Return the keyword arguments of a `MeteredPeer` with this credential."""
    if url is None:
        raise typer.BadParameter("a server is needed: --url or METERED_URL")
    if token is not None:  # the environment may have a key for other programs
        return {"token": token, "url": url, "allow_insecure_url": allow_insecure_url}
    if key is None:
        raise typer.BadParameter("a credential is needed: --key or --token, METERED_API_KEY or METERED_TOKEN")
    return {"api_key": key, "url": url, "allow_insecure_url": allow_insecure_url}


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run a command and return its exit code. SIGINT and SIGTERM cancel it, so that it closes properly."""
    try:
        code = asyncio.run(_until_signal(work))
    except ModuleNotFoundError as error:
        typer.echo(f"Error: this needs {error.name}: pip install 'metered-realtime-mesh[all]'", err=True)
        code = 1
    except (MeteredRealtimeError, OSError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        code = 1
    raise typer.Exit(code)


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, task.cancel)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(task.cancel))
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED
