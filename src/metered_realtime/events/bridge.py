"""Events of `Bridge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .base import Event

BridgeRole = Literal["publisher", "player"]


@dataclass(frozen=True, slots=True)
class BridgeSessionOpened(Event):
    """A client of an endpoint was admitted, and its session description answered.

    `number` identifies the session in all its events and in the stats. `peer_id` is the participant that a publisher
    is, or that a player watches, None for the whole room. `address` is that of the HTTP client.
    """

    number: int
    role: BridgeRole
    peer_id: str | None
    name: str | None
    address: str


@dataclass(frozen=True, slots=True)
class BridgeSessionConnected(Event):
    """The media connection of a session is up, for the first time or again after a restart of ICE."""

    number: int
    role: BridgeRole
    peer_id: str | None


@dataclass(frozen=True, slots=True)
class BridgeSessionClosed(Event):
    """A session has ended: its last event.

    `reason` is `deleted` (by its client), `lost` (the media connection ended or never came up), `replaced` (by a newer
    session of the same participant), `refused` (the signalling server withdrew the admission), `left` (the participant
    that was watched is gone), `failed`, or `closing`.
    """

    number: int
    role: BridgeRole
    peer_id: str | None
    reason: str
    detail: str = ""
