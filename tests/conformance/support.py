"""Clients of the servers in the conformance tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from metered_realtime.options import ReconnectOptions
from metered_realtime.server import SignallingServer
from metered_realtime.signalling import SignallingClient
from tests.support.inside import socket_of
from tests.support.patience import PATIENCE
from tests.support.programs import Diary

AT_ONCE = ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=5)


@asynccontextmanager
async def client_at(url: str, **options: Any) -> AsyncIterator[tuple[SignallingClient, Diary]]:
    """Create a client that reconnects at once, without connecting it, and record its events."""
    options.setdefault("reconnect", AT_ONCE)
    client = SignallingClient(url=url, **options)
    diary = Diary(client)
    try:
        async with asyncio.timeout(PATIENCE):
            yield client, diary
    finally:
        await client.close()


@asynccontextmanager
async def connected(
    server: SignallingServer, peer_id: str = "ann", **claims: Any
) -> AsyncIterator[tuple[SignallingClient, Diary]]:
    """Connect a client as a peer, with a token of these claims."""
    async with client_at(server.url, token_provider=tokens(server, peer_id, **claims)) as (client, diary):
        await client.connect()
        yield client, diary


def tokens(server: SignallingServer, peer_id: str, **claims: Any) -> Callable[[], str]:
    return lambda: server.mint_token(peer_id, **claims)


def write(client: SignallingClient, frame: str | bytes) -> None:
    """Send a frame that no method of a client sends, over its connection."""
    socket_of(client).write(frame.encode() if isinstance(frame, str) else frame)
