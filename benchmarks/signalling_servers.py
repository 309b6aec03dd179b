"""The two servers that `benchmarks.signalling` measures, each in a process of its own.

    python -m benchmarks.signalling_servers ours|bare

prints the port, and then answers each line on its standard input with its resident bytes and CPU seconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.server import ServerConnection, serve

from metered_realtime.server import SignallingServer
from metered_realtime.server.keys import App, PublishableKey
from metered_realtime.server.limits import Limits
from metered_realtime.server.rights import ACTIONS

KEY = "pk_live_benchmark"
ENDLESS = 10**9

UNBOUNDED = Limits(
    frames_per_second=ENDLESS, frame_burst=ENDLESS, connects_per_address=ENDLESS, channels_per_connection=ENDLESS
)
"""No rate and no number of connects per address: all the load comes from one machine."""


async def run_ours() -> None:
    """Be the server of this package, with a key that does what the bare server does: no presence."""
    key = PublishableKey(key=KEY, actions=ACTIONS - {"presence"})
    async with SignallingServer(apps=[App("benchmark", (key,))], limits=UNBOUNDED) as server:
        await _report(server.port)


class Bare:
    """What a program would write on `websockets` alone: channels and directs, and no checks at all."""

    def __init__(self) -> None:
        self._peers: dict[str, ServerConnection] = {}
        self._channels: dict[str, set[ServerConnection]] = {}

    async def serve(self, socket: ServerConnection) -> None:
        """Serve one connection."""
        peer_id = str(uuid.uuid4())
        self._peers[peer_id] = socket
        await socket.send(_pack({"type": "welcome", "peerId": peer_id, "maxMessageSize": 65_536}))
        joined: list[str] = []
        try:
            async for text in socket:
                await self._take(socket, peer_id, json.loads(text), joined)
        finally:
            del self._peers[peer_id]
            for channel in joined:
                self._channels[channel].discard(socket)

    async def _take(self, socket: ServerConnection, peer_id: str, frame: dict[str, Any], joined: list[str]) -> None:
        match frame["type"]:
            case "subscribe":
                self._channels.setdefault(frame["channel"], set()).add(socket)
                joined.append(frame["channel"])
            case "publish":
                message = {"type": "message", "channel": frame["channel"], "from": peer_id, "data": frame["data"]}
                receivers = self._channels.get(frame["channel"], set()) - {socket}
                websockets.broadcast(receivers, _pack(message))
            case "send":
                await self._peers[frame["to"]].send(_pack({"type": "direct", "from": peer_id, "data": frame["data"]}))
        await socket.send(_pack({"type": "ack", "requestId": frame["requestId"]}))


async def run_bare() -> None:
    """Be a bare `websockets` server. Without compression, which costs it most of its memory and speed."""
    silent = logging.Logger("bare", logging.CRITICAL + 1)  # clients leave without a word
    async with serve(Bare().serve, "127.0.0.1", 0, compression=None, logger=silent) as server:
        await _report(next(iter(server.sockets)).getsockname()[1])


def _pack(frame: dict[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"))


async def _report(port: int) -> None:
    """Print the port, then answer questions about resources until the parent is gone."""
    print(port, flush=True)
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer() -> None:
        gc.collect()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(_resident(), usage.ru_utime + usage.ru_stime, flush=True)

    def listen() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(answer)
        loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=listen, daemon=True).start()
    await gone.wait()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run({"ours": run_ours, "bare": run_bare}[sys.argv[1]]())
