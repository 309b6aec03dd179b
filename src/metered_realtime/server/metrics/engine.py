"""The metrics of what the nodes of a server share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from ..engine.contract import Engine
from ..engine.memory import MemoryEngine
from ..engine.redis.stats import ROUND_TRIP_BOUNDS, EngineStats
from .names import PREFIX


def engine_metrics(engine: Engine) -> Iterator[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]:
    """Yield what an engine tells of itself: all of them whether it is up, and what they count as far as it is known."""
    up = GaugeMetricFamily(f"{PREFIX}_engine_up", "1 if the other nodes can be reached.")
    up.add_metric([], float(engine.is_up))
    yield up
    if isinstance(engine, MemoryEngine):
        kept = GaugeMetricFamily(f"{PREFIX}_history_bytes", "Memory of the messages kept for those who return.")
        kept.add_metric([], engine.history_bytes)
        yield kept
    stats = getattr(engine, "stats", None)
    if isinstance(stats, EngineStats):
        yield from _requests(stats)


def _requests(stats: EngineStats) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
    text, labels = "Requests to the engine, by kind and outcome.", ["kind", "outcome"]
    requests = CounterMetricFamily(f"{PREFIX}_engine_requests", text, labels=labels)
    for (kind, outcome), count in list(stats.requests.items()):
        requests.add_metric([kind, outcome], count)
    yield requests
    losses = CounterMetricFamily(f"{PREFIX}_engine_losses", "Losses of the connection, by cause.", labels=["cause"])
    for cause, count in list(stats.losses.items()):
        losses.add_metric([cause], count)
    yield losses
    reached = list(accumulate(stats.round_trips))
    bounds = [*map(str, ROUND_TRIP_BOUNDS), "+Inf"]
    yield HistogramMetricFamily(
        f"{PREFIX}_engine_round_trip_seconds",
        "Seconds until a command was answered.",
        buckets=[(bound, float(count)) for bound, count in zip(bounds, reached, strict=True)],
        sum_value=stats.round_trip_seconds,
    )
    counts = {
        "engine_lost_messages": ("Messages and directs that could not be delivered.", stats.lost_messages),
        "engine_repairs": ("Channels and peers that were read again.", stats.repairs),
        "engine_swept_nodes": ("Nodes whose entries this one has ended.", stats.swept_nodes),
        "engine_malformed": ("Messages of other nodes that could not be read.", stats.malformed),
    }
    for name, (text, count) in counts.items():
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, count)
