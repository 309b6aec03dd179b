"""The door to what needs aiortc: a peer without the extra can join, see who is there, and exchange data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection


def connection_class() -> type[RemoteConnection]:
    """Return the class whose module loads aiortc.

    Raises:
        ImportError: aiortc or av is missing, or a release whose insides are not known here is installed.
    """
    try:
        from ..aiortc_compat.version import check_version
        from ..connection.remote_connection import RemoteConnection
    except ModuleNotFoundError as error:
        raise ImportError(
            f"media and data channels need {error.name}: pip install 'metered-realtime-mesh[webrtc]'", name=error.name
        ) from error
    check_version()
    return RemoteConnection
