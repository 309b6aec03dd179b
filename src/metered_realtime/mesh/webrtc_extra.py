"""Loads what needs the extra `webrtc`. A peer without it can join, list remotes and exchange data by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection


def connection_class() -> type[RemoteConnection]:
    """Return the class whose module loads aiortc.

    Raises:
        ImportError: aiortc or av is missing, or is a release that is not supported.
    """
    try:
        from ..aiortc_compat.peer_connection import check_version
        from ..connection.remote_connection import RemoteConnection
    except ModuleNotFoundError as error:
        raise ImportError(
            f"media and data channels need {error.name}: pip install 'metered-realtime-mesh[webrtc]'", name=error.name
        ) from error
    check_version()
    return RemoteConnection
