"""A WHIP and WHEP endpoint of the tests: a real HTTP server with bare aiortc behind it, and answers as a test asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from metered_realtime import OneShotConnection
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

FRAGMENT = "application/trickle-ice-sdpfrag"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Endpoint:
    """The endpoint. Tests change what it answers, and read what it was asked.

    `answers` replaces the handling of a method by a function, once for each entry.
    """

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    answers: dict[str, list[Handler]] = field(default_factory=dict)
    sends: list[Any] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    rewrite_offer: Callable[[str], str] = str
    rewrite_answer: Callable[[str], str] = str
    patch_status: int = 204
    sessions: dict[str, Any] = field(default_factory=dict)
    tracks: list[Any] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)

    def of(self, method: str) -> list[Seen]:
        return [it for it in self.seen if it.method == method]

    def answer(self, method: str, handler: Handler, times: int = 1) -> None:
        self.answers.setdefault(method, []).extend([handler] * times)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.seen.append(Seen(request.method, request.path, dict(request.headers), body))
        if self.answers.get(request.method):
            return await self.answers[request.method].pop(0)(request)
        match request.method:
            case "POST":
                return await self.post(body)
            case "PATCH":
                return await self._patch(request, body)
            case "DELETE":
                return await self._delete(request)
        return web.Response(status=204, headers=self.headers)  # type: ignore[arg-type]  # a list keeps repeated ones

    async def post(self, offer: str) -> web.Response:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        pc.on("track", self.tracks.append)
        await pc.setRemoteDescription(RTCSessionDescription(self.rewrite_offer(offer), "offer"))
        for track, transceiver in zip(self.sends, pc.getTransceivers(), strict=False):
            transceiver.sender.replaceTrack(track)
            transceiver.direction = "sendonly"
        await pc.setLocalDescription(await pc.createAnswer())
        return self._created(pc, self.rewrite_answer(pc.localDescription.sdp))

    async def unreachable(self, request: web.Request) -> web.StreamResponse:
        """Answer an offer from a connection that is closed already."""
        connection = OneShotConnection()
        answer = await connection.accept_offer(self.of("POST")[-1].body)
        await connection.close()
        return self._created(connection, self.rewrite_answer(answer))

    async def native(self, request: web.Request) -> web.StreamResponse:
        """Answer an offer from a native connection, which restarts ICE."""
        connection = OneShotConnection(self.sends, restart_window=PATIENCE)
        return self._created(connection, await connection.accept_offer(self.of("POST")[-1].body))

    def _created(self, session: Any, answer: str) -> web.Response:
        name = f"s{next(self.numbers)}"
        self.sessions[name] = session
        headers = [("Location", f"../sessions/{name}"), ("ETag", '"first"'), *self.headers]
        return web.Response(
            status=201,
            body=answer.encode(),
            content_type="application/sdp",
            headers=headers,  # type: ignore[arg-type]
        )

    async def _patch(self, request: web.Request, body: str) -> web.Response:
        if self.patch_status != 204:
            return web.Response(status=self.patch_status)
        pc = self.sessions[request.path.rpartition("/")[2]]
        for line in body.splitlines():
            if line.startswith("a=candidate:"):
                self.candidates.append(line)
                candidate = candidate_from_sdp(line.removeprefix("a=candidate:"))
                candidate.sdpMid = "0"
                await pc.addIceCandidate(candidate)
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        if name not in self.sessions:
            return web.Response(status=404)
        self.ended.append(name)
        await asyncio.shield(close(self.sessions.pop(name)))  # the client may not wait for it
        return web.Response(status=200)

    async def close(self) -> None:
        while self.sessions:
            await close(self.sessions.popitem()[1])


async def close(session: Any) -> None:
    """Close a connection. A bare one that is closed while it connects would leave tasks behind."""
    if isinstance(session, RTCPeerConnection):
        await eventually(lambda: session.connectionState != "connecting")
    await session.close()


async def serve(handle: Handler) -> tuple[web.AppRunner, str]:
    """Run a server on a free port of this host. Return it with its origin."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    runner, origin = await serve(endpoint.handle)
    endpoint.url = f"{origin}/live/whip"
    yield endpoint
    await endpoint.close()
    await runner.cleanup()


def replies(status: int, **options: Any) -> Handler:
    """Return a handler that answers a request in this way."""

    async def reply(request: web.Request) -> web.Response:
        return web.Response(status=status, **options)

    return reply


def hangs(reached: asyncio.Event) -> Handler:
    """Return a handler that answers no request."""

    async def hang(request: web.Request) -> web.Response:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    return hang
