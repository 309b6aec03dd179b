"""Events of `SignallingClient`, and the close codes of its connection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ..options import IceServerConfig
from .base import Event


class WsCloseCode(IntEnum):
    """The WebSocket close codes that have a meaning here. 1006 has no member: no frame carries it."""

    GOING_AWAY = 1001
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    CLIENT_INACTIVITY = 4000
    INVALID_TOKEN = 4001
    TOKEN_EXPIRED = 4002
    CHANNEL_NOT_AUTHORIZED = 4003
    OVER_CONCURRENT_LIMIT = 4010
    OVER_MESSAGE_RATE = 4011
    ACCOUNT_SUSPENDED = 4012
    ADMIN_DISCONNECT = 4020


@dataclass(frozen=True, slots=True)
class PresencePeer:
    """A peer as presence names it, with the metadata of its token. `expelled` if the server made it leave for good."""

    peer_id: str
    metadata: dict[str, Any] | None = None
    expelled: bool = False


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The server welcomed this client. `expires_at` and `server_time` are unix seconds."""

    peer_id: str
    server_time: int
    expires_at: int | None
    is_reconnect: bool
    max_message_size: int
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """A connection that had opened ended."""

    code: int
    reason: str
    will_reconnect: bool


@dataclass(frozen=True, slots=True)
class Message(Event):
    """Somebody published on a subscribed channel."""

    channel: str
    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Direct(Event):
    """Somebody sent this peer a direct message."""

    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Presence(Event):
    """Peers joined or left a subscribed channel. The first after a subscribe lists everybody in `joined`."""

    channel: str
    joined: tuple[PresencePeer, ...]
    left: tuple[PresencePeer, ...]


@dataclass(frozen=True, slots=True)
class ServerError(Event):
    """An error frame that answers no pending request."""

    code: str
    message: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class GoingAway(Event):
    """The server is about to shut down and asks to wait `retry_after_ms` milliseconds."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class TokenRefreshed(Event):
    """The connection goes on with a fresh token, until `expires_at` (unix seconds; None: not known).

    `ice_servers` are those that came with it, None if none did.
    """

    expires_at: int | None
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenProviderError(Event):
    """The token provider failed, or the server did not take its token, three times in a row or more."""

    consecutive_failures: int
    err: Exception


@dataclass(frozen=True, slots=True)
class Reconnecting(Event):
    """The connection is down; attempt number `attempt` since the last welcome starts in `delay` seconds."""

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Resubscribed(Event):
    """After a reconnect the server took a remembered subscription again."""

    channel: str


@dataclass(frozen=True, slots=True)
class SubscriptionLost(Event):
    """After a reconnect the server refused a remembered subscription, or did not answer, in every try.

    It is remembered still, and tried again after the next reconnect; `unsubscribe` forgets it.
    """

    channel: str
    err: Exception
