"""Events of `SignallingClient`, and the close codes of its connection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ..options import IceServerConfig
from .base import Event


class WsCloseCode(IntEnum):
    """The WebSocket close codes of the protocol. 1006 has no member, since no frame carries it."""

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
    """A peer in presence, with the metadata of its token. `expelled` if the server disconnected it for good."""

    peer_id: str
    metadata: dict[str, Any] | None = None
    expelled: bool = False


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The client is connected. `server_time` and `expires_at`, the expiry of its token, are in unix seconds."""

    peer_id: str
    server_time: int
    expires_at: int | None
    is_reconnect: bool
    max_message_size: int
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """An open connection ended. `err` is a `TokenExpiredError` if the token of a client with `token=` has expired."""

    code: int
    reason: str
    will_reconnect: bool
    err: Exception | None = None


@dataclass(frozen=True, slots=True)
class Message(Event):
    """A message was published on a subscribed channel."""

    channel: str
    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Direct(Event):
    """A direct message for this peer arrived."""

    sender_peer_id: str
    data: Any
    sender_metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MessagesLost(Event):
    """Messages were sent to this peer while it was away, or the server was in trouble, and cannot be delivered.

    `channel` is the channel or the pattern that they belong to, None for direct messages. `count` is their number, None
    if it is not known. Comes before newer messages of the same kind, from servers that keep messages for clients that
    return; others lose them without a word.
    """

    channel: str | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Presence(Event):
    """Peers joined or left a subscribed channel. The first event after a subscribe has all peers in `joined`."""

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
    """The server is shutting down and expects this client again in `retry_after_ms` milliseconds. It waits little less,
    and never longer."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class TokenRefreshed(Event):
    """The connection continues with a new token, until `expires_at` (unix seconds; None if unknown).

    `ice_servers` are those that the server sent with it, or None.
    """

    expires_at: int | None
    ice_servers: tuple[IceServerConfig, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenProviderError(Event):
    """The token provider failed, or the server refused its token, three or more times in a row."""

    consecutive_failures: int
    err: Exception


@dataclass(frozen=True, slots=True)
class Reconnecting(Event):
    """The connection is lost. Attempt number `attempt` since the last welcome starts in `delay` seconds."""

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Resubscribed(Event):
    """A subscription was restored after a reconnect."""

    channel: str


@dataclass(frozen=True, slots=True)
class SubscriptionLost(Event):
    """A subscription could not be restored after a reconnect: every attempt was refused or not answered.

    It is restored after the next reconnect, unless `unsubscribe` is called.
    """

    channel: str
    err: Exception
