"""Options and the literals of states."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ssl import SSLContext

    from .log import Logger

SignallingClientState = Literal["idle", "connecting", "connected", "reconnecting", "closed"]
MeteredPeerState = Literal["idle", "joining", "joined", "reconnecting", "leaving", "closed"]
PeerConnectionState = Literal["idle", "connecting", "connected", "reconnecting", "closed"]

TokenProviderFn = Callable[[], Awaitable[str] | str]
"""Returns a fresh token, at once or awaited. Called before every connection attempt."""

IceTransportPolicy = Literal["all", "relay"]
"""Which candidates a connection may use: `relay` hides the addresses of this end, and needs a TURN server."""

DEFAULT_URL = "wss://rms.metered.ca"


@dataclass(slots=True, kw_only=True)
class ReconnectOptions:
    """How to come back after a lost connection.

    Attempt n waits `initial_delay * multiplier ** (n - 1)` seconds, at most `max_delay` (`inf`: no cap), varied by
    `jitter_ratio` in both directions. `max_attempts` counts since the last welcome; `inf` never gives up.

    During the first `short_outage` seconds of waiting no delay grows beyond 4 s, so that clients find a server that
    was restarted within 5 s. That is what `reconnect=True` does for a minute; options of your own have it off.

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
    """What a subscription asks for: `include_sender_metadata` adds the publisher's metadata to messages."""

    include_sender_metadata: bool = False


@dataclass(slots=True, kw_only=True)
class SignallingClientOptions:
    """The constructor options of `SignallingClient` and `MeteredPeer`, as one object.

    Exactly one of `api_key` and `token_provider` is needed. The provider is asked before every connection attempt, and
    again shortly before the token of a live connection ends. Times are seconds. An `inactivity_timeout` of 0 or
    less, or infinite, turns the watchdog and the heartbeat off.

    While the client reconnects, up to `queue_while_reconnecting` publishes and sends wait for the connection
    instead of failing. `ssl_context` replaces the system's trust for `wss`. `allow_insecure_url` permits `ws` to
    hosts other than this one, for networks that are private anyway: the credential travels in the clear.
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
    """One STUN or TURN server, as the server's welcome names it. The repr hides the credential."""

    urls: str | list[str]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)


IceServerProvider = Callable[[], Awaitable[Sequence[IceServerConfig]] | Sequence[IceServerConfig]]
"""Returns the STUN and TURN servers for connections to come, at once or awaited."""

IceServersOption = Sequence[IceServerConfig] | IceServerProvider


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, not {value!r}")
