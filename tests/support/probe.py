"""Test clients: a recorder for the pure hub, and a raw WebSocket client for the real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from metered_realtime.core.wire.frames import Publish, Send, Subscribe, Unsubscribe, encode_payload
from metered_realtime.server import SignallingServer
from metered_realtime.server.engine.contract import EngineError, Member
from metered_realtime.server.engine.memory import MemoryEngine
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.server.hub import Hub, Identity, OnChange
from metered_realtime.server.hub.identity import Later
from metered_realtime.server.limits import Limits
from metered_realtime.server.plan import Meter
from metered_realtime.server.rights import ACTIONS, Grant
from metered_realtime.server.routing import Subscriber

APP = "app"


def lone_hub(
    limits: Limits | None = None,
    seal: Callable[[bytes], bytes] = bytes,
    meter: Meter | None = None,
    on_change: OnChange | None = None,
    later: Later = lambda seconds, function: None,
) -> Hub:
    """Return the only hub of an engine in memory. No time passes for it, and `later` never comes."""
    engine = MemoryEngine(MemoryStore(lambda: 0.0, name="run"))
    hub = Hub(engine, APP, limits, seal, meter, on_change, origin="node", later=later)
    engine.attach("node", hub)
    return hub


def roster_of(hub: Hub, channel: str) -> list[str]:
    """Return the ids of all peers in a channel, over all nodes."""
    found: list[str] = []

    def done(outcome: tuple[Member, ...] | EngineError) -> None:
        assert not isinstance(outcome, EngineError)
        found.extend(member.peer_id for member in outcome)

    hub._engine.roster(APP, channel, done)
    return found


EVERYTHING = Grant(ACTIONS, ("**",))
NOW = 1_800_000_000.0


class Guest:
    """A subscriber of a hub that records the frames sent to it."""

    def __init__(
        self,
        hub: Hub,
        peer_id: str,
        grant: Grant = EVERYTHING,
        metadata: dict[str, Any] | None = None,
        replaced: Sequence[Guest] = (),
    ) -> None:
        self.peer_id = peer_id
        self.frames: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self._hub = hub
        packed = None if metadata is None else encode_payload(metadata)
        identity, former = Identity(peer_id, grant, peer_metadata=packed), [guest.subscriber for guest in replaced]
        self.subscriber: Subscriber = hub.connect(identity, self._write, NOW, former)
        self.welcome = self.frames.pop()
        self.raw.clear()

    def _write(self, frame: bytes) -> None:
        self.raw.append(frame)
        self.frames.append(json.loads(frame))

    def subscribe(self, channel: str, request_id: str | None = None, *, wants_metadata: bool = False) -> None:
        self._hub.handle(self.subscriber, Subscribe(channel, wants_metadata, request_id))

    def unsubscribe(self, channel: str, request_id: str | None = None) -> None:
        self._hub.handle(self.subscriber, Unsubscribe(channel, request_id))

    def publish(self, channel: str, data: Any = None, request_id: str | None = None) -> None:
        self._hub.handle(self.subscriber, Publish(channel, encode_payload(data), request_id))

    def send(self, to: str, data: Any = None, request_id: str | None = None) -> None:
        self._hub.handle(self.subscriber, Send(to, encode_payload(data), request_id))

    def leave(self) -> None:
        self._hub.disconnect(self.subscriber)

    def take(self) -> list[dict[str, Any]]:
        """Return the frames since the last call."""
        frames, self.frames = self.frames, []
        self.raw.clear()
        return frames


class Probe:
    """A client that sends and receives frames and does nothing else."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def put(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def get(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.socket.recv())
        return frame

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a request and return the next frame."""
        await self.put(type, requestId="r", **fields)
        return await self.get()

    async def join(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Subscribe and return the snapshot."""
        assert await self.ask("subscribe", channel=channel, **fields) == {"type": "ack", "requestId": "r"}
        return await self.get()

    async def ending(self) -> tuple[int, str]:
        """Return the close code and reason, skipping frames before the close."""
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


def key_query(server: SignallingServer) -> str:
    return f"key={quote(server.api_key, safe='')}"


@asynccontextmanager
async def dialled(server: SignallingServer, query: str | None = None, **options: Any) -> AsyncIterator[Probe]:
    """Connect with a query, by default with the server's key, without waiting for the welcome."""
    url = f"{server.url}/v1?{key_query(server) if query is None else query}"
    async with connect(url, **options) as socket:
        yield Probe(socket)


@asynccontextmanager
async def welcomed(server: SignallingServer, peer_id: str | None = None, **claims: Any) -> AsyncIterator[Probe]:
    """Connect as a peer, or with the key, and read the welcome."""
    query = None if peer_id is None else f"token={server.mint_token(peer_id, **claims)}"
    async with dialled(server, query) as probe:
        assert (await probe.get())["type"] == "welcome"
        yield probe
