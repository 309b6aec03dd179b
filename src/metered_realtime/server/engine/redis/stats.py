"""What a `RedisEngine` has counted, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RequestOutcome: TypeAlias = Literal["ok", "refused", "unavailable", "unknown", "error"]
"""`refused` over a limit, `unavailable` without a lasting effect, `unknown` if nobody knows, `error` from Redis."""

ROUND_TRIP_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Upper bounds of the buckets of `round_trips`, in seconds. The last bucket has no bound."""


@dataclass(slots=True)
class EngineStats:
    """Totals since the start of the engine.

    Attributes:
        requests: Number of requests by kind (`join`, `publish`, ...) and outcome.
        round_trips: Number of answered commands by round-trip time, one for each bound of `ROUND_TRIP_BOUNDS` and one.
        round_trip_seconds: Sum of the round-trip times.
        connects: Number of times that a shard was reached, the first included.
        losses: Number of times that a shard was lost, by cause.
        repairs: Number of channels and peers that were read again, because something was missing.
        lost_messages: Number of messages and directs that could not be delivered, as far as it is known.
        swept_nodes: Number of nodes whose entries this node has ended.
        malformed: Number of messages of other nodes that could not be read.
    """

    requests: Counter[tuple[str, RequestOutcome]] = field(default_factory=Counter)
    round_trips: list[int] = field(default_factory=lambda: [0] * (len(ROUND_TRIP_BOUNDS) + 1))
    round_trip_seconds: float = 0.0
    connects: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    lost_messages: int = 0
    swept_nodes: int = 0
    malformed: int = 0

    def note_round_trip(self, seconds: float) -> None:
        """Count the answer to a command."""
        self.round_trip_seconds += seconds
        for index, bound in enumerate(ROUND_TRIP_BOUNDS):
            if seconds <= bound:
                self.round_trips[index] += 1
                return
        self.round_trips[-1] += 1
