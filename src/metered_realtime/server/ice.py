"""The STUN and TURN servers in a welcome, checked by the rules that clients apply to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..options import IceServerConfig

MAX_ICE_SERVERS = 16
MAX_URL_LENGTH = 512
MAX_CREDENTIAL_LENGTH = 1_024
SCHEMES = ("stun", "stuns", "turn", "turns")

IceServer = str | IceServerConfig | Mapping[str, Any]
"""A URL, or a mapping with `urls`, `username` and `credential`, as in `RTCIceServer` of browsers."""


def ice_server_list(servers: Iterable[IceServer]) -> list[dict[str, Any]]:
    """Return the servers in the form of `metadata.iceServers`.

    Raises:
        ValueError: clients would refuse a server, and the whole list with it.
    """
    listed = [_ice_server(server) for server in servers]
    if len(listed) > MAX_ICE_SERVERS:
        raise ValueError(f"ice_servers must have at most {MAX_ICE_SERVERS} entries, not {len(listed)}")
    return listed


def _ice_server(server: IceServer) -> dict[str, Any]:
    if isinstance(server, str):
        return {"urls": _url(server)}
    if isinstance(server, IceServerConfig):
        server = {"urls": server.urls, "username": server.username, "credential": server.credential}
    urls = server.get("urls")
    checked: dict[str, Any] = {"urls": _url(urls) if isinstance(urls, str) else _urls(urls)}
    for name in ("username", "credential"):
        if server.get(name) is not None:
            checked[name] = _credential(name, server[name])
    return checked


def _urls(urls: object) -> list[str]:
    if not isinstance(urls, list | tuple) or not urls:
        raise ValueError(f"urls of an ice server must be a URL or a list of URLs, not {urls!r}")
    return [_url(url) for url in urls]


def _url(url: object) -> str:
    if not isinstance(url, str) or not 1 <= len(url) <= MAX_URL_LENGTH:
        raise ValueError(f"the URL of an ice server must be text of 1 to {MAX_URL_LENGTH} characters, not {url!r}")
    scheme, colon, rest = url.partition(":")
    if not colon or not rest or scheme.lower() not in SCHEMES:
        raise ValueError(f"the URL of an ice server must begin with stun:, stuns:, turn: or turns:, not {url!r}")
    return url


def _credential(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_CREDENTIAL_LENGTH:
        raise ValueError(f"{name} of an ice server must be text of at most {MAX_CREDENTIAL_LENGTH} characters")
    return value
