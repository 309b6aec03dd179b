"""WebRTC peers in Python: join a channel, stream media and send data between bots and browsers.

`import metered_realtime` loads neither aiortc nor av: names that need them load on first use, and say what to install
where they are missing. Publish/subscribe needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    AckTimeoutError,
    ConnectionEndedError,
    DataChannelOverflowError,
    DisconnectedError,
    ErrorCode,
    IceRecoveryExhaustedError,
    MeteredPeerOversizedError,
    MeteredPeerReplaceTrackError,
    MeteredPeerSendError,
    MeteredPeerStateError,
    MeteredRealtimeError,
    NegotiationFailedError,
    NotConnectedError,
    PayloadTooLargeError,
    ReconcileTimeoutError,
    ReplaceTrackFailure,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
)
from .events import (
    Connected,
    ConnectionReset,
    Data,
    DataChannelOpened,
    DCClose,
    DCError,
    DCMessage,
    DCOpen,
    Direct,
    Disconnected,
    Event,
    FatalError,
    GoingAway,
    IceCandidateError,
    Joined,
    Left,
    Message,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    Presence,
    PresencePeer,
    Reconnecting,
    Resubscribed,
    ServerError,
    StateChange,
    StreamAdded,
    StreamRemoved,
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
    Track,
    WsCloseCode,
)
from .log import Logger, NoopLogger, StdlibLogger
from .media.stream import MediaStream, StreamMetadata
from .mesh.data_channel import DataChannel
from .mesh.peer import MeteredPeer
from .mesh.remote_peer import RemotePeer
from .mesh.stats import (
    CandidateStats,
    DataChannelStats,
    DataStats,
    InboundTrackStats,
    OutboundTrackStats,
    PeerStats,
    RemoteStats,
)
from .options import (
    IceServerConfig,
    MeteredPeerState,
    PeerConnectionState,
    ReconnectOptions,
    SignallingClientOptions,
    SignallingClientState,
    SubscribeOptions,
    TokenProviderFn,
)
from .signalling import SignallingClient

if TYPE_CHECKING:
    from .media.audio_source import AudioSource
    from .media.inbound import iter_frames
    from .media.sources import from_camera, from_file, from_microphone, from_rtsp, screen_share
    from .server.auth import mint_token

_LAZY = {
    "AudioSource": "media.audio_source",
    "from_camera": "media.sources",
    "from_file": "media.sources",
    "from_microphone": "media.sources",
    "from_rtsp": "media.sources",
    "iter_frames": "media.inbound",
    "mint_token": "server.auth",
    "screen_share": "media.sources",
}
"""Names that need an extra, and the module that has each."""

_EXTRAS = {"aiortc": "webrtc", "av": "webrtc", "aiohttp": "server", "jwt": "server"}
"""Which extra installs what such a module imports."""

__all__ = [
    "AckTimeoutError",
    "AudioSource",
    "CandidateStats",
    "Connected",
    "ConnectionEndedError",
    "ConnectionReset",
    "DCClose",
    "DCError",
    "DCMessage",
    "DCOpen",
    "Data",
    "DataChannel",
    "DataChannelOpened",
    "DataChannelOverflowError",
    "DataChannelStats",
    "DataStats",
    "Direct",
    "Disconnected",
    "DisconnectedError",
    "ErrorCode",
    "Event",
    "FatalError",
    "GoingAway",
    "IceCandidateError",
    "IceRecoveryExhaustedError",
    "IceServerConfig",
    "InboundTrackStats",
    "Joined",
    "Left",
    "Logger",
    "MediaStream",
    "Message",
    "MeteredPeer",
    "MeteredPeerOversizedError",
    "MeteredPeerReplaceTrackError",
    "MeteredPeerSendError",
    "MeteredPeerState",
    "MeteredPeerStateError",
    "MeteredRealtimeError",
    "NegotiationError",
    "NegotiationFailedError",
    "NoopLogger",
    "NotConnectedError",
    "OutboundTrackStats",
    "PayloadTooLargeError",
    "PeerConnectionState",
    "PeerJoined",
    "PeerLeft",
    "PeerStats",
    "Presence",
    "PresencePeer",
    "ReconcileTimeoutError",
    "ReconnectOptions",
    "Reconnecting",
    "RemotePeer",
    "RemoteStats",
    "ReplaceTrackFailure",
    "Resubscribed",
    "ServerError",
    "ServerRequestError",
    "SignallingClient",
    "SignallingClientOptions",
    "SignallingClientState",
    "SignallingConnectError",
    "SignallingError",
    "StateChange",
    "StdlibLogger",
    "StreamAdded",
    "StreamMetadata",
    "StreamRemoved",
    "SubscribeOptions",
    "SubscriptionLost",
    "TokenProviderError",
    "TokenProviderFn",
    "TokenRefreshed",
    "Track",
    "WsCloseCode",
    "__version__",
    "from_camera",
    "from_file",
    "from_microphone",
    "from_rtsp",
    "iter_frames",
    "mint_token",
    "screen_share",
]


def __getattr__(name: str) -> Any:
    """Load a name that needs an extra on first use (PEP 562)."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        dependency = (error.name or "").partition(".")[0]
        if dependency not in _EXTRAS:
            raise
        return _Missing(name, dependency)
    globals()[name] = value
    return value


class _Missing:
    """Stands for a name whose dependency is not installed, so that `import *` works without it."""

    def __init__(self, name: str, dependency: str) -> None:
        self._name = name
        self._dependency = dependency

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise ImportError(
            f"{self._name} needs {self._dependency}: pip install 'metered-realtime-mesh[{_EXTRAS[self._dependency]}]'",
            name=self._dependency,
        )


def __dir__() -> list[str]:
    return sorted(__all__)
