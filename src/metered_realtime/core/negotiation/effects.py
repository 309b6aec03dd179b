"""What the negotiator asks of the connection."""

from __future__ import annotations

from dataclasses import dataclass

from .sdp import Description


@dataclass(frozen=True, slots=True)
class CreateOffer:
    """Create an offer, leave the connection stable, and report `offer_created` or `failed`."""


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Send the offer to the other end."""

    sdp: str


@dataclass(frozen=True, slots=True)
class ForgetOffer:
    """Undo what creating the pending offer left behind in the connection."""


@dataclass(frozen=True, slots=True)
class CommitOffer:
    """Set the offer as local and the answer as remote description; report `committed` or `failed`."""

    offer: str
    answer: Description


@dataclass(frozen=True, slots=True)
class ApplyOffer:
    """Set the offer as remote description, answer it, and report `answered` or `failed`."""

    offer: Description


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """Send the answer to the other end."""

    sdp: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Replace the connection by a fresh one. No result is reported."""

    reason: str


@dataclass(frozen=True, slots=True)
class FollowLater:
    """Note that the other end was replaced, or restarts ICE, and that this end does the same in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ReplacementsExhausted:
    """Report that the other end was replaced again and again: `attempts` followed it within `seconds`."""

    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Decide when to `restart`: negotiation cannot repair this connection."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Report that the other end does not answer an offer. The connection stays as it is."""

    reason: str


Effect = (
    Unanswered
    | CreateOffer
    | SendOffer
    | ForgetOffer
    | CommitOffer
    | ApplyOffer
    | SendAnswer
    | Rebuild
    | FollowLater
    | ReplacementsExhausted
    | GiveUp
)
