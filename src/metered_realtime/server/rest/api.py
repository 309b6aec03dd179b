"""The REST API, which backends call with their secret key.

The order of checks: rate limit of the address, route, key, rate limit of the key, body; then the endpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from ...log import Logger
from ..auth import Authenticator
from ..engine.contract import EngineError
from ..keys import App, SecretKey
from ..limits import Limits, RateLimiter
from ..tenant import Tenant
from .endpoints import Call, RestError, close_peer, mint, publish, roster, usage
from .openapi import DOCUMENT

BODY_TIMEOUT = 10.0
"""Seconds that a client has to send the body, which is small."""

JSON = "application/json"

Endpoint = Callable[[Call], Awaitable[Any]]

ROUTES: Mapping[tuple[str, ...], Mapping[str, Endpoint]] = {
    ("tokens",): {"POST": mint},
    ("channels", "*", "peers"): {"GET": roster},
    ("channels", "*", "publish"): {"POST": publish},
    ("peers", "*"): {"DELETE": close_peer},
    ("usage",): {"GET": usage},
}


class RestApi:
    """Answers REST requests for the apps of one server."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        authenticator: Authenticator,
        limits: Limits,
        logger: Logger,
        address: Callable[[web.Request], str],
    ) -> None:
        self._tenants = tenants
        self._authenticator = authenticator
        self._logger = logger
        self._address = address
        self.reconfigure(limits)

    def reconfigure(self, limits: Limits) -> None:
        """Replace the limits. All buckets start full."""
        self._limits = limits
        self._by_address = RateLimiter(limits.rest_per_second, limits.rest_burst)
        self._by_key = RateLimiter(limits.rest_key_per_second, limits.rest_key_burst)

    async def describe(self, request: web.Request) -> web.Response:
        """Respond with the OpenAPI document."""
        return web.Response(body=DOCUMENT, content_type=JSON)

    async def handle(self, request: web.Request) -> web.Response:
        """Respond to any request under the prefix."""
        try:
            answer = await self._answer(request)
        except RestError as error:
            context = {"address": self._address(request), "status": error.status, "why": error.message}
            self._logger.info("request refused", context)
            return _refusal(error)
        except Exception as error:
            self._logger.error("request failed", {"error": f"{type(error).__name__}: {error}"})
            return _refusal(RestError(503, "internal_error", "internal error"))
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    async def _answer(self, request: web.Request) -> Any:
        _count(self._by_address, self._address(request))
        endpoint, name = _route(request.method, request.rel_url.raw_path)
        app, key = self._authenticate(request)
        _count(self._by_key, key.id)
        body = await self._body(request) if request.method == "POST" else b""
        call = Call(self._tenants[app.id], key, _decoded(name), body, self._limits, time.time())
        try:
            return await endpoint(call)
        except EngineError:
            raise RestError(503, "backend_error", "the server cannot do this now", {"Retry-After": "1"}) from None

    def _authenticate(self, request: web.Request) -> tuple[App, SecretKey]:
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        found = self._authenticator.backend(credential.strip() if scheme.lower() == "bearer" else "")
        if found is None:
            raise RestError(401, "unauthorized", "a secret key is needed", {"WWW-Authenticate": "Bearer"})
        return found

    async def _body(self, request: web.Request) -> bytes:
        cap, body = self._limits.rest_body_size, bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                while len(body) <= cap and (chunk := await request.content.readany()):
                    body += chunk
        except TimeoutError:
            raise RestError(408, "invalid_request", "the body did not arrive in time") from None
        if len(body) > cap:
            raise RestError(413, "invalid_request", f"the body must have at most {cap} bytes")
        return bytes(body)


async def not_found(request: web.Request) -> web.Response:
    """Respond with 404."""
    return _refusal(RestError(404, "not_found", "there is nothing here"))


def _count(limiter: RateLimiter, caller: str) -> None:
    if not limiter.admit(caller, time.monotonic()):
        raise RestError(429, None, "too many requests", {"Retry-After": str(limiter.retry_after)})


def _route(method: str, raw_path: str) -> tuple[Endpoint, str]:
    """Return the endpoint and the percent-encoded id in the path. Escaped slashes do not separate path segments."""
    steps = raw_path.removeprefix("/v1/").split("/")
    for pattern, methods in ROUTES.items():
        if len(pattern) != len(steps) or any(
            known not in ("*", step) for known, step in zip(pattern, steps, strict=True)
        ):
            continue
        if method not in methods:
            raise RestError(405, "not_found", f"there is no {method} here", {"Allow": ", ".join(methods)})
        return methods[method], "".join(step for known, step in zip(pattern, steps, strict=True) if known == "*")
    raise RestError(404, "not_found", "there is nothing here")


def _decoded(name: str) -> str:
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise RestError(400, "invalid_request", "the id in the path is not UTF-8") from None


def _refusal(error: RestError) -> web.Response:
    body = {"message": error.message} if error.code is None else {"error": error.code, "message": error.message}
    return web.json_response(body, status=error.status, headers=error.headers)
