"""Validation of server URLs, and the URL of a connection attempt."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from ..options import DEFAULT_URL

PATH = "/v1"
HOSTED_DOMAIN = "metered.ca"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def parse_origin(url: str | None, *, allow_insecure: bool = False) -> str:
    """Return the origin of a server as `scheme://host[:port]`. Userinfo is discarded.

    Raises:
        ValueError: the scheme is neither wss nor ws, it is ws for another host (unless `allow_insecure`), the port is
            invalid, or there is a path, a query or a fragment.
    """
    parts = urlsplit(DEFAULT_URL if url is None else url)
    host = _host(parts.hostname)
    if parts.scheme not in ("wss", "ws"):
        raise ValueError("url must begin with wss:// (or ws:// for this host)")
    if parts.scheme == "ws" and host not in LOOPBACK_HOSTS and not allow_insecure:
        raise ValueError("ws:// is accepted for localhost only: the credential would travel in the clear")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("url must be an origin, without path, query and fragment")
    port = parts.port  # ValueError if it is invalid
    if port == 0:
        raise ValueError("port must be 1 to 65535")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def is_loopback(origin: str) -> bool:
    """Return whether the server is on this host, and so not behind a proxy."""
    return urlsplit(origin).hostname in LOOPBACK_HOSTS


def is_hosted(origin: str) -> bool:
    """Return whether the server belongs to the hosted service."""
    host = urlsplit(origin).hostname or ""
    return host == HOSTED_DOMAIN or host.endswith(f".{HOSTED_DOMAIN}")


def attempt_url(origin: str, parameter: str, credential: str, resume: str | None = None, *, recover: str) -> str:
    """Return the URL of one attempt, with the credential as the query parameter `key` or `token`.

    `resume` is the resume token of an earlier connection, which restores its peer id. `recover` is how far the directs
    to that peer were read, or `1`; servers that keep no messages ignore it.
    """
    url = f"{origin}{PATH}?{parameter}={quote(credential, safe='')}"
    if resume is not None:
        url += f"&resume={quote(resume, safe='')}"
    return f"{url}&recover={quote(recover, safe=':')}"


def _host(hostname: str | None) -> str:
    if not hostname or any(character.isspace() for character in hostname):
        raise ValueError("url has no host")
    return hostname
