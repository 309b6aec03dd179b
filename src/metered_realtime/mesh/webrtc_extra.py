"""Loads what needs the extra `webrtc`. A peer without it can join, list remotes and exchange data by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..missing import require

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection


def connection_class() -> type[RemoteConnection]:
    """Return the class whose module loads aiortc.

    Raises:
        MissingExtraError: aiortc, aioice or av is missing.
        ImportError: it is a release that is not supported.
    """
    try:
        from ..aiortc_compat.version import check_version
        from ..connection.remote_connection import RemoteConnection
    except ModuleNotFoundError:
        require("webrtc", part="a WebRTC connection")
        raise
    check_version()
    return RemoteConnection
