"""The metrics of a server, read from its counters when Prometheus asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ..._version import __version__
from ..engine.contract import Engine
from ..tenant import Tenant
from ..webhooks.sender import WebhookSender
from .engine import engine_metrics
from .names import PREFIX
from .times import Durations

M = TypeVar("M", GaugeMetricFamily, CounterMetricFamily)


class Watched(Protocol):
    """What the metrics are read from."""

    @property
    def endings(self) -> Mapping[str, int]: ...
    @property
    def refusals(self) -> Mapping[str, int]: ...
    @property
    def frame_times(self) -> Durations: ...
    @property
    def write_times(self) -> Durations: ...
    @property
    def webhooks(self) -> WebhookSender | None: ...
    @property
    def tenants(self) -> Iterable[Tenant]: ...
    @property
    def engine(self) -> Engine: ...


class ServerCollector(Collector):
    """Yields the metrics of a server. Reading them takes time in proportion to its connections."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]:
        """Yield each metric with its current values."""
        yield _by(GaugeMetricFamily, "build_info", "1, with the version of the server.", "version", {__version__: 1})
        yield from self._state()
        yield from self._traffic()
        yield from self._webhooks()
        yield from engine_metrics(self._watched.engine)
        yield _by(
            CounterMetricFamily, "connection_endings", "Connections that have ended.", "reason", self._watched.endings
        )
        yield _by(
            CounterMetricFamily,
            "refused_credentials",
            "Handshakes that were refused.",
            "reason",
            self._watched.refusals,
        )

    def _webhooks(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        sender = self._watched.webhooks
        if sender is not None:
            queue = sender.queue
            yield GaugeMetricFamily(f"{PREFIX}_webhooks_queued", "Events that the backend does not have.", len(queue))
            yield CounterMetricFamily(f"{PREFIX}_webhooks_dropped", "Events dropped from a full queue.", queue.dropped)
            yield CounterMetricFamily(f"{PREFIX}_webhooks_failures", "Requests that have failed.", sender.failures)

    def _state(self) -> Iterator[GaugeMetricFamily]:
        connections = _of_apps(GaugeMetricFamily, "connections", "Open WebSockets.")
        peers = _of_apps(GaugeMetricFamily, "peers", "Peers that are connected.")
        channels = _of_apps(GaugeMetricFamily, "channels", "Channels with at least one peer.")
        unsent = _of_apps(GaugeMetricFamily, "outbox_bytes", "Bytes that wait for slow clients.")
        for tenant in self._watched.tenants:
            connections.add_metric([tenant.id], len(tenant.sockets))
            peers.add_metric([tenant.id], tenant.hub.peer_count)
            channels.add_metric([tenant.id], tenant.hub.channel_count)
            unsent.add_metric([tenant.id], sum(socket.unsent_bytes for socket in tenant.sockets))
        yield from (connections, peers, channels, unsent)

    def _traffic(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        text, labels = "Frames of clients, by type and by error code or `ok`.", ["app", "type", "outcome"]
        frames = CounterMetricFamily(f"{PREFIX}_frames", text, labels=labels)
        deliveries = _of_apps(CounterMetricFamily, "deliveries", "Messages and direct messages written to a client.")
        for tenant in self._watched.tenants:
            for (kind, outcome), count in tenant.hub.outcomes.items():
                frames.add_metric([tenant.id, kind, outcome], count)
            deliveries.add_metric([tenant.id], tenant.hub.deliveries)
        yield from (frames, deliveries)
        yield _histogram(
            "frame_seconds",
            "Seconds that handling a frame takes, without writes that are joined.",
            self._watched.frame_times,
        )
        yield _histogram(
            "write_seconds", "Seconds that the writes of a turn of the event loop take.", self._watched.write_times
        )


def _of_apps(family: type[M], name: str, text: str) -> M:
    return family(f"{PREFIX}_{name}", text, labels=["app"])


def _histogram(name: str, text: str, durations: Durations) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets=durations.buckets, sum_value=durations.total)


def _by(family: type[M], name: str, text: str, label: str, values: Mapping[str, int]) -> M:
    made = family(f"{PREFIX}_{name}", text, labels=[label])
    for value, number in values.items():
        made.add_metric([value], number)
    return made


def registry_of(watched: Watched) -> CollectorRegistry:
    """Return a registry with the metrics of a server and of its process."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(watched))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """Return all metrics in Prometheus' text format."""
    return generate_latest(registry)
