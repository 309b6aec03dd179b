"""Options of clients and peers, and the literals of their states."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

from .log import Logger

if TYPE_CHECKING:
    from ssl import SSLContext

SignallingClientState = Literal["idle", "connecting", "connected", "reconnecting", "closed"]
MeteredPeerState = Literal["idle", "joining", "joined", "reconnecting", "leaving", "closed"]
PeerConnectionState = Literal["idle", "connecting", "connected", "reconnecting", "closed"]

TokenProviderFn = Callable[[], Awaitable[str] | str]
"""Returns a fresh token, at once or awaited. Called before every connection attempt."""

IceTransportPolicy = Literal["all", "relay"]
"""Which candidates a connection may use. `relay` hides the addresses of this end and needs a TURN server."""

Init = TypeVar("Init", bound=Callable[..., None])

DEFAULT_URL = "wss://rms.metered.ca"


@dataclass(slots=True, kw_only=True)
class ReconnectOptions:
    """How a client reconnects after its connection is lost.

    Attempt n waits `initial_delay * multiplier ** (n - 1)` seconds, at most `max_delay` (`inf`: no limit), varied by
    `jitter_ratio` in both directions. `max_attempts` counts since the last welcome; `inf` never gives up.

    During the first `short_outage` seconds of waiting each delay is at most 4 s, so that clients find a restarted
    server within 5 s. `reconnect=True` does that for a minute; `ReconnectOptions()` does not by default.

    Raises:
        ValueError: a number is out of its range, or NaN.
    """

    initial_delay: float = 0.5
    multiplier: float = 2.0
    max_delay: float = 30.0
    jitter_ratio: float = 0.2
    max_attempts: float = 100
    short_outage: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.initial_delay < math.inf, "initial_delay", self.initial_delay, "above 0 and finite")
        _require(1 <= self.multiplier < math.inf, "multiplier", self.multiplier, "at least 1 and finite")
        _require(self.initial_delay <= self.max_delay, "max_delay", self.max_delay, "at least initial_delay")
        _require(0 <= self.jitter_ratio <= 1, "jitter_ratio", self.jitter_ratio, "from 0 to 1")
        _require(self.max_attempts >= 0, "max_attempts", self.max_attempts, "at least 0")
        _require(self.short_outage >= 0, "short_outage", self.short_outage, "at least 0")


@dataclass(slots=True, kw_only=True)
class SubscribeOptions:
    """Options of a subscription. `include_sender_metadata` adds the publisher's metadata to messages."""

    include_sender_metadata: bool = False


@dataclass(slots=True, kw_only=True)
class SignallingClientOptions:
    """The constructor options of `SignallingClient` and `MeteredPeer`, as one object.

    Exactly one of `api_key`, `token` and `token_provider` is required. The provider is called before every connection
    attempt, and again shortly before the token of a live connection expires. A plain `token` is used until it expires;
    the client then ends with a `TokenExpiredError`. Times are in seconds. An `inactivity_timeout` that is infinite, 0
    or negative disables the watchdog and the heartbeat.

    While the client reconnects, up to `queue_while_reconnecting` publishes and sends wait for the connection
    instead of failing. `ssl_context` replaces the system's trust store for `wss`. `allow_insecure_url` permits `ws` to
    hosts other than this one, for private networks: the credential is sent unencrypted.
    """

    api_key: str | None = field(default=None, repr=False)
    token_provider: TokenProviderFn | None = None
    url: str | None = None
    token_provider_timeout: float = 10.0
    logger: Logger | None = None
    reconnect: ReconnectOptions | bool = True
    inactivity_timeout: float = 60.0
    auto_resubscribe: bool = True
    queue_while_reconnecting: int = 0
    ssl_context: SSLContext | None = None
    allow_insecure_url: bool = False
    token: str | None = field(default=None, repr=False)


class KeywordsWithoutToken(TypedDict, total=False):
    """The fields of `SignallingClientOptions` as keywords of a constructor that has a `token` of its own."""

    api_key: str | None
    token_provider: TokenProviderFn | None
    url: str | None
    token_provider_timeout: float
    logger: Logger | None
    reconnect: ReconnectOptions | bool
    inactivity_timeout: float
    auto_resubscribe: bool
    queue_while_reconnecting: int
    ssl_context: SSLContext | None
    allow_insecure_url: bool


class ClientKeywords(KeywordsWithoutToken, total=False):
    """The fields of `SignallingClientOptions` as keywords of a constructor, for type checkers."""

    token: str | None


def has_credential(keywords: ClientKeywords) -> bool:
    """Return whether a constructor was given a credential."""
    return bool(keywords.get("api_key") or keywords.get("token") or keywords.get("token_provider"))


def options_or_keywords(options: SignallingClientOptions | None, keywords: ClientKeywords) -> SignallingClientOptions:
    """Return the options that a constructor was given as one object, or else as keywords.

    Raises:
        TypeError: a keyword is unknown.
    """
    named = SignallingClientOptions(**keywords)
    return options or named


def shows_client_keywords(init: Init) -> Init:
    """Show the `ClientKeywords`, with their defaults, in the signature of a constructor that takes `**keywords`."""
    signature = inspect.signature(init)
    own = [it for it in signature.parameters.values() if it.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(it.name, inspect.Parameter.KEYWORD_ONLY, default=it.default, annotation=it.type)
        for it in fields(SignallingClientOptions)
    ]
    before = [it for it in own if it.kind is not inspect.Parameter.KEYWORD_ONLY]
    signature = signature.replace(parameters=[*before, *options, *own[len(before) :]])
    init.__signature__ = signature  # type: ignore[attr-defined]
    return init


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Which of aiortc's own, slower paths new connections avoid: all that this package has something faster for.

    Nothing of it has to be the same at both ends, and none of it changes what a program sees. Switch one off to find
    out whether it is the cause of a problem, to compare, or to use something of aiortc that it replaces.
    """

    fast_data: bool = True
    """Carry data channels in full packets, straight from TLS to the socket (docs/data_path.md). Off, aiortc's own SCTP
    and DTLS do it, at a fraction of the speed, and media is not preferred to data; ICE cannot be restarted then."""

    fast_checks: bool = True
    """Start connectivity checks when there is something to check, and choose one pair that works. Off, aioice polls
    every 20 ms, which takes two thirds of the time of a local connection; ICE cannot be restarted then."""

    prompt_video: bool = True
    """Release a picture with its last packet, and give up one that stays incomplete after half a second. Off, aiortc
    releases it with the first packet of the next one, and waits for 512 packets behind a gap."""

    prompt_audio: bool = True
    """Release sound packet by packet, and go on after a gap of 80 ms. Off, aiortc's jitter buffer holds four packets
    back, always."""

    shared_payloads: bool = True
    """Cut each packet of a track into RTP payloads once for all receivers. Off, aiortc's sender does so for each."""


DEFAULT_TUNING = Tuning()
"""Everything on."""


@dataclass(frozen=True, slots=True)
class IceServerConfig:
    """A STUN or TURN server. The repr hides the credential."""

    urls: str | list[str]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)


IceServerProvider = Callable[[], Awaitable[Sequence[IceServerConfig]] | Sequence[IceServerConfig]]
"""Returns the STUN and TURN servers for connections to come, at once or awaited."""

IceServersOption = Sequence[IceServerConfig] | IceServerProvider


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, not {value!r}")
