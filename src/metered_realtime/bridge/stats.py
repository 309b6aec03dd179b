"""The statistics of a bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..connection.stats import ConnectionStats
from ..events.bridge import BridgeRole


@dataclass(frozen=True, slots=True)
class BridgeSessionStats:
    """A session. `connection` has its bitrates, losses and tracks; a publisher's tracks are `inbound`."""

    number: int
    role: BridgeRole
    peer_id: str | None
    name: str | None
    address: str
    seconds: float
    """Since it was opened."""
    connection: ConnectionStats


@dataclass(frozen=True, slots=True)
class BridgeStats:
    """A `Bridge`: its sessions in the order of arrival, and what it did since its start."""

    sessions: tuple[BridgeSessionStats, ...]
    published: int
    """Publishers that were admitted."""
    played: int
    """Players that were admitted."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused requests, by the code of their problem document."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """Sessions that have ended, by reason."""
    mixing: bool = False
    """Whether the room is being mixed, which is the case while somebody watches it."""
