"""The HTTP resources of a bridge: the endpoints of WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep), and sessions."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from ..core.endpoints.links import links
from ..core.endpoints.refusals import RefusedRequestError
from ..core.negotiation.ice_fragment import MAX_FRAGMENT_LENGTH
from ..core.negotiation.remote_sdp import MAX_SDP_LENGTH
from ..core.wire.names import peer_id_fault
from ..log import Logger, log_exception
from ..server.limits import RateLimiter
from ..server.listening.proxies import network_of
from .access import bearer_of
from .options import BridgeLimits
from .session import EndpointSession

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"

MAX_NAME = 64
"""Characters of a publisher's `name`: it is shown to the others."""

PREFLIGHT_AGE = 86_400
"""Seconds for which browsers remember the answer to a preflight request."""

_EXPOSED = "Location, ETag, Link, Accept-Patch, Retry-After, WWW-Authenticate"

_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": _EXPOSED, "Cache-Control": "no-store"}
"""Any page may use the endpoints: it needs a bearer token, and browsers send none on their own."""

_ENDPOINT_METHODS, _SESSION_METHODS = "POST, OPTIONS", "PATCH, DELETE, OPTIONS"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sessions(Protocol):
    """What the resources need of the bridge."""

    async def publish(self, offer: str, bearer: str, name: str | None, address: str) -> tuple[EndpointSession, str]:
        """Admit a publisher. Return its session and the answer."""

    async def play(self, offer: str, bearer: str, peer_id: str | None, address: str) -> tuple[EndpointSession, str]:
        """Admit a player of a participant, or of the room. Return its session and the answer."""

    def find(self, session_id: str) -> EndpointSession | None:
        """Return an open session."""

    def has_lost(self, session_id: str) -> bool:
        """Return whether a session has just ended by itself."""

    def count_refusal(self, code: str) -> None:
        """Count a refused request."""


class BridgeApp:
    """The HTTP handlers of a bridge."""

    def __init__(self, sessions: Sessions, limits: BridgeLimits, logger: Logger) -> None:
        self._sessions = sessions
        self._limits = limits
        self._logger = logger
        self._arrivals = RateLimiter(limits.requests_per_second, limits.request_burst)

    def build(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(middlewares=[self._answer], client_max_size=MAX_SDP_LENGTH)
        application.add_routes(
            [
                web.post("/whip", self._publish),
                web.post("/whep", self._play),
                web.post("/whep/{peer_id}", self._play),
                web.patch("/sessions/{id}", self._patch),
                web.delete("/sessions/{id}", self._delete),
                *(web.route("*", path, self._endpoint_otherwise) for path in ("/whip", "/whep", "/whep/{peer_id}")),
                web.route("*", "/sessions/{id}", self._session_otherwise),
                web.route("*", r"/{nothing:[\s\S]*}", self._nothing),
            ]
        )
        return application

    # --- every request

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._limits.request_time):
                response = await handler(request)
        except RefusedRequestError as refusal:
            response = self._refused(refusal)
        except TimeoutError:
            response = self._refused(RefusedRequestError("timed_out", retry_after=math.ceil(self._limits.request_time)))
        except Exception as error:
            log_exception(
                self._logger, "bridge: a request failed", error, {"path": request.match_info.handler.__name__}
            )
            response = self._refused(RefusedRequestError("failed"))
        response.headers.update(_CORS)
        return response

    def _refused(self, refusal: RefusedRequestError) -> web.Response:
        self._sessions.count_refusal(refusal.code)
        self._logger.info("bridge: request refused", {"code": refusal.code, "detail": refusal.detail})
        headers = dict(refusal.headers)
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return web.Response(
            status=refusal.status,
            body=json.dumps(refusal.body()).encode(),
            content_type="application/problem+json",
            headers=headers,
        )

    # --- endpoints

    async def _publish(self, request: web.Request) -> web.Response:
        bearer = self._admit(request)
        name = _name(request.query.get("name"))
        offer = await _body(request, SDP, MAX_SDP_LENGTH)
        return _created(*await self._sessions.publish(offer, bearer, name, _address(request)))

    async def _play(self, request: web.Request) -> web.Response:
        bearer = self._admit(request)
        peer_id = request.match_info.get("peer_id")
        if peer_id is not None and peer_id_fault(peer_id) is not None:
            raise RefusedRequestError("malformed_request", "the path has no peer id")
        offer = await _body(request, SDP, MAX_SDP_LENGTH)
        return _created(*await self._sessions.play(offer, bearer, peer_id, _address(request)))

    def _admit(self, request: web.Request) -> str:
        """Return the bearer token of a request that opens a session."""
        now, address = time.monotonic(), _address(request)
        if not self._arrivals.admit(address, now):
            raise RefusedRequestError("too_many_requests", retry_after=self._arrivals.retry_after)
        return bearer_of(request.headers.get("Authorization"))

    async def _endpoint_otherwise(self, request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            return _options(_ENDPOINT_METHODS, {"Accept-Post": SDP})
        raise RefusedRequestError("method_not_allowed", headers={"Allow": _ENDPOINT_METHODS})

    # --- sessions

    async def _patch(self, request: web.Request) -> web.Response:
        session = self._find(request)
        fragment = await _body(request, FRAGMENT, MAX_FRAGMENT_LENGTH)
        answer = await session.patch(fragment, request.headers.get("If-Match"))
        if answer is None:
            return web.Response(status=204)
        return web.Response(body=answer.encode(), content_type=FRAGMENT, headers={"ETag": session.etag})

    async def _delete(self, request: web.Request) -> web.Response:
        bearer_of(request.headers.get("Authorization"))
        if self._sessions.has_lost(request.match_info["id"]):
            return web.Response()
        session = self._find(request)
        session.end("deleted")
        await session.wait_ended()
        return web.Response()

    async def _session_otherwise(self, request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            return _options(_SESSION_METHODS, {"Accept-Patch": FRAGMENT})
        raise RefusedRequestError("method_not_allowed", headers={"Allow": _SESSION_METHODS})

    def _find(self, request: web.Request) -> EndpointSession:
        bearer = bearer_of(request.headers.get("Authorization"))
        session = self._sessions.find(request.match_info["id"])
        if session is None:
            raise RefusedRequestError("no_such_session")
        if not session.belongs_to(bearer):
            raise RefusedRequestError("credential_refused", "the session was opened with another one")
        return session

    async def _nothing(self, request: web.Request) -> web.Response:
        raise RefusedRequestError("not_found")


def _created(session: EndpointSession, answer: str) -> web.Response:
    response = web.Response(
        status=201,
        body=answer.encode(),
        content_type=SDP,
        headers={"Location": f"/sessions/{session.id}", "ETag": session.etag, "Accept-Patch": FRAGMENT},
    )
    for link in links(session.ice_servers):
        response.headers.add("Link", link)
    return response


def _options(methods: str, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=204,
        headers={
            **headers,
            "Allow": methods,
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
            "Access-Control-Max-Age": str(PREFLIGHT_AGE),
        },
    )


async def _body(request: web.Request, content_type: str, limit: int) -> str:
    """Return the body of a request.

    Raises:
        RefusedRequestError: it is too large, of another type, or not UTF-8.
    """
    if request.content_type.lower() != content_type:
        headers = {"Accept-Patch" if content_type == FRAGMENT else "Accept-Post": content_type}
        raise RefusedRequestError("wrong_content_type", f"{content_type} is needed", headers=headers)
    body = bytearray()
    async for chunk in request.content.iter_chunked(limit):
        body += chunk
        if len(body) > limit:
            raise RefusedRequestError("too_large", f"more than {limit} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError:
        code = "malformed_fragment" if content_type == FRAGMENT else "malformed_description"
        raise RefusedRequestError(code, "it is not UTF-8") from None


def _name(text: str | None) -> str | None:
    if not text:
        return None
    if len(text) > MAX_NAME or not text.isprintable():
        raise RefusedRequestError("malformed_request", f"name must be up to {MAX_NAME} printable characters")
    return text


def _address(request: web.Request) -> str:
    return network_of(request.remote or "")
