"""The aiohttp application: the WebSocket endpoint, REST, the room page and the health check on one port."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from ..core.wire.frames import GoingAwayFrame, encode
from ..events import WsCloseCode
from ..log import Logger
from .auth import Admission, Authenticator, RefusedError
from .client_log import ClientLog
from .client_socket import CLOSE_TIMEOUT, INVALID_TEXT, OUTBOX_FULL, ClientSocket, Ending, seal
from .engine.contract import Engine
from .frame_heads import POLICY_VIOLATION, PROTOCOL_ERROR
from .keys import App
from .limits import Limits, RateLimiter
from .listening.door import Door
from .listening.proxies import Network, client_address, network_of
from .metrics.endpoint import MetricsEndpoint, MetricsOptions
from .metrics.times import Durations
from .node import Node
from .outbox import LoopTurn
from .rest.api import RestApi, not_found
from .room_page import HEADERS, PageKey, load_page
from .telemetry.hooks import ConnectionTrace, Tracing
from .tenant import Tenant
from .webhooks.sender import WebhookSender

WEBSOCKET_PATH = "/v1"

OPENAPI_PATH = "/v1/openapi.json"

OVERSIZE_ALLOWANCE = 4
"""Frames up to this many times the limit are read to their end before the close with 1009. With a larger one the
connection is dropped, and its client, still writing, may not see the close code."""

RETRY_AFTER_MS = 1_000
"""Milliseconds that clients are asked to wait before they reconnect after a shutdown of the only node."""

RETRY_SPREAD_MS = (100, 2_000)
"""The same where other nodes are ready: a random time of this range, so that not all clients come to them at once. Well
below `Limits.return_time`, so that nobody sees them leave."""


COMPLAINT_INTERVAL = 60.0
"""Minimum interval in seconds between log lines about too many attempts of one address."""

MISBEHAVIOUR = frozenset(
    (
        PROTOCOL_ERROR,
        POLICY_VIOLATION,
        INVALID_TEXT,
        WsCloseCode.MESSAGE_TOO_BIG,
        WsCloseCode.OVER_MESSAGE_RATE,
    )
)
"""Close codes that are logged as warnings."""


class SignallingApp:
    """The HTTP handlers for a set of apps, and their open sockets.

    Attributes:
        endings: Number of connections that ended or were refused, by reason.
        refusals: Number of those that were refused for their credentials.
        frame_times: How long frames took.
        write_times: How long the writes of a turn of the event loop took.
        webhooks: What tells a backend of presence, None if nobody is told.
        metrics: The handlers of metrics and health.
    """

    def __init__(
        self,
        apps: Mapping[str, App],
        node: Node,
        authenticator: Authenticator,
        limits: Limits,
        logger: Logger,
        page_key: PageKey,
        trusted_proxies: tuple[Network, ...] = (),
        endings: Counter[str] | None = None,
        metrics: MetricsOptions | None = None,
        webhooks: WebhookSender | None = None,
        tracing: Tracing | None = None,
        *,
        is_clustered: bool = False,
    ) -> None:
        self._is_clustered = is_clustered
        self.webhooks = webhooks
        self._tracing = Tracing() if tracing is None else tracing
        self.endings = Counter() if endings is None else endings
        self._authenticator = authenticator
        self._limits = limits
        self._logger: Logger = ClientLog(logger)
        self._page_key = page_key
        self._trusted_proxies = trusted_proxies
        self._page = load_page()
        self._node = node
        self._tenants = {app_id: Tenant(app, node, limits, webhooks) for app_id, app in apps.items()}
        self._door = Door(limits)
        self._complaints = RateLimiter(1 / COMPLAINT_INTERVAL, 1)
        self._rest = RestApi(self._tenants, authenticator, limits, self._logger, self._network, self._tracing)
        self._visits: set[asyncio.Task[Any]] = set()
        self._draining = False
        self.refusals: Counter[str] = Counter()
        self._turn = LoopTurn()
        self.frame_times, self.write_times = Durations(), self._turn.durations
        self.metrics = MetricsEndpoint(self, self._why_not_ready, metrics)
        node.on_revoked = self._revoke

    def build(self, middleware: Middleware) -> web.Application:
        """Return the application with its routes. The middleware is called with each request."""
        application = web.Application(middlewares=[middleware])
        application.add_routes(
            [
                web.get(WEBSOCKET_PATH, self._connect),
                web.get("/", self._index),
                web.get("/page/config.json", self._config),
                web.get("/page/{name}", self._file),
                *self.metrics.public_routes(),
                web.get(OPENAPI_PATH, self._rest.describe),
                web.route("*", r"/v1/{rest:[\s\S]*}", self._rest.handle),
                web.route("*", r"/{nothing:[\s\S]*}", not_found),
            ]
        )
        return application

    def reconfigure(
        self, apps: Mapping[str, App], limits: Limits, page_key: PageKey, trusted_proxies: tuple[Network, ...]
    ) -> None:
        """Replace the apps and limits. Connections that would no longer be admitted are closed."""
        self._door.reconfigure(limits)
        if limits != self._limits:
            self._rest.reconfigure(limits)
        self._limits, self._page_key, self._trusted_proxies = limits, page_key, trusted_proxies
        for app_id, app in apps.items():
            if app_id in self._tenants:
                for key_id in self._tenants[app_id].reconfigure(app, limits):
                    self._node.engine.revoke(app_id, key_id, _ignore)
            else:
                self._tenants[app_id] = Tenant(app, self._node, limits, self.webhooks)
        for socket in self._sockets():
            self._review(socket)
        for app_id in self._tenants.keys() - apps.keys():
            del self._tenants[app_id]
            self._node.leave(app_id)

    async def drain(self, timeout: float) -> None:
        """Send `going_away` to every client and close its connection. New connections are refused.

        Clients are not told that the others leave: all of them reconnect, and calls between them continue meanwhile.
        Nor are those of other nodes, where the places of these clients are kept for a while.
        """
        self._draining = True
        for tenant in self._tenants.values():
            tenant.hub.fall_silent()
        for socket in self._sockets():
            wait = random.randint(*RETRY_SPREAD_MS) if self._is_clustered else RETRY_AFTER_MS
            socket.write(seal(encode(GoingAwayFrame(wait))))
            socket.close(WsCloseCode.GOING_AWAY, "going away")
        if self._visits:
            await asyncio.wait(self._visits, timeout=timeout)
        for tenant in self._tenants.values():
            tenant.meter.close()

    @property
    def tenants(self) -> Iterable[Tenant]:
        """The apps."""
        return self._tenants.values()

    @property
    def engine(self) -> Engine:
        """What the nodes of this server share."""
        return self._node.engine

    def _why_not_ready(self) -> str | None:
        """Return why new clients are not served, None if they are."""
        if self._draining:
            return "stopping"
        return None if self._node.engine.is_up else "the other nodes cannot be reached"

    def _revoke(self, app_id: str, key_id: str) -> None:
        self._authenticator.revoke(app_id, key_id)
        if app_id in self._tenants:
            for socket in list(self._tenants[app_id].sockets):
                self._review(socket)

    def _sockets(self) -> list[ClientSocket]:
        return [socket for tenant in self._tenants.values() for socket in tenant.sockets]

    def _review(self, socket: ClientSocket) -> None:
        try:
            socket.regrant(self._authenticator.review(socket.admission))
        except RefusedError as refused:
            self._logger.info(
                "connection no longer allowed",
                {"peer": socket.peer_id, "code": int(refused.code), "why": refused.cause},
            )
            socket.close(refused.code, refused.reason)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        with self._tracing.connection(self._address(request)) as trace:
            return await self._connect_traced(request, trace)

    async def _connect_traced(self, request: web.Request, trace: ConnectionTrace) -> web.StreamResponse:
        refusal = self._turn_away(request)
        if refusal is not None:
            trace.turned_away(refusal.status)
            return refusal
        self._track_visit()
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
            self._log_refusal(request, refused)
            trace.refused(int(refused.code), refused.reason)
            await ws.close(code=refused.code, message=refused.reason.encode())
            return ws
        trace.admitted(admission.app, admission.identity.peer_id, admission.kind, resumes=admission.resumes)
        await self._serve(request, ws, admission, trace)
        return ws

    def _turn_away(self, request: web.Request) -> web.Response | None:
        """Return the response to a handshake that is refused before the upgrade, or None."""
        if self._draining:
            return web.Response(status=503, headers={"Retry-After": "1"}, text="shutting down\n")
        network, now = self._network(request), time.monotonic()
        retry_after = math.ceil(self._door.admit(self._address(request), now))
        if retry_after:
            self.endings["too many attempts"] += 1
            if self._complaints.admit(network, now):
                self._logger.warning("too many connections or connection attempts", {"address": network})
            return web.Response(status=429, headers={"Retry-After": str(retry_after)}, text="too many attempts\n")
        return None

    def _address(self, request: web.Request) -> str:
        return client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._trusted_proxies)

    def _network(self, request: web.Request) -> str:
        return network_of(self._address(request))

    def _log_refusal(self, request: web.Request, refused: RefusedError) -> None:
        self.endings[refused.reason] += 1
        self.refusals[refused.reason] += 1
        context = {"address": self._address(request), "code": int(refused.code), "why": refused.cause}
        self._logger.warning("connection refused", context)

    def _admit(self, request: web.Request) -> Admission:
        if self._draining:  # the shutdown began during the upgrade
            raise RefusedError(WsCloseCode.GOING_AWAY, "going away")
        keys, tokens = request.query.getall("key", []), request.query.getall("token", [])
        resumes, recover = request.query.getall("resume", []), request.query.getall("recover", [])
        admission = self._authenticator.admit(
            keys, tokens, request.headers.get("Origin"), time.time(), resumes, recover
        )
        if not self._tenants[admission.app].admits(admission):
            why = f"the plan of app {admission.app!r} has no room for another connection"
            raise RefusedError(WsCloseCode.OVER_CONCURRENT_LIMIT, "too many connections", why)
        return admission

    def _track_visit(self) -> None:
        visit = asyncio.current_task()
        if visit is not None and visit not in self._visits:
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)

    async def _serve(
        self, request: web.Request, ws: web.WebSocketResponse[Any], admission: Admission, trace: ConnectionTrace
    ) -> None:
        transport = request.transport
        if transport is None:  # the client left during its admission
            return
        tenant = self._tenants[admission.app]
        socket = ClientSocket(
            ws,
            transport,
            tenant.hub,
            admission,
            self._authenticator,
            self._limits,
            self._logger,
            self.frame_times,
            trace,
            self._turn,
        )
        replaced = tenant.replaced_by(admission)
        tenant.enter(socket)
        address = self._address(request)
        self._door.enter(address)
        who = {"peer": socket.peer_id, "app": admission.app, "address": address}
        self._logger.info("connection opened", {**who, "by": admission.kind})
        begun = time.monotonic()
        try:
            await socket.run(replaced)
        finally:
            tenant.leave(socket)
            self._door.leave(address)
            self._log_ending(socket.ending, {**who, "seconds": round(time.monotonic() - begun, 1)})

    def _log_ending(self, ending: Ending, context: dict[str, Any]) -> None:
        self.endings[ending.reason] += 1
        if ending.code == WsCloseCode.OVER_CONCURRENT_LIMIT:  # the connections of all nodes are too many
            self.refusals[ending.reason] += 1
        is_misbehaviour = ending.code in MISBEHAVIOUR or ending.reason == OUTBOX_FULL
        log = self._logger.warning if is_misbehaviour else self._logger.info
        log("connection closed", {"code": int(ending.code), "reason": ending.reason, **context})

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


def _ignore(_: object) -> None:
    pass
