"""The servers that `benchmarks.signalling`, `broadcast` and `scale` measure, each in a process of its own.

    python -m benchmarks.signalling_servers ours|present|bare|picows [asyncio|uvloop]

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
from collections.abc import Callable
from dataclasses import replace
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
    frames_per_second=ENDLESS,
    frame_burst=ENDLESS,
    connects_per_address=ENDLESS,
    connections_per_address=ENDLESS,
    channels_per_connection=ENDLESS,
    ping_interval=ENDLESS,
)
"""No rate, and no number of connections per address: all the load comes from one machine. No pings, which its clients
do not answer."""


async def run_ours() -> None:
    """Be the server of this package, with a key that does what the bare server does: no presence."""
    key = PublishableKey(key=KEY, actions=ACTIONS - {"presence"})
    async with SignallingServer(apps=[App("benchmark", (key,))], limits=UNBOUNDED) as server:
        await _report(server.port)


async def run_present() -> None:
    """Be the server of this package with presence and its default pings, for clients that answer them."""
    key = PublishableKey(key=KEY, actions=ACTIONS)
    limits = replace(UNBOUNDED, ping_interval=Limits().ping_interval)
    async with SignallingServer(apps=[App("benchmark", (key,))], limits=limits) as server:
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
    async with serve(Bare().serve, "127.0.0.1", 0, compression=None, ping_interval=None, logger=silent) as server:
        await _report(next(iter(server.sockets)).getsockname()[1])


async def run_picows() -> None:
    """Be the same bare server on `picows`, whose sending and parsing is compiled."""
    import picows

    peers: dict[str, picows.WSTransport] = {}
    channels: dict[str, set[picows.WSTransport]] = {}
    text = picows.WSMsgType.TEXT

    class Listener(picows.WSListener):  # type: ignore[misc]
        """One connection."""

        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            """Welcome the client."""
            self.peer_id = str(uuid.uuid4())
            self.joined: list[str] = []
            peers[self.peer_id] = transport
            welcome = {"type": "welcome", "peerId": self.peer_id, "maxMessageSize": 65_536}
            transport.send(text, _pack(welcome).encode())

        def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
            """Forget the client."""
            del peers[self.peer_id]
            for channel in self.joined:
                channels[channel].discard(transport)

        def on_ws_frame(self, transport: picows.WSTransport, received: picows.WSFrame) -> None:
            """Handle a frame."""
            frame = json.loads(received.get_payload_as_utf8_text())
            match frame["type"]:
                case "subscribe":
                    channels.setdefault(frame["channel"], set()).add(transport)
                    self.joined.append(frame["channel"])
                case "publish":
                    message = {"type": "message", "channel": frame["channel"], "from": self.peer_id}
                    packed = _pack(message | {"data": frame["data"]}).encode()
                    for receiver in channels.get(frame["channel"], set()) - {transport}:
                        receiver.send(text, packed)
                case "send":
                    direct = {"type": "direct", "from": self.peer_id, "data": frame["data"]}
                    peers[frame["to"]].send(text, _pack(direct).encode())
            transport.send(text, _pack({"type": "ack", "requestId": frame["requestId"]}).encode())

    server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0)
    async with server:
        await _report(server.sockets[0].getsockname()[1])


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


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop. None for asyncio's own."""
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def main(server: str, loop: str = "asyncio") -> None:
    """Be a server until the parent is gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = {"ours": run_ours, "present": run_present, "bare": run_bare, "picows": run_picows}[server]
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
