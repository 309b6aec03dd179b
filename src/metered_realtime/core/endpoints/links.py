"""ICE servers in `Link` headers (RFC 9725 section 4.6)."""

from __future__ import annotations

from collections.abc import Iterable

from ...options import IceServerConfig

MAX_LINKS = 16
"""Links in a response: clients use one STUN and one or two TURN servers, and proxies bound headers to a few KB."""


def links(servers: Iterable[IceServerConfig]) -> list[str]:
    """Return a `Link` value for each URL of ICE servers. URLs that a header cannot carry are left out."""
    found = []
    for server in servers:
        urls = (server.urls,) if isinstance(server.urls, str) else server.urls
        found += [_link(url, server) for url in urls if _fits(url)]
    return found[:MAX_LINKS]


def _link(url: str, server: IceServerConfig) -> str:
    link = f'<{url}>; rel="ice-server"'
    if server.username is not None and server.credential is not None:
        link += f"; username={_quoted(server.username)}; credential={_quoted(server.credential)}"
        link += '; credential-type="password"'
    return link


def _fits(url: str) -> bool:
    return url.isascii() and url.isprintable() and not set("<> ").intersection(url)


def _quoted(text: str) -> str:
    """Return a quoted-string (RFC 9110 section 5.6.4)."""
    shown = "".join(character for character in text if character.isprintable())
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
