"""The STUN and TURN servers that a welcome carries in `metadata.iceServers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...options import IceServerConfig

MAX_SERVERS = 16
"""Maximum number of entries. More would slow down gathering, since every server is contacted."""

MAX_URLS = 32
"""Maximum number of URLs in all entries together. Each may cost a lookup and a request; services name about five."""

MAX_URL_LENGTH = 512
MAX_CREDENTIAL_LENGTH = 1_024
"""Maximum length of a URL, user name or credential, so that a welcome cannot fill memory."""

SCHEMES = frozenset({"stun", "stuns", "turn", "turns"})


def parse_ice_servers(metadata: Mapping[str, Any] | None) -> tuple[IceServerConfig, ...] | None:
    """Return the ICE servers, or None if there are none, too many, or one is malformed: all or nothing."""
    servers = metadata.get("iceServers") if metadata is not None else None
    if not isinstance(servers, list) or len(servers) > MAX_SERVERS:
        return None
    if sum(map(_url_count, servers)) > MAX_URLS:
        return None
    parsed = [_server(server) for server in servers]
    return tuple(server for server in parsed if server is not None) if None not in parsed else None


def _url_count(server: object) -> int:
    urls = server.get("urls") if isinstance(server, dict) else None
    return len(urls) if isinstance(urls, list) else 1


def _server(server: object) -> IceServerConfig | None:
    if not isinstance(server, dict):
        return None
    urls = server.get("urls")
    listed = [urls] if isinstance(urls, str) else urls
    if not isinstance(listed, list) or not listed or not all(_is_ice_url(url) for url in listed):
        return None
    username, credential = _text(server.get("username")), _text(server.get("credential"))
    if any(text is not None and len(text) > MAX_CREDENTIAL_LENGTH for text in (username, credential)):
        return None
    return IceServerConfig(urls if isinstance(urls, str) else listed, username, credential)


def _is_ice_url(url: object) -> bool:
    if not isinstance(url, str) or not 1 <= len(url) <= MAX_URL_LENGTH:
        return False
    scheme, colon, _ = url.partition(":")
    return bool(colon) and scheme.lower() in SCHEMES


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
