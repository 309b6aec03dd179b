"""What every event has in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event."""


@dataclass(frozen=True, slots=True)
class StateChange(Event):
    """The state of a client, a peer or a remote changed."""

    from_: str
    to: str
