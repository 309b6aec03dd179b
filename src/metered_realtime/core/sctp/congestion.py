"""Congestion control of an SCTP association (RFC 9260 sections 6.3 and 7): pure, without sockets or clock.

`CongestionControl` decides how many bytes may be in flight, and how long the association waits for an acknowledgement.
It is told of round trips, acknowledgements and expired timers.
"""

from __future__ import annotations

from .outbound import Acknowledged

MAX_BURST = 4
"""Full chunks that may be sent at once beyond those that were acknowledged (Max.Burst, RFC 9260 section 16)."""

RTO_INITIAL = 1.0
"""Seconds before anything is known of the path (RFC 9260 section 16; aiortc has 3 from RFC 4960)."""

RTO_MIN = 0.2
"""Seconds after which the last packet of a burst is sent again at the earliest. RFC 9260 recommends 1 and leaves it to
the implementation; TCP in Linux has 0.2, Chromium's SCTP 0.12. Less would mistake delayed acknowledgements for loss."""

RTO_MAX = 3.0
"""Seconds between attempts on a silent path. Consent (RFC 7675) ends it after 6: longer ones would never come."""

RTO_ALPHA, RTO_BETA = 1 / 8, 1 / 4
"""Weights of a new round trip in the mean and in the variation (RFC 9260 section 16)."""

CHUNK_SIZE = 1160
"""Bytes of data in a full chunk: a packet of 1,189 bytes less its headers, as in aiortc."""

MIN_FLIGHT = 160 * CHUNK_SIZE
"""Bytes that may be in flight on any path. As full packets they fit the 512 KiB that aioice has a socket hold."""

MAX_RATE = 50_000_000
"""Bytes per second that one core carries: on a long path there may be as much in flight as fills it at this rate. More
would only wait in queues, and delay media."""

RECEIVE_WINDOW = 1024 * 1024
"""Bytes that may wait at the receiving end for what is missing: aiortc's figure, which it also announces."""


class CongestionControl:
    """The congestion window and the retransmission timeout of one association.

    `window` is in bytes, `timeout` in seconds. `bound` limits the window by what the path carries in its shortest round
    trip. `retransmits_at_once` after a loss: the next packet is sent whatever the window (section 7.2.4).
    """

    def __init__(self) -> None:
        self.window = 3 * CHUNK_SIZE
        self.threshold = RECEIVE_WINDOW
        self.timeout = RTO_INITIAL
        self.bound = MIN_FLIGHT
        self.least_round_trip = RTO_MAX
        self.retransmits_at_once = False
        self._burst = MAX_BURST * CHUNK_SIZE
        self._partly_acknowledged = 0
        self._recovery_until: int | None = None
        self._mean: float | None = None
        self._variation = 0.0

    def is_full(self, flight: int) -> bool:
        """Return whether a full chunk more would exceed the window."""
        return flight + CHUNK_SIZE > self.window

    def allowance(self, flight: int) -> int:
        """Return the bytes that may be in flight after sending now, and begin a new burst."""
        allowed = min(self.window, self.bound, flight + self._burst)
        self._burst = MAX_BURST * CHUNK_SIZE
        return allowed

    def measure(self, round_trip: float) -> None:
        """Update the timeout (section 6.3.1, within other bounds) and the bound of the flight from a round trip."""
        if self._mean is None:
            self._mean, self._variation = round_trip, round_trip / 2
        else:
            self._variation += RTO_BETA * (abs(self._mean - round_trip) - self._variation)
            self._mean += RTO_ALPHA * (round_trip - self._mean)
        self.timeout = min(max(RTO_MIN, self._mean + 4 * self._variation), RTO_MAX)
        if self.least_round_trip > round_trip:
            self.least_round_trip = round_trip
            self.bound = max(MIN_FLIGHT, int(MAX_RATE * round_trip))

    def acknowledge(self, result: Acknowledged, *, was_full: bool, sacked: int, highest_sent: int) -> None:
        """Adjust the window after an acknowledgement (sections 7.2.1, 7.2.2 and 7.2.4), as aiortc does."""
        self._burst += result.bytes
        if self._recovery_until is not None:
            if sacked >= self._recovery_until:
                self._recovery_until = None
            return
        if result.advanced and was_full:
            self._open(result.bytes)
        if result.lost:
            self._shrink()
            self.window = self.threshold
            self._recovery_until = highest_sent
            self.retransmits_at_once = True

    def expire(self) -> None:
        """Begin again with one chunk, and double the timeout (sections 6.3.3 and 7.2.3)."""
        self.timeout = min(2 * self.timeout, RTO_MAX)
        self._recovery_until = None
        self._shrink()
        self.window = CHUNK_SIZE

    def _open(self, acknowledged: int) -> None:
        if self.window <= self.threshold:
            self.window += min(acknowledged, CHUNK_SIZE)
            return
        self._partly_acknowledged += acknowledged
        if self._partly_acknowledged >= self.window:
            self._partly_acknowledged -= self.window
            self.window += CHUNK_SIZE

    def _shrink(self) -> None:
        self.threshold = max(self.window // 2, 4 * CHUNK_SIZE)
        self._partly_acknowledged = 0
