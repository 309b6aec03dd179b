"""WebRTC peers in Python: join a channel, stream media and send data between bots and browsers.

`import metered_realtime` loads neither aiortc nor av: names that need them load on first use, and say what to install
where they are missing. Publish/subscribe needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .channels.data_channel import DataChannel
from .channels.managed_channel import ManagedChannel
from .channels.options import ChannelOptions
from .channels.peer_channel import PeerChannel
from .channels.stats import DataChannelStats, DataStats, ManagedChannelState, ManagedChannelStats
from .connection.stats import CandidateStats, ConnectionStats, InboundTrackStats, OutboundTrackStats
from .errors import (
    AckTimeoutError,
    ChannelClosedError,
    ChannelProtocolError,
    ConnectionEndedError,
    ConnectionLossReason,
    ConnectionLostError,
    DataChannelOverflowError,
    DisconnectedError,
    ErrorCode,
    FileFailureReason,
    FileTransferError,
    IceRecoveryExhaustedError,
    LocalCredentialError,
    MessagesMissedError,
    MessageTooLargeError,
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
    ReplayOverflowError,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
    StreamEndedError,
    StreamEndReason,
    TokenExpiredError,
    WhipConnectError,
    WhipError,
    WhipProtocolError,
    WhipRequestError,
)
from .events import (
    BridgeSessionClosed,
    BridgeSessionConnected,
    BridgeSessionOpened,
    ChannelError,
    ChannelMessage,
    ChannelOpened,
    ChannelResumed,
    ChatMessage,
    Connected,
    ConnectionClosed,
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
    FileFailed,
    FileOffered,
    FileReceived,
    GoingAway,
    IceCandidateError,
    Joined,
    Left,
    LocalCandidate,
    LocalTrackEnded,
    Message,
    MessagesLost,
    NameChanged,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    PictureRefused,
    Presence,
    PresencePeer,
    Reconnecting,
    Resubscribed,
    ServerError,
    StateChange,
    StreamAdded,
    StreamOpened,
    StreamRemoved,
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
    Track,
    TrackEnded,
    WsCloseCode,
)
from .files.progress import TransferProgress, TransferResult
from .files.receiving import FileReceiver
from .log import Logger, NoopLogger, StdlibLogger
from .media.stream import MediaStream, StreamMetadata
from .mesh.chat import Chat
from .mesh.peer import MeteredPeer
from .mesh.remote_peer import RemotePeer
from .mesh.stats import PeerStats, RemoteStats
from .missing import MissingExtraError, extra_of
from .options import (
    IceServerConfig,
    MeteredPeerState,
    PeerConnectionState,
    ReconnectOptions,
    SignallingClientOptions,
    SignallingClientState,
    SubscribeOptions,
    TokenProviderFn,
    Tuning,
)
from .rpc.built_in import (
    RpcApplicationError,
    RpcBadReplyError,
    RpcBadRequestError,
    RpcBusyError,
    RpcCancelledError,
    RpcConnectionTimeoutError,
    RpcInternalError,
    RpcInvalidParamsError,
    RpcInvalidReplyError,
    RpcInvalidRequestError,
    RpcParseError,
    RpcRecipientDisconnectedError,
    RpcRecipientNotFoundError,
    RpcRequestTooLargeError,
    RpcResponseTimeoutError,
    RpcResponseTooLargeError,
    RpcSendError,
    RpcServerError,
    RpcTransportError,
    RpcUnexpectedReplyError,
    RpcUnknownIdError,
    RpcUnsupportedMethodError,
    RpcUnsupportedServerError,
    RpcUnsupportedVersionError,
)
from .rpc.channels import RpcVia
from .rpc.client import RpcBatch, RpcClient
from .rpc.codec import RpcFormat
from .rpc.endpoint import RpcStats
from .rpc.errors import ErrorRegistry, RpcError
from .rpc.methods import RpcInvocationData, RpcMethods
from .signalling import SignallingClient
from .streams.reader import StreamReader
from .streams.writer import StreamWriter

if TYPE_CHECKING:
    from .bridge.bridge import Bridge
    from .bridge.options import BridgeLimits
    from .bridge.stats import BridgeSessionStats, BridgeStats
    from .connection.one_shot.connection import OneShotConnection
    from .media.receiving.inbound import iter_frames, iter_pcm, track_to_numpy
    from .media.sources.audio_source import AudioSource
    from .media.sources.factories import from_camera, from_file, from_microphone, from_rtsp, screen_share
    from .media.sources.testsource import PatternTrack, ToneTrack
    from .media.sources.video_source import VideoSource
    from .recording.recorder import Recorder
    from .recording.stats import ParticipantFigures, RecorderStats, RecordingError
    from .server.auth import mint_token
    from .whip.clients import whep_play, whip_publish
    from .whip.session import WhepSession, WhipSession

_LAZY = {
    "AudioSource": "media.sources.audio_source",
    "Bridge": "bridge.bridge",
    "BridgeLimits": "bridge.options",
    "BridgeSessionStats": "bridge.stats",
    "BridgeStats": "bridge.stats",
    "OneShotConnection": "connection.one_shot.connection",
    "ParticipantFigures": "recording.stats",
    "PatternTrack": "media.sources.testsource",
    "Recorder": "recording.recorder",
    "RecorderStats": "recording.stats",
    "RecordingError": "recording.stats",
    "ToneTrack": "media.sources.testsource",
    "VideoSource": "media.sources.video_source",
    "WhepSession": "whip.session",
    "WhipSession": "whip.session",
    "from_camera": "media.sources.factories",
    "from_file": "media.sources.factories",
    "from_microphone": "media.sources.factories",
    "from_rtsp": "media.sources.factories",
    "iter_frames": "media.receiving.inbound",
    "iter_pcm": "media.receiving.inbound",
    "mint_token": "server.auth",
    "screen_share": "media.sources.factories",
    "track_to_numpy": "media.receiving.inbound",
    "whep_play": "whip.clients",
    "whip_publish": "whip.clients",
}
"""Names that need an extra, and the module that has each."""

_EXTRAS_OF_ROOMS = {"bridge": ("webrtc", "server"), "server": ("server",), "whip": ("whip",)}
"""The extras of rooms that need another one than `webrtc`."""

__all__ = [
    "AckTimeoutError",
    "AudioSource",
    "Bridge",
    "BridgeLimits",
    "BridgeSessionClosed",
    "BridgeSessionConnected",
    "BridgeSessionOpened",
    "BridgeSessionStats",
    "BridgeStats",
    "CandidateStats",
    "ChannelClosedError",
    "ChannelError",
    "ChannelMessage",
    "ChannelOpened",
    "ChannelOptions",
    "ChannelProtocolError",
    "ChannelResumed",
    "Chat",
    "ChatMessage",
    "Connected",
    "ConnectionClosed",
    "ConnectionEndedError",
    "ConnectionLossReason",
    "ConnectionLostError",
    "ConnectionReset",
    "ConnectionStats",
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
    "ErrorRegistry",
    "Event",
    "FatalError",
    "FileFailed",
    "FileFailureReason",
    "FileOffered",
    "FileReceived",
    "FileReceiver",
    "FileTransferError",
    "GoingAway",
    "IceCandidateError",
    "IceRecoveryExhaustedError",
    "IceServerConfig",
    "InboundTrackStats",
    "Joined",
    "Left",
    "LocalCandidate",
    "LocalCredentialError",
    "LocalTrackEnded",
    "Logger",
    "ManagedChannel",
    "ManagedChannelState",
    "ManagedChannelStats",
    "MediaStream",
    "Message",
    "MessageTooLargeError",
    "MessagesLost",
    "MessagesMissedError",
    "MeteredPeer",
    "MeteredPeerOversizedError",
    "MeteredPeerReplaceTrackError",
    "MeteredPeerSendError",
    "MeteredPeerState",
    "MeteredPeerStateError",
    "MeteredRealtimeError",
    "MissingExtraError",
    "NameChanged",
    "NegotiationError",
    "NegotiationFailedError",
    "NoopLogger",
    "NotConnectedError",
    "OneShotConnection",
    "OutboundTrackStats",
    "ParticipantFigures",
    "PatternTrack",
    "PayloadTooLargeError",
    "PeerChannel",
    "PeerConnectionState",
    "PeerJoined",
    "PeerLeft",
    "PeerStats",
    "PictureRefused",
    "Presence",
    "PresencePeer",
    "ReconcileTimeoutError",
    "ReconnectOptions",
    "Reconnecting",
    "Recorder",
    "RecorderStats",
    "RecordingError",
    "RemotePeer",
    "RemoteStats",
    "ReplaceTrackFailure",
    "ReplayOverflowError",
    "Resubscribed",
    "RpcApplicationError",
    "RpcBadReplyError",
    "RpcBadRequestError",
    "RpcBatch",
    "RpcBusyError",
    "RpcCancelledError",
    "RpcClient",
    "RpcConnectionTimeoutError",
    "RpcError",
    "RpcFormat",
    "RpcInternalError",
    "RpcInvalidParamsError",
    "RpcInvalidReplyError",
    "RpcInvalidRequestError",
    "RpcInvocationData",
    "RpcMethods",
    "RpcParseError",
    "RpcRecipientDisconnectedError",
    "RpcRecipientNotFoundError",
    "RpcRequestTooLargeError",
    "RpcResponseTimeoutError",
    "RpcResponseTooLargeError",
    "RpcSendError",
    "RpcServerError",
    "RpcStats",
    "RpcTransportError",
    "RpcUnexpectedReplyError",
    "RpcUnknownIdError",
    "RpcUnsupportedMethodError",
    "RpcUnsupportedServerError",
    "RpcUnsupportedVersionError",
    "RpcVia",
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
    "StreamEndReason",
    "StreamEndedError",
    "StreamMetadata",
    "StreamOpened",
    "StreamReader",
    "StreamRemoved",
    "StreamWriter",
    "SubscribeOptions",
    "SubscriptionLost",
    "TokenExpiredError",
    "TokenProviderError",
    "TokenProviderFn",
    "TokenRefreshed",
    "ToneTrack",
    "Track",
    "TrackEnded",
    "TransferProgress",
    "TransferResult",
    "Tuning",
    "VideoSource",
    "WhepSession",
    "WhipConnectError",
    "WhipError",
    "WhipProtocolError",
    "WhipRequestError",
    "WhipSession",
    "WsCloseCode",
    "__version__",
    "from_camera",
    "from_file",
    "from_microphone",
    "from_rtsp",
    "iter_frames",
    "iter_pcm",
    "mint_token",
    "screen_share",
    "track_to_numpy",
    "whep_play",
    "whip_publish",
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
        extra = extra_of(dependency, _EXTRAS_OF_ROOMS.get(module.partition(".")[0], ("webrtc",)))
        if extra is None:
            raise
        return _Missing(name, dependency, extra)
    globals()[name] = value
    return value


class _Missing:
    """Stands for a name whose dependency is not installed, so that `import *` works without it."""

    def __init__(self, name: str, dependency: str, extra: str) -> None:
        self._name = name
        self._dependency = dependency
        self._extra = extra

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise MissingExtraError(self._name, self._dependency, self._extra)


def __dir__() -> list[str]:
    return sorted(__all__)
