"""The limits of the server, and the counters that enforce them. Time is an argument."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields

from ..core.wire.frames import ENVELOPE_ALLOWANCE, MAX_MESSAGE_SIZE, MAX_SERVER_FRAME

MAX_ADDRESSES = 4_096
"""Maximum number of addresses whose connection attempts are remembered: 10 MB when all are at a limit of 60."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server. Sizes are in bytes, times in seconds, counts are positive integers.

    Raises:
        ValueError: a number is out of its range, or NaN.
    """

    max_message_size: int = MAX_MESSAGE_SIZE
    """Maximum payload size. Frames may be `ENVELOPE_ALLOWANCE` larger; a larger one closes the connection with 1009."""

    channels_per_connection: int = 100
    """Maximum number of subscriptions of one connection, patterns included."""

    metadata_size: int = 8_192
    """Maximum size of a token's `metadata` claim, as compact JSON."""

    peer_metadata_size: int = 4_096
    """Maximum size of a token's `peerMetadata` claim, as compact JSON: it is sent to all peers of a channel."""

    frames_per_second: float = 100.0
    """Refill rate of each connection's frame bucket. Every client frame except `ping` takes one; an empty bucket closes
    the connection with 4011."""

    frame_burst: int = 200
    """Capacity of the frame bucket: a browser's trickled candidates come in bursts of tens."""

    bytes_per_frame: int = 40_960
    """Average size of the frames in that bucket. A second bucket counts bytes, this many for each frame of the first: 4
    MB per second and 8 MB at once by default. Descriptions have tens of KB, most frames 0.2 KB. Work beyond reading a
    frame is charged in bytes too (`server.charges`). An empty bucket closes the connection with 4011."""

    pings_per_second: float = 50.0
    """Refill rate of the bucket of pings, those of WebSocket included. Clients send one every 25 s. An empty bucket
    closes the connection with 4011."""

    ping_burst: int = 500

    patterns_per_connection: int = 25
    """Maximum number of pattern subscriptions of one connection, so that one client cannot use up those of the app."""

    patterns_per_app: int = 250
    """Maximum number of different patterns subscribed to in one app. Each is compared with every new name that has its
    literal prefix: 2 microseconds as a rule, 10 to 25 at worst."""

    malformed_frames: int = 10
    """Number of malformed frames within `malformed_window` that close the connection with 1008."""

    malformed_window: float = 10.0

    connects_per_address: int = 60
    """Maximum number of connection attempts of one address within `connect_window`. More are answered with HTTP 429."""

    connect_window: float = 60.0

    connections_per_address: int = 1_000
    """Maximum number of open WebSockets of one address: an office or a carrier shares one, a test program has hundreds.
    A /64 of IPv6 counts as an address, a /56 has 4 times and a /48 16 times as many, of attempts too. More are answered
    with HTTP 429."""

    rest_body_size: int = 32_768
    """Maximum size of a REST request body. A larger one is answered with 413."""

    rest_per_second: float = 20.0
    """Refill rate of each address's bucket of REST requests. If it is empty, requests are answered with 429."""

    rest_burst: int = 100

    rest_key_per_second: float = 100.0
    """The same for each secret key, over all addresses."""

    rest_key_burst: int = 500

    outbox_size: int = 1_048_576
    """Maximum number of bytes that wait for a slow client. When it is exceeded the client is disconnected, without
    effect on others."""

    recovered_bytes: int = 524_288
    """Maximum size of the missed messages that a connection gets when its client comes back, half an outbox at most.
    The newest are sent; the client is told how many of the older ones are lost."""

    return_time: float = 10.0
    """Seconds that a connection which is lost without a goodbye keeps its places: a peer that is back by then has
    neither left nor joined for others, and gets the directs that were sent to it."""

    ping_interval: float = 30.0
    """Interval between WebSocket pings. With `pong_timeout` it limits how long a dead peer stays in presence: 40 s."""

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
        """Maximum size of a client frame, payload and envelope."""
        return self.max_message_size + ENVELOPE_ALLOWANCE

    @property
    def bytes_per_second(self) -> float:
        """Refill rate of the bucket of bytes."""
        return self.frames_per_second * self.bytes_per_frame

    @property
    def byte_burst(self) -> int:
        """Capacity of the bucket of bytes."""
        return max(self.frame_burst * self.bytes_per_frame, self.max_frame_size)


def _check(name: str, value: object, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        kind = "a whole number" if whole else "a finite number"
        raise ValueError(f"{name} must be {kind} above 0, not {value!r}")


class TokenBucket:
    """A token bucket: `rate` tokens per second on average and `burst` at once. Starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take_tokens(self, now: float, amount: int = 1) -> bool:
        """Take `amount` tokens. Return False, and take none, if there are fewer."""
        self._refill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def left(self, now: float) -> int:
        """Return the number of tokens."""
        self._refill(now)
        return max(0, int(self._tokens))

    def charge(self, amount: int) -> None:
        """Take tokens for work that is done already. What is missing becomes a debt of at most one burst."""
        self._tokens = max(-self._burst, self._tokens - amount)

    def _refill(self, now: float) -> None:
        # A clock that steps back must not remove tokens.
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now


class RateLimiter:
    """Token buckets for a bounded number of callers. The least recently used are forgotten."""

    def __init__(self, rate: float, burst: int, max_callers: int = MAX_ADDRESSES) -> None:
        self._rate = rate
        self._burst = burst
        self._max_callers = max_callers
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, caller: str, now: float) -> bool:
        """Take a token from the caller's bucket. Return False if it is empty."""
        bucket = self._buckets.pop(caller, None)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take_tokens(now)

    @property
    def retry_after(self) -> int:
        """Whole seconds until an empty bucket holds a token again."""
        return max(1, math.ceil(1 / self._rate))


class FaultCounter:
    """Counts faults within a sliding window."""

    __slots__ = ("_times", "_tolerated", "_window")

    def __init__(self, tolerated: int, window: float) -> None:
        self._tolerated = tolerated
        self._window = window
        self._times: deque[float] | None = None  # most connections have no faults

    def count_fault(self, now: float) -> bool:
        """Count a fault. Return True if it exceeds the number that is tolerated."""
        if self._times is None:
            self._times = deque(maxlen=self._tolerated)
        self._times.append(now)
        return len(self._times) == self._tolerated and now - self._times[0] <= self._window


class ConnectLimiter:
    """Limits the connection attempts of each address within a sliding window, for a bounded number of addresses.

    Refused attempts are not counted, so that a client that keeps trying is admitted as soon as the window allows.
    """

    def __init__(self, attempts: int, window: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._attempts = attempts
        self._window = window
        self._max_addresses = max_addresses
        self._times: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def admit(self, address: str, now: float) -> bool:
        """Count an attempt. Return False if the address has reached its limit."""
        # Removing and adding it again keeps the dict in order of use: the first is the least recently used.
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
