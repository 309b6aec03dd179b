"""The room page: static files from the package, read once."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

DIRECTORY = Path(__file__).parent / "page"

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'self'; connect-src 'self' ws: wss:; "
            "media-src 'self' blob: mediastream:; img-src 'self' data: blob:"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)

# The platform's table may lack these types, or map them to types that browsers refuse under nosniff.
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, with its content type."""

    body: bytes
    content_type: str


def load_page(directory: Path = DIRECTORY) -> dict[str, PageFile]:
    """Return the files of the page by name. Empty if the package has no page."""
    if not directory.is_dir():
        return {}
    return {
        path.name: PageFile(path.read_bytes(), _content_type(path)) for path in directory.iterdir() if path.is_file()
    }


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, without port, is a loopback one."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class PageKey:
    """The publishable key for the page, if it may have one. The repr hides the key."""

    key: str | None = field(repr=False)
    loopback_only: bool = True

    def shown_to(self, host_header: str) -> str | None:
        """Return the key for a request with this Host header, or None.

        On a loopback server, a foreign name that resolves to this host (DNS rebinding) gets no key.
        """
        if self.loopback_only and not is_loopback(_host_name(host_header)):
            return None
        return self.key


def _host_name(host_header: str) -> str:
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def _content_type(path: Path) -> str:
    return _CONTENT_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
