"""A signalling server that is up to no good: it welcomes, acknowledges, and says what an attack wants."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Speech = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def hostile_server(speech: Speech, metadata: dict[str, Any] | None = None) -> AsyncIterator[str]:
    """Run a server that begins its speech at the first subscription. Yield its address."""

    async def converse(socket: ServerConnection) -> None:
        welcome = {"type": "welcome", "peerId": "m", "expiresAt": None, "serverTime": 1, "maxMessageSize": 65536}
        await socket.send(json.dumps(welcome | {"metadata": metadata}))
        speaking: asyncio.Future[None] | None = None
        try:
            async for text in socket:
                frame = json.loads(text)
                if "requestId" in frame:
                    await socket.send(json.dumps({"type": "ack", "requestId": frame["requestId"]}))
                if frame["type"] == "subscribe" and speaking is None:
                    speaking = asyncio.ensure_future(_speak(speech, socket))
        finally:
            if speaking is not None:
                speaking.cancel()

    quiet = logging.Logger("hostile server", logging.CRITICAL)
    async with serve(converse, "127.0.0.1", 0, logger=quiet, max_size=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def _speak(speech: Speech, socket: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        await speech(socket)


def presence(joined: list[str], left: list[str]) -> str:
    """Return a presence frame."""
    return json.dumps(
        {
            "type": "presence",
            "channel": "c",
            "joined": [{"peerId": name} for name in joined],
            "left": [{"peerId": name} for name in left],
        }
    )
