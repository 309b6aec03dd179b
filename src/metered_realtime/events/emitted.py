"""Which events each object of the package emits: a handler for any other one would never run."""

from __future__ import annotations

from .base import Event, StateChange
from .bridge import BridgeSessionClosed, BridgeSessionConnected, BridgeSessionOpened
from .channels import (
    ChannelError,
    ChannelMessage,
    ChannelOpened,
    ChannelResumed,
    DataChannelOpened,
    DCClose,
    DCError,
    DCMessage,
    DCOpen,
    StreamOpened,
)
from .one_shot import ConnectionClosed, LocalCandidate
from .peers import (
    ChatMessage,
    ConnectionReset,
    Data,
    FatalError,
    FileFailed,
    FileOffered,
    FileReceived,
    IceCandidateError,
    Joined,
    Left,
    LocalTrackEnded,
    NameChanged,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    PictureRefused,
    StreamAdded,
    StreamRemoved,
    Track,
    TrackEnded,
)
from .signalling import (
    Connected,
    Direct,
    Disconnected,
    GoingAway,
    Message,
    MessagesLost,
    Presence,
    Reconnecting,
    Resubscribed,
    ServerError,
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
)

EventTypes = frozenset[type[Event]]

_MEDIA = (Track, TrackEnded, StreamAdded, StreamRemoved, PictureRefused)
_FILES = (FileOffered, FileReceived, FileFailed)

BY_CLIENT: EventTypes = frozenset(
    {StateChange, Connected, Disconnected, Reconnecting, GoingAway, TokenRefreshed, TokenProviderError}
    | {Message, Direct, MessagesLost, Presence, ServerError, Resubscribed, SubscriptionLost}
)

BY_PEER: EventTypes = frozenset(
    {StateChange, Joined, Left, PeerJoined, PeerLeft, Data, MessagesLost, FatalError, LocalTrackEnded}
    | {NameChanged, StreamOpened}
    | set(_FILES)
)

BY_REMOTE: EventTypes = frozenset(
    {StateChange, NameChanged, LocalTrackEnded, DataChannelOpened, ChannelOpened, StreamOpened, ConnectionReset}
    | {NegotiationError, IceCandidateError}
    | {*_MEDIA, *_FILES}
)

BY_ONE_SHOT: EventTypes = frozenset(
    {StateChange, ConnectionClosed, DataChannelOpened, LocalCandidate, LocalTrackEnded}
    | {NegotiationError, IceCandidateError}
    | set(_MEDIA)
)

BY_DATA_CHANNEL: EventTypes = frozenset({DCOpen, DCClose, DCError, DCMessage})

BY_MANAGED_CHANNEL: EventTypes = BY_DATA_CHANNEL | {ChannelResumed}

BY_PEER_CHANNEL: EventTypes = frozenset({ChannelMessage, ChannelError})

BY_CHAT: EventTypes = frozenset({ChatMessage})

BY_BRIDGE: EventTypes = frozenset({BridgeSessionOpened, BridgeSessionConnected, BridgeSessionClosed})
