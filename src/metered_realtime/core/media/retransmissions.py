"""Which lost packets are retransmitted: each once per round trip, within a share of what is sent."""

from __future__ import annotations

FLOOR = 125_000
"""Bytes per second that may always be retransmitted: 1 Mbit/s, so that a lost key frame is repaired at once."""

SHARE = 0.5
"""Share of the sent bytes that may be retransmitted. 30 % loss in each direction needs 0.45."""

BURST = 160_000
"""Bytes that may be retransmitted at once after a quiet time: all 128 packets that a sender keeps."""

DEFAULT_ROUND_TRIP = 0.05
"""Seconds, before the first report."""

MIN_ROUND_TRIP, MAX_ROUND_TRIP = 0.01, 0.5
"""Bounds of the round trip, in seconds. The lower one keeps a packet from being sent twice for one loss on a very short
path; a receiver waits no longer than the upper one (see `GIVE_UP` in aiortc_compat/jitter_buffer.py)."""

TOLERANCE = 0.9
"""Share of a round trip after which a request counts as a new one: requests come about a round trip apart."""

MAX_REMEMBERED = 512
"""Sequence numbers kept before those of old requests are dropped: four times what a sender keeps."""


class Retransmissions:
    """Admits retransmissions of one sender's packets (RFC 4585 section 6.2.1). Time is an argument, in seconds."""

    def __init__(self) -> None:
        self.sent = 0
        self.refused = 0
        """Requests for available packets that were not admitted."""
        self._sent_at: dict[int, float] = {}
        self._credit = float(BURST)
        self._credited_at: float | None = None

    def admit(
        self, number: int, size: int, now: float, *, round_trip: float | None = None, rate: float | None = None
    ) -> bool:
        """Return whether to retransmit a packet. `size` is in bytes, `rate` is the sending rate in bytes per second."""
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
            if len(self._sent_at) >= MAX_REMEMBERED:  # a sender that is this fast no longer has the oldest packets
                self._sent_at.clear()
        self._sent_at[number] = now
