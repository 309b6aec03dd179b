"""How many sessions there are, for each address and in all."""

from __future__ import annotations

from collections import Counter

from .refusals import RefusedRequestError

RETRY_AFTER = 10
"""Seconds until another attempt while all places are taken: sessions whose client is gone end within about as long."""


class Places:
    """Counts the sessions that are there or being set up."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken.total()

    def take(self, address: str) -> None:
        """Take a place for an address.

        Raises:
            RefusedRequestError: there is none.
        """
        if self.taken >= self._most:
            raise RefusedRequestError("too_many_sessions", f"{self._most} in all", RETRY_AFTER)
        if self._taken[address] >= self._most_per_address:
            raise RefusedRequestError("too_many_sessions", f"{self._most_per_address} of one address", RETRY_AFTER)
        self._taken[address] += 1

    def give_back(self, address: str) -> None:
        """Give a place back."""
        self._taken[address] -= 1
        if self._taken[address] <= 0:
            del self._taken[address]
