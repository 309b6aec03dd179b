"""Loads what needs the extra `webrtc`. A peer without it can join, list remotes and exchange data by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..missing import extra

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection


def connection_class() -> type[RemoteConnection]:
    """Return the class whose module loads aiortc.

    Raises:
        MissingExtraError: aiortc, aioice or av is missing.
        ImportError: it is a release that is not supported.
    """
    with extra("webrtc", part="a WebRTC connection"):
        from ..aiortc_compat.version import check_version
        from ..connection.remote_connection import RemoteConnection

    check_version()
    return RemoteConnection
