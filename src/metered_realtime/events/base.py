"""The base class of events, and the event that all emitters with a state share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events."""


@dataclass(frozen=True, slots=True)
class StateChange(Event):
    """The state of a client, a peer or a remote changed."""

    from_: str
    to: str
