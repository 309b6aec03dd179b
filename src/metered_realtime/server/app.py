"""The aiohttp application: the WebSocket endpoint, the room page and the health check on one port."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from ..core.frames import GoingAwayFrame, encode
from ..events import WsCloseCode
from ..log import Logger
from .auth import Admission, Authenticator, RefusedError
from .hub import Hub
from .limits import ConnectLimiter, Limits
from .link import CLOSE_TIMEOUT, Link, seal
from .room_page import HEADERS, PageKey, load_page

WEBSOCKET_PATH = "/v1"

OVERSIZE_ALLOWANCE = 4
"""Frames up to so many times the limit are read to their end before the 1009. Beyond that the connection is cut off,
and its client, still writing, may not get to see the code."""

RETRY_AFTER_MS = 1_000
"""What clients are asked to wait before they come back after a shutdown."""


class SignallingApp:
    """Serves one set of apps. Holds every open link, so that `drain` can end them."""

    def __init__(
        self, app_ids: Iterable[str], authenticator: Authenticator, limits: Limits, logger: Logger, page_key: PageKey
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._logger = logger
        self._page_key = page_key
        self._page = load_page()
        self._hubs = {app_id: Hub(limits, seal) for app_id in app_ids}
        self._door = ConnectLimiter(limits.connects_per_address, limits.connect_window)
        self._links: set[Link] = set()
        self._visits: set[asyncio.Task[Any]] = set()
        self._draining = False

    def build(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application()
        application.add_routes(
            [
                web.get(WEBSOCKET_PATH, self._connect),
                web.get("/", self._index),
                web.get("/page/config.json", self._config),
                web.get("/page/{name}", self._file),
                web.get("/healthz", self._health),
            ]
        )
        return application

    async def drain(self, timeout: float) -> None:
        """Ask every client to come back later, and close its connection. New ones are turned away."""
        self._draining = True
        goodbye = seal(encode(GoingAwayFrame(RETRY_AFTER_MS)))
        for link in tuple(self._links):
            link.write(goodbye)
            link.close(WsCloseCode.GOING_AWAY, "going away")
        if self._visits:
            await asyncio.wait(self._visits, timeout=timeout)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        refusal = self._turn_away(request)
        if refusal is not None:
            return refusal
        self._note_visit()
        ws = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT,
            autoclose=False,
            autoping=False,
            compress=False,
            decode_text=False,
            max_msg_size=OVERSIZE_ALLOWANCE * self._limits.max_frame_size,
        )
        await ws.prepare(request)
        try:
            admission = self._admit(request)
        except RefusedError as refused:
            self._logger.info("connection refused", {"code": int(refused.code), "reason": refused.reason})
            await ws.close(code=refused.code, message=refused.reason.encode())
            return ws
        await self._serve(request, ws, admission)
        return ws

    def _turn_away(self, request: web.Request) -> web.Response | None:
        """Return the answer to a handshake that gets no WebSocket at all."""
        if self._draining:
            return web.Response(status=503, headers={"Retry-After": "1"}, text="shutting down\n")
        address, now = request.remote or "", time.monotonic()
        if not self._door.admit(address, now):
            self._logger.warning("too many connection attempts", {"address": address})
            retry_after = math.ceil(self._door.retry_after(address, now))
            return web.Response(status=429, headers={"Retry-After": str(retry_after)}, text="too many attempts\n")
        return None

    def _admit(self, request: web.Request) -> Admission:
        if self._draining:  # it began during the upgrade
            raise RefusedError(WsCloseCode.GOING_AWAY, "going away")
        keys, tokens = request.query.getall("key", []), request.query.getall("token", [])
        return self._authenticator.admit(keys, tokens, request.headers.get("Origin"), time.time())

    def _note_visit(self) -> None:
        visit = asyncio.current_task()
        if visit is not None and visit not in self._visits:
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)

    async def _serve(self, request: web.Request, ws: web.WebSocketResponse[Any], admission: Admission) -> None:
        transport = request.transport
        if transport is None:  # it left while it was being let in
            return
        link = Link(ws, transport, self._hubs[admission.app], self._limits, self._logger)
        self._links.add(link)
        try:
            await link.run(admission.identity)
        finally:
            self._links.discard(link)

    async def _index(self, request: web.Request) -> web.Response:
        return self._page_file("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._page_file(request.match_info["name"])

    def _page_file(self, name: str) -> web.Response:
        file = self._page.get(name)
        if file is None:
            return web.Response(status=404, headers=HEADERS, text="not found\n")
        return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=HEADERS)

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response({"key": self._page_key.shown_to(request.host), "url": WEBSOCKET_PATH}, headers=HEADERS)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")
