"""The resource of a session at an endpoint: made by POST, changed by PATCH, ended by DELETE."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..core.wire.link_header import parse_ice_links
from ..errors import WhipError, WhipProtocolError, WhipRequestError
from ..log import Logger
from ..options import IceServerConfig
from ..signalling.scrubbing import scrub_text
from .http_client import HttpClient, HttpReply

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"

DELETE_TIMEOUT = 2.0
"""Seconds that the end of a session at its endpoint may take. The endpoint notices a client that is gone itself."""

POST_GRACE = 2.0
"""Seconds that a cancelled POST is waited for, so that the session which it may have made can be deleted."""

MAX_ETAG_LENGTH = 256
"""Characters of an entity tag."""

_UNSUPPORTED = (405, 501)


class SessionResource:
    """One session at an endpoint.

    Attributes:
        url: Its URL, None until it is made.
        ice_servers: The STUN and TURN servers that the endpoint named.
        takes_patches: False once the endpoint has refused PATCH as such (RFC 9725 section 4.3).
        is_gone: Whether the endpoint does not know it any more.
    """

    def __init__(self, http: HttpClient, logger: Logger) -> None:
        self.url: str | None = None
        self.ice_servers: Sequence[IceServerConfig] = ()
        self.takes_patches = True
        self.is_gone = False
        self._http = http
        self._logger = logger
        self._etag: str | None = None
        self._deleting: asyncio.Task[None] | None = None

    @property
    def has_etag(self) -> bool:
        """Whether the endpoint gave an entity tag, as it does if it supports trickle ICE or restarts."""
        return self._etag is not None

    async def ask_for_ice_servers(self) -> Sequence[IceServerConfig]:
        """Ask the endpoint for its servers before there is a session. None if it does not tell."""
        headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Link"}
        try:
            return self._servers(await self._http.request("OPTIONS", self._http.url, headers=headers))
        except WhipRequestError as error:
            self._logger.info("the endpoint names no ICE servers", {"error": str(error)})
            return ()

    async def create(self, offer: str) -> str:
        """Make the session with an offer, and return the answer. Cancelled, it leaves no session behind.

        Raises:
            WhipError: the endpoint refused it, answered with something else, or did not answer.
        """
        post = asyncio.ensure_future(self._post(offer))
        try:
            return await asyncio.shield(post)
        except asyncio.CancelledError:
            await asyncio.wait([post], timeout=POST_GRACE)
            post.cancel()
            await asyncio.wait([post])
            if not post.cancelled():
                post.exception()  # of no interest any more
            raise

    async def add_candidates(self, fragment: str) -> None:
        """Tell the endpoint further candidates.

        Raises:
            WhipError: it did not take them.
        """
        await self._patch(fragment, self._etag)

    async def restart_ice(self, fragment: str) -> str:
        """Tell the endpoint new ICE credentials, and return the fragment with those of the endpoint.

        Raises:
            WhipError: it did not take them, or answered without its own.
        """
        reply = await self._patch(fragment, "*")
        if not reply.body or reply.media_type not in (FRAGMENT, ""):
            raise WhipProtocolError(f"a restart of ICE was answered with {reply.status} and no fragment")
        self._etag = _etag(reply)
        return reply.body

    async def delete(self) -> None:
        """End the session at the endpoint. Idempotent; takes `DELETE_TIMEOUT` at the most, and never raises."""
        if self.url is None or self.is_gone:
            return
        if self._deleting is None:
            self._deleting = asyncio.ensure_future(self._delete(self.url))
        await asyncio.shield(self._deleting)

    async def _delete(self, url: str) -> None:
        try:
            async with asyncio.timeout(DELETE_TIMEOUT):
                await self._http.request("DELETE", url)
        except (WhipError, TimeoutError) as error:
            if getattr(error, "status", None) not in (404, 410):  # the endpoint has ended it first
                self._logger.warning("the session was not deleted", {"error": str(error) or "no answer"})

    async def _post(self, offer: str) -> str:
        headers = {"Content-Type": SDP, "Accept": SDP}
        reply = await self._http.request("POST", self._http.url, headers=headers, body=offer)
        if "Location" in reply.headers:
            self.url = self._http.resolve(reply, "Location")
        if reply.status not in (200, 201):
            raise WhipProtocolError(f"the endpoint answered an offer with {reply.status}")
        if self.url is None:
            raise WhipProtocolError(f"the endpoint answered {reply.status} without Location")
        if reply.media_type not in (SDP, ""):
            raise WhipProtocolError(f"the endpoint answered an offer with {scrub_text(reply.media_type)[:100]!r}")
        self._etag = _etag(reply)
        self.ice_servers = self._servers(reply)
        return reply.body

    async def _patch(self, fragment: str, match: str | None) -> HttpReply:
        assert self.url is not None
        headers = {"Content-Type": FRAGMENT} | ({"If-Match": match} if match is not None else {})
        try:
            return await self._http.request("PATCH", self.url, headers=headers, body=fragment)
        except WhipRequestError as error:
            self.takes_patches = self.takes_patches and error.status not in _UNSUPPORTED
            self.is_gone = self.is_gone or error.status in (404, 410)
            raise

    def _servers(self, reply: HttpReply) -> Sequence[IceServerConfig]:
        servers, left_out = parse_ice_links(reply.links)
        if left_out:
            self._logger.warning("ICE servers of the endpoint left out", {"count": left_out})
        return servers


def _etag(reply: HttpReply) -> str | None:
    value = reply.headers.get("ETag")
    return value if value is not None and len(value) <= MAX_ETAG_LENGTH and value.isprintable() else None
