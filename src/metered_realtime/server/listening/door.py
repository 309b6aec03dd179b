"""How many connections each network may open and have. Time is an argument."""

from __future__ import annotations

from collections import Counter

from ..limits import ConnectLimiter, Limits
from .proxies import IPV6_PREFIXES, WIDER, networks_of


class Door:
    """Counts connection attempts and open connections by the network of the client, wide networks of IPv6 included."""

    def __init__(self, limits: Limits) -> None:
        self._attempts = [
            ConnectLimiter(limits.connects_per_address * factor, limits.connect_window) for factor in _FACTORS
        ]
        self._limits = limits
        self._open: Counter[str] = Counter()

    def reconfigure(self, limits: Limits) -> None:
        """Apply other limits. What was counted is kept, unless the limits of attempts have changed."""
        kept = self._limits
        if (limits.connects_per_address, limits.connect_window) != (kept.connects_per_address, kept.connect_window):
            self._attempts = Door(limits)._attempts
        self._limits = limits

    def admit(self, address: str, now: float) -> float:
        """Count an attempt. Return 0 if it is admitted, else the seconds until another one may be.

        An attempt beyond the limit of a wide network counts for the narrow one, never the other way round: no client
        can use up what its neighbours have.
        """
        networks = networks_of(address)
        for network, factor in zip(networks, _FACTORS, strict=False):
            if self._open[network] >= self._limits.connections_per_address * factor:
                return self._limits.connect_window
        for network, attempts in zip(networks, self._attempts, strict=False):
            if not attempts.admit(network, now):
                return max(attempts.retry_after(network, now), 0.001)
        return 0.0

    def enter(self, address: str) -> None:
        """Count a connection that has opened."""
        self._open.update(networks_of(address))

    def leave(self, address: str) -> None:
        """Forget a connection that has closed."""
        for network in networks_of(address):
            self._open[network] -= 1
            if not self._open[network]:
                del self._open[network]


_FACTORS = tuple(WIDER**level for level in range(len(IPV6_PREFIXES) + 1))
