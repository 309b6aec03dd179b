"""What the server bounds, and the counters that find out when a bound is reached. Time is an argument."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields

from ..core.wire.frames import ENVELOPE_ALLOWANCE, MAX_MESSAGE_SIZE, MAX_SERVER_FRAME

MAX_ADDRESSES = 4_096
"""Addresses whose connection attempts are remembered: at 60 attempts each some 10 MB when all are at their limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of the server. Sizes are bytes, times are seconds, counts are whole numbers above 0.

    Raises:
        ValueError: a number is out of its range, or NaN.
    """

    max_message_size: int = MAX_MESSAGE_SIZE
    """A payload. Frames may be `ENVELOPE_ALLOWANCE` larger; beyond that the connection is closed with 1009."""

    channels_per_connection: int = 100
    """Subscriptions that one connection may hold, patterns included."""

    metadata_size: int = 8_192
    """The `metadata` claim of a token, as compact JSON."""

    peer_metadata_size: int = 4_096
    """The `peerMetadata` claim of a token, as compact JSON: everybody in a channel gets it."""

    frames_per_second: float = 100.0
    """What refills the bucket of each connection. Every client frame but `ping` takes one; empty closes with 4011."""

    frame_burst: int = 200
    """What the bucket holds: a browser's trickled candidates come in bursts of tens."""

    bytes_per_frame: int = 40_960
    """What each frame of that bucket may have on average. A second bucket counts bytes, so many for each frame of the
    first: 4 MB per second and 8 MB at once by default. Descriptions have tens of KB, and most frames 0.2 KB. What the
    server has to do beyond reading a frame is paid for in bytes as well (`server.charges`). Empty closes with 4011."""

    pings_per_second: float = 50.0
    """What refills the bucket of pings, WebSocket's own included. Clients send one in 25 s. Empty closes with 4011."""

    ping_burst: int = 500

    patterns_per_connection: int = 25
    """Subscriptions of one connection that are patterns, so that nobody uses up those of the app at once."""

    patterns_per_app: int = 250
    """Different patterns that are subscribed to in one app. Each is compared with every new name that begins as it
    does: 10 to 25 microseconds each at the worst, 2 as a rule."""

    malformed_frames: int = 10
    """This many malformed frames within `malformed_window` close the connection with 1008."""

    malformed_window: float = 10.0

    connects_per_address: int = 60
    """Connection attempts of one address within `connect_window`. More are answered with HTTP 429."""

    connect_window: float = 60.0

    rest_body_size: int = 32_768
    """The body of a REST request. A larger one is answered with 413."""

    rest_per_second: float = 20.0
    """What refills the bucket of each address that uses REST. An empty one is answered with 429."""

    rest_burst: int = 100

    rest_key_per_second: float = 100.0
    """The same for each secret key, from wherever it is used."""

    rest_key_burst: int = 500

    outbox_size: int = 1_048_576
    """Bytes that wait for a slow client. One more frame and it is dropped; nobody else notices."""

    ping_interval: float = 30.0
    """Between WebSocket pings. With `pong_timeout` it bounds how long a dead peer stays in presence: 40 s."""

    pong_timeout: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name), whole=field.type == "int")
        if self.max_message_size + ENVELOPE_ALLOWANCE + self.peer_metadata_size >= MAX_SERVER_FRAME:
            raise ValueError(
                f"max_message_size must leave frames below {MAX_SERVER_FRAME}, not {self.max_message_size}"
            )
        if self.pong_timeout >= self.ping_interval:
            raise ValueError(f"pong_timeout must be below ping_interval, not {self.pong_timeout!r}")

    @property
    def max_frame_size(self) -> int:
        """The largest client frame, payload and envelope."""
        return self.max_message_size + ENVELOPE_ALLOWANCE

    @property
    def bytes_per_second(self) -> float:
        """What refills the bucket of bytes."""
        return self.frames_per_second * self.bytes_per_frame

    @property
    def byte_burst(self) -> int:
        """What the bucket of bytes holds."""
        return max(self.frame_burst * self.bytes_per_frame, self.max_frame_size)


def _check(name: str, value: object, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        kind = "a whole number" if whole else "a finite number"
        raise ValueError(f"{name} must be {kind} above 0, not {value!r}")


class TokenBucket:
    """Allows `rate` takings per second on average and `burst` at once. Starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float, amount: int = 1) -> bool:
        """Take some, if there are so many."""
        self._refill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def left(self, now: float) -> int:
        """Return how many there are."""
        self._refill(now)
        return max(0, int(self._tokens))

    def charge(self, amount: int) -> None:
        """Take some that are used already. What is missing is owed, up to one burst."""
        self._tokens = max(-self._burst, self._tokens - amount)

    def _refill(self, now: float) -> None:
        # A clock that steps back must not take away what was there.
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now


class RateLimiter:
    """A token bucket for each caller, for a bounded number of callers: the longest unused are forgotten."""

    def __init__(self, rate: float, burst: int, max_callers: int = MAX_ADDRESSES) -> None:
        self._rate = rate
        self._burst = burst
        self._max_callers = max_callers
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, caller: str, now: float) -> bool:
        """Take one from the caller's bucket. False when it is empty."""
        bucket = self._buckets.pop(caller, None)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)

    @property
    def retry_after(self) -> int:
        """Whole seconds after which an empty bucket holds one again."""
        return max(1, math.ceil(1 / self._rate))


class FaultCounter:
    """Tells when `tolerated` faults happened within a window."""

    __slots__ = ("_times", "_tolerated", "_window")

    def __init__(self, tolerated: int, window: float) -> None:
        self._tolerated = tolerated
        self._window = window
        self._times: deque[float] | None = None  # most connections never need it

    def note(self, now: float) -> bool:
        """Count a fault. True when it is one too many."""
        if self._times is None:
            self._times = deque(maxlen=self._tolerated)
        self._times.append(now)
        return len(self._times) == self._tolerated and now - self._times[0] <= self._window


class ConnectLimiter:
    """Allows each address so many attempts within a window, for a bounded number of addresses.

    Refused attempts do not count, so that a client that keeps trying gets in as soon as the window allows.
    """

    def __init__(self, attempts: int, window: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._attempts = attempts
        self._window = window
        self._max_addresses = max_addresses
        self._times: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def admit(self, address: str, now: float) -> bool:
        """Count an attempt. False when the address has used up its share."""
        # Taking it out and putting it back keeps the dict in order of use: the first is the longest unused.
        times = self._times.pop(address, None)
        if times is None:
            times = deque(maxlen=self._attempts)
        self._times[address] = times
        if len(times) == self._attempts and now - times[0] < self._window:
            return False
        times.append(now)
        self._forget(now)
        return True

    def retry_after(self, address: str, now: float) -> float:
        """Return the seconds until the address is admitted again."""
        times = self._times.get(address)
        return max(0.0, times[0] + self._window - now) if times else 0.0

    def _forget(self, now: float) -> None:
        while self._times:
            address = next(iter(self._times))
            stale = now - self._times[address][-1] >= self._window
            if not stale and len(self._times) <= self._max_addresses:
                return
            del self._times[address]
