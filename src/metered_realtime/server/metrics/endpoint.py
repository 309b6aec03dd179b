"""Where metrics and health are read: a port of their own, or the server's port with a token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from .collector import Watched, exposition, registry_of

MIN_TOKEN = 16
"""Minimum length of a token in characters: it is all that keeps visitors out."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOptions:
    """Where `/metrics` is served.

    With `port` it is served there, on `host`, which only this machine reaches by default, and without credentials. With
    `token` it is served at the port of the server, to requests with `Authorization: Bearer <token>`. Both may be set.
    Port 0 picks a free one.

    Raises:
        ValueError: neither is set, the token is shorter than 16 characters, or the port is out of range.
    """

    port: int | None = None
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.port is None and self.token is None:
            raise ValueError("metrics need a port or a token")
        if self.port is not None and (isinstance(self.port, bool) or not 0 <= self.port <= 65_535):
            raise ValueError(f"metrics port must be from 0 to 65535, not {self.port!r}")
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ValueError(f"the metrics token must have at least {MIN_TOKEN} characters, not {len(self.token)}")


class MetricsEndpoint:
    """The handlers of `/metrics`, `/healthz` and `/readyz`.

    `why_not_ready` returns why new clients are not served, None if they are: a server that is stopping, or cannot reach
    the other nodes, is healthy, and not ready.
    """

    def __init__(
        self, watched: Watched, why_not_ready: Callable[[], str | None], options: MetricsOptions | None
    ) -> None:
        self._registry = registry_of(watched)
        self._why_not_ready = why_not_ready
        self._options = options

    def public_routes(self) -> list[web.RouteDef]:
        """Return the routes at the port of the server."""
        routes = [web.get("/healthz", self._health), web.get("/readyz", self._readiness)]
        if self._options is not None and self._options.token is not None:
            routes.append(web.get("/metrics", self._metrics_for_token))
        return routes

    async def start(self) -> tuple[web.AppRunner, int] | None:
        """Serve the port of the metrics, if there is one. Return its runner, to be cleaned up, and its port.

        Raises:
            OSError: the address cannot be used.
        """
        options = self._options
        if options is None or options.port is None:
            return None
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, options.host, options.port)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        return runner, site.port

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        reason = self._why_not_ready()
        return web.Response(status=200 if reason is None else 503, text=f"{reason or 'ready'}\n")

    async def _metrics_for_token(self, request: web.Request) -> web.Response:
        token = self._options.token if self._options is not None else None
        given = request.headers.get("Authorization", "")
        if token is None or not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"}, text="a token is needed\n")
        return await self._metrics(request)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=exposition(self._registry), headers={"Content-Type": CONTENT_TYPE})
