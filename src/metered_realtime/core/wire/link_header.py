"""STUN and TURN servers in `Link` headers with the relation `ice-server` (RFC 9725 section 4.6, RFC 8288)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...options import IceServerConfig
from .ice_servers import MAX_CREDENTIAL_LENGTH, MAX_SERVERS, MAX_URL_LENGTH, SCHEMES

MAX_LINK_LENGTH = 16_384
"""Characters that are read of one header: each server with its credential takes some hundred."""

_TARGET = re.compile(r"[\s,]*<([^<>\s]*)>")
_PARAMETER = re.compile(
    r"\s*;\s*([\w!#$%&'*+.^`|~-]{1,64})(?:\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*)))?", re.ASCII
)


def parse_ice_links(headers: Iterable[str]) -> tuple[tuple[IceServerConfig, ...], int]:
    """Return the ICE servers of `Link` headers, and how many links with the relation were left out.

    Links of other relations are ignored. One is left out if it is malformed, too long, of an unknown scheme or
    credential type, or beyond the first 16.
    """
    servers: list[IceServerConfig] = []
    left_out = 0
    for header in headers:
        for target, parameters in _links(header[:MAX_LINK_LENGTH]):
            if "ice-server" not in parameters.get("rel", "").lower().split():
                continue
            server = _server(target, parameters)
            if server is None or len(servers) == MAX_SERVERS:
                left_out += 1
            else:
                servers.append(server)
    return tuple(servers), left_out


def ice_links(servers: Iterable[IceServerConfig]) -> list[str]:
    """Return a `Link` header for every URL of ICE servers."""
    links = []
    for server in servers:
        for url in [server.urls] if isinstance(server.urls, str) else server.urls:
            link = f'<{url}>; rel="ice-server"'
            if server.username is not None and server.credential is not None:
                name, secret = _quoted(server.username), _quoted(server.credential)
                link += f'; username={name}; credential={secret}; credential-type="password"'
            links.append(link)
    return links


def _links(header: str) -> Iterable[tuple[str, dict[str, str]]]:
    place = 0
    while (target := _TARGET.match(header, place)) is not None:
        place = target.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, place)) is not None:
            place = parameter.end()
            name, quoted, bare = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare or ""
            parameters.setdefault(name.lower(), value)
        yield target[1], parameters


def _server(url: str, parameters: dict[str, str]) -> IceServerConfig | None:
    scheme, colon, _ = url.partition(":")
    if not colon or scheme.lower() not in SCHEMES or len(url) > MAX_URL_LENGTH:
        return None
    username, credential = parameters.get("username"), parameters.get("credential")
    if any(text is not None and len(text) > MAX_CREDENTIAL_LENGTH for text in (username, credential)):
        return None
    if parameters.get("credential-type", "password").lower() != "password":
        return None
    return IceServerConfig(url, username, credential)


def _quoted(text: str) -> str:
    """Return a quoted string (RFC 9110 section 5.6.4).

    Raises:
        ValueError: a header cannot hold the text.
    """
    if not text.isprintable() or not text.isascii():
        raise ValueError("the user name and credential of an ICE server must be printable ASCII to be sent in a header")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
