"""Events of `OneShotConnection`."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Event


@dataclass(frozen=True, slots=True)
class LocalCandidate(Event):
    """A STUN or TURN server gave this end a candidate, after the description that could have held it.

    `candidate` is a `candidate:...` line (RFC 8839 section 5.1), None after the last one. `mid` names the section of
    the transport, `ufrag` the ICE credentials to which it belongs.
    """

    candidate: str | None
    mid: str
    ufrag: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """The connection has ended: its last event. `err` is the reason, None if the program closed it."""

    err: Exception | None = None
