"""When this end follows another one that was replaced or restarts ICE, and which offer it then answers."""

from __future__ import annotations

from .effects import Effect, ReplacementsExhausted
from .ladder import Pace
from .sdp import Description

MAX_ICE_RESTART_WAIT = 4.0
"""Longest wait before an ICE restart of the other end is followed, in seconds. It costs a few milliseconds, and an end
whose network changes all the time needs it soon."""

REPLACED = "the other end was replaced"


class Following:
    """The pace at which this end follows the other one.

    Attributes:
        offer: The offer to answer then, None to offer.
        at: When to follow.
    """

    def __init__(self) -> None:
        self.offer: Description | None = None
        self.at = 0.0
        self._replacements = Pace()
        self._ice_restarts = Pace(longest=MAX_ICE_RESTART_WAIT)

    @property
    def is_over(self) -> bool:
        """Whether the other end was replaced so often that only its offers are followed."""
        return self._replacements.is_over

    def connected(self, now: float) -> None:
        """Handle the connection coming up."""
        self._replacements.connected(now)
        self._ice_restarts.connected(now)

    def ice_restart(self, offer: Description, now: float) -> None:
        """Handle an offer that restarts ICE."""
        self.offer = offer
        self.at = self._ice_restarts.next_time(now)

    def replacement(self, description: Description, now: float) -> list[Effect]:
        """Handle a description of an end that was replaced. Return the report that it happens all the time, once."""
        was_over = self.is_over
        self.offer = description if description.kind == "offer" else None
        self.at = self._replacements.next_time(now)
        if was_over or not self.is_over:
            return []
        return [ReplacementsExhausted(self._replacements.times, self._replacements.seconds(now))]
