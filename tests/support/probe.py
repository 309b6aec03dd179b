"""Test ends: a recorder for the pure hub, and a raw client for the real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from metered_realtime.core.wire.frames import Publish, Send, Subscribe, Unsubscribe, encode_payload
from metered_realtime.server import SignallingServer
from metered_realtime.server.hub import Hub, Identity
from metered_realtime.server.rights import ACTIONS, Grant
from metered_realtime.server.routing import Subscriber

EVERYTHING = Grant(ACTIONS, ("**",))
NOW = 1_800_000_000.0


class Guest:
    """A connection to a hub that records what it is sent."""

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
        """Return what came since the last time."""
        frames, self.frames = self.frames, []
        self.raw.clear()
        return frames


class Probe:
    """A client that speaks the wire and nothing else."""

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
        """Return the close code and reason, after whatever still comes before."""
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


def key_query(server: SignallingServer) -> str:
    return f"key={quote(server.api_key, safe='')}"


@asynccontextmanager
async def dialled(server: SignallingServer, query: str | None = None, **options: Any) -> AsyncIterator[Probe]:
    """Connect with a query, the server's key by default, and do not wait for the welcome."""
    url = f"{server.url}/v1?{key_query(server) if query is None else query}"
    async with connect(url, **options) as socket:
        yield Probe(socket)


@asynccontextmanager
async def welcomed(server: SignallingServer, peer_id: str | None = None, **claims: Any) -> AsyncIterator[Probe]:
    """Connect as a peer, or with the key, and take the welcome."""
    query = None if peer_id is None else f"token={server.mint_token(peer_id, **claims)}"
    async with dialled(server, query) as probe:
        assert (await probe.get())["type"] == "welcome"
        yield probe
