"""The phases of a negotiation, see `negotiator`."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """What a negotiation is doing."""

    STABLE = auto()
    OFFERING = auto()
    OFFERED = auto()
    COMMITTING = auto()
    ANSWERING = auto()
    FOLLOWING = auto()
    CLOSED = auto()


BUSY = frozenset({Phase.OFFERING, Phase.COMMITTING, Phase.ANSWERING})
"""The phases in which an operation runs on the connection."""


class NegotiationStateError(Exception):
    """An input that is illegal in the current phase: a bug in the caller."""
