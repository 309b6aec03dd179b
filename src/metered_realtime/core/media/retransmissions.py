"""Which lost packets are sent again: each once in a round trip, and not much more than what is sent anyway."""

from __future__ import annotations

FLOOR = 125_000
"""Bytes per second that are sent again whatever is sent: 1 Mbit/s. A key frame that was lost comes back at once."""

SHARE = 0.5
"""Of the bytes that are sent, how many may be sent again. At 30 % loss in each direction it takes 0.45."""

BURST = 160_000
"""Bytes that may be sent again at once after a quiet time: all of the 128 packets that a sender keeps."""

DEFAULT_ROUND_TRIP = 0.05
"""Seconds, before a report has told."""

MIN_ROUND_TRIP, MAX_ROUND_TRIP = 0.01, 0.5
"""Seconds between which a round trip is believed. On a very short path a packet does not come twice for one loss; a
receiver does not wait longer than the other (see `GIVE_UP` in aiortc_compat/jitter_buffer.py)."""

TOLERANCE = 0.9
"""The part of a round trip after which a request is a new one: requests come a round trip apart, more or less."""

MAX_REMEMBERED = 512
"""Numbers that are remembered before those of old requests are forgotten: four times what a sender keeps."""


class Retransmissions:
    """Requests for packets of one sender (RFC 4585 section 6.2.1). Time is an argument, in seconds."""

    def __init__(self) -> None:
        self.sent = 0
        self.refused = 0
        """Requests for packets that are there, and were not sent again."""
        self._sent_at: dict[int, float] = {}
        self._credit = float(BURST)
        self._credited_at: float | None = None

    def admit(
        self, number: int, size: int, now: float, *, round_trip: float | None = None, rate: float | None = None
    ) -> bool:
        """Return whether a packet is sent again. `size` is in bytes, `rate` what is sent in bytes per second."""
        self._earn(now, rate)
        known = DEFAULT_ROUND_TRIP if round_trip is None else round_trip
        interval = TOLERANCE * min(max(known, MIN_ROUND_TRIP), MAX_ROUND_TRIP)
        sent_at = self._sent_at.get(number)
        if (sent_at is not None and now - sent_at < interval) or self._credit < size:
            self.refused += 1
            return False
        self._credit -= size
        self.sent += 1
        self._remember(number, now)
        return True

    def _earn(self, now: float, rate: float | None) -> None:
        if self._credited_at is not None:
            earned = (now - self._credited_at) * max(FLOOR, SHARE * (rate or 0.0))
            self._credit = min(self._credit + earned, max(float(BURST), SHARE * (rate or 0.0)))
        self._credited_at = now

    def _remember(self, number: int, now: float) -> None:
        if len(self._sent_at) >= MAX_REMEMBERED:
            self._sent_at = {it: at for it, at in self._sent_at.items() if now - at < MAX_ROUND_TRIP}
            if len(self._sent_at) >= MAX_REMEMBERED:  # a sender that is this fast has forgotten the first ones itself
                self._sent_at.clear()
        self._sent_at[number] = now
