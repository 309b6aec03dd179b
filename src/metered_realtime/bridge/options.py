"""The limits of a bridge."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLimits:
    """The limits of a `Bridge`. Times are in seconds.

    Raises:
        ValueError: a number is out of its range.
    """

    sessions: int = 100
    """Maximum number of sessions. Each has a WebRTC connection: a socket for each interface, and 1 to 3 MB."""

    sessions_per_address: int = 20
    """Maximum number of sessions of one IPv4 address or IPv6 /64. Players behind one NAT share an address."""

    request_time: float = 15.0
    """Time that a request may take: admission by the signalling server, and candidates of STUN and TURN servers."""

    restart_window: float = 10.0
    """Time for which a session whose path is lost waits for its client to restart ICE."""

    requests_per_second: float = 5.0
    """Refill rate of each address's bucket of requests that open a session. Each one is verified by the signalling
    server. An empty bucket is answered with 429."""

    request_burst: int = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be a positive number, not {value!r}")
