"""The HTTP requests of WHIP and WHEP clients: bounded, with a bearer token that stays at its origin."""

from __future__ import annotations

import email.utils
import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from .._version import __version__
from ..core.negotiation.remote_sdp import MAX_SDP_LENGTH
from ..errors import WhipConnectError, WhipProtocolError, WhipRequestError, printable
from ..options import TokenProviderFn
from ..signalling.endpoint import LOOPBACK_HOSTS
from ..signalling.scrubbing import MASK, scrub_text

REQUEST_TIMEOUT = 10.0
"""Seconds that one request may take. An endpoint gathers its candidates before it answers."""

MAX_REDIRECTS = 5
"""Redirections of one request. Load balancers need one."""

MAX_BODY = MAX_SDP_LENGTH
"""Bytes of a response that are read: as long as a description may be."""

MAX_RETRY_AFTER = 86_400.0
"""Maximum of `Retry-After`, in seconds (one day)."""

MAX_TOKEN_LENGTH = 8_000
"""Characters of a bearer token: a longer line is refused by most servers."""

_REDIRECTS = (307, 308)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A response. `url` is the one that gave it, after redirections; `links` are its `Link` headers."""

    status: int
    url: str
    headers: Mapping[str, str]
    links: tuple[str, ...]
    body: str

    @property
    def media_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class HttpClient:
    """The requests of one session. The token is sent to the origin of `url`, and to no other.

    Raises:
        ValueError: `url` is not an http or https URL, has user info, or is unencrypted while there is a token, for
            another host than this one, without `allow_insecure`.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenProviderFn | None,
        *,
        allow_insecure: bool = False,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self._allow_insecure = allow_insecure
        self._token = token
        self.url = self._checked(url)
        if token is not None and not allow_insecure and _is_exposed(url):
            raise ValueError("http:// with a token is accepted for this host only: it would travel in the clear")
        if isinstance(token, str):
            _check_token(token)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
            connector=aiohttp.TCPConnector(ssl=ssl_context if ssl_context is not None else True),
            headers={"User-Agent": f"metered-realtime/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> HttpReply:
        """Send a request, and follow redirections that keep its method. Returns a response of 2xx.

        Raises:
            WhipRequestError: the endpoint answered with another status.
            WhipProtocolError: the response is too large, or redirects too often or to where nothing may be sent.
            WhipConnectError: there was no response.
        """
        token = await self._current_token()
        for _ in range(MAX_REDIRECTS + 1):
            reply = await self._send(method, url, dict(headers or {}), body, token)
            if reply.status not in _REDIRECTS:
                return self._accepted(method, reply, token)
            url, before = self.resolve(reply, "Location"), url
            if urlsplit(before).scheme == "https" and urlsplit(url).scheme == "http" and not self._allow_insecure:
                raise WhipProtocolError("the endpoint redirects from https to http")
        raise WhipProtocolError(f"the endpoint redirects more than {MAX_REDIRECTS} times")

    def resolve(self, reply: HttpReply, header: str) -> str:
        """Return the URL in a header of a reply, which may be relative (RFC 3986 section 5).

        Raises:
            WhipProtocolError: it is missing, or not a URL to which requests may be sent.
        """
        value = reply.headers.get(header)
        if value is None:
            raise WhipProtocolError(f"the endpoint answered {reply.status} without {header}")
        try:
            return self._checked(urljoin(reply.url, value.strip()))
        except ValueError as error:
            raise WhipProtocolError(f"{header} of the endpoint cannot be used: {error}") from None

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._session.close()

    async def _send(
        self, method: str, url: str, headers: dict[str, str], body: str | None, token: str | None
    ) -> HttpReply:
        if token is not None and _origin(url) == _origin(self.url):
            headers["Authorization"] = f"Bearer {token}"
        data = body.encode() if body is not None else None
        try:
            async with self._session.request(method, url, headers=headers, data=data, allow_redirects=False) as it:
                body = await _read(it)
                return HttpReply(it.status, url, it.headers, tuple(it.headers.getall("Link", ())), body)
        except TimeoutError as error:
            raise WhipConnectError(f"{_shown(url)} did not answer within {REQUEST_TIMEOUT:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = scrub_text(printable(str(error)))
            raise WhipConnectError(f"{method} to {_shown(url)} failed: {type(error).__name__}: {text}") from error

    def _accepted(self, method: str, reply: HttpReply, token: str | None) -> HttpReply:
        if 200 <= reply.status < 300:
            return reply
        detail = _detail(reply)
        if token:
            detail = detail.replace(token, MASK)
        raise WhipRequestError(method, reply.status, scrub_text(printable(detail)), _retry_after(reply.headers))

    async def _current_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        token: Any = self._token()
        token = await token if inspect.isawaitable(token) else token
        _check_token(token)
        return str(token)

    def _checked(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL begins with https:// (or http://) and has a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL with user info is not accepted: give a token")
        if parts.port == 0:  # raises ValueError itself if it is no port at all
            raise ValueError("port must be 1 to 65535")
        return url


async def _read(response: aiohttp.ClientResponse) -> str:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise WhipProtocolError("the endpoint answered in a compressed form, which was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_chunked(16_384):
        body += chunk
        if len(body) > MAX_BODY:
            raise WhipProtocolError(f"the endpoint answered with more than {MAX_BODY} bytes")
    return body.decode(errors="replace")


def _detail(reply: HttpReply) -> str:
    """Return what an endpoint says about a failure: of a problem (RFC 9457) its detail or title."""
    if reply.media_type not in ("application/problem+json", "application/json"):
        return reply.body if reply.media_type == "text/plain" else ""
    try:
        problem = json.loads(reply.body)
    except (ValueError, RecursionError):
        return ""
    fields = [problem.get(name) for name in ("detail", "title")] if isinstance(problem, dict) else []
    return next((field for field in fields if isinstance(field, str)), "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal() and value.isascii():
        return min(float(value[:12]), MAX_RETRY_AFTER)
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, at - time.time()), MAX_RETRY_AFTER)


def _check_token(token: object) -> None:
    if not isinstance(token, str):
        raise TypeError(f"a token must be a str, not {type(token).__name__}")
    if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"a token must be 1 to {MAX_TOKEN_LENGTH} printable ASCII characters without spaces")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_exposed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold a credential."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
