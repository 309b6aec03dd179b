"""Metrics, health and readiness, as Prometheus and a load balancer read them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metered_realtime.server import MetricsOptions, SignallingServer, Webhooks, new_webhook_secret
from metered_realtime.server.metrics.times import BOUNDS, Durations
from tests.support.peers import eventually
from tests.support.probe import dialled, welcomed

TOKEN = "a token of a good length"
DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "prometheus-alerts.yaml"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def fetch(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def samples(server: SignallingServer) -> Samples:
    assert server.metrics_url is not None
    status, text = await fetch(server.metrics_url)
    assert status == 200
    families = text_string_to_metric_families(text)
    return {(it.name, frozenset(it.labels.items())): it.value for family in families for it in family.samples}


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"metered_realtime_{name}", frozenset(labels.items())]


def watched_server(**options: Any) -> SignallingServer:
    return SignallingServer(metrics=MetricsOptions(port=0, **options))


async def test_metrics_count_what_clients_do() -> None:
    async with watched_server() as server, welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
        for client in (ann, bob):
            await client.join("c")
        await ann.ask("publish", channel="c", data=1)
        await ann.ask("send", to="bob", data=1)
        await ann.ask("send", to="nobody", data=1)
        await ann.socket.send("no JSON")
        async with dialled(server, "key=pk_live_wrong") as probe:
            await probe.ending()
        found = await samples(server)
        assert value(found, "connections", app="run") == value(found, "peers", app="run") == 2
        assert value(found, "channels", app="run") == 1
        assert value(found, "deliveries_total", app="run") == 2
        assert value(found, "frames_total", app="run", type="publish", outcome="ok") == 1
        assert value(found, "frames_total", app="run", type="subscribe", outcome="ok") == 2
        assert value(found, "frames_total", app="run", type="send", outcome="peer_not_found") == 1
        assert value(found, "frames_total", app="run", type="other", outcome="malformed_message") == 1
        assert value(found, "frame_seconds_count") == 6
        assert 0 < value(found, "frame_seconds_sum") < 6
        assert value(found, "write_seconds_count") >= 2, "each welcome ends a turn"
        assert value(found, "outbox_bytes", app="run") == 0
        assert sum(v for (name, _), v in found.items() if name.endswith("refused_credentials_total")) == 1
        assert found["process_resident_memory_bytes", frozenset()] > 1_000_000
        await ann.socket.close()
        await eventually(lambda: server.endings.get("by the client"))
        assert value(await samples(server), "connection_endings_total", reason="by the client") == 1


async def test_metrics_beside_the_rest_need_their_token() -> None:
    async with SignallingServer(metrics=MetricsOptions(token=TOKEN)) as server:
        assert server.metrics_url is None
        url = f"{server.http_url}/metrics"
        assert (await fetch(url))[0] == 401
        assert (await fetch(url, Authorization=f"Bearer {TOKEN}x"))[0] == 401
        status, text = await fetch(url, Authorization=f"Bearer {TOKEN}")
        assert (status, "metered_realtime_connections" in text) == (200, True)
        assert TOKEN not in text
    assert TOKEN not in repr(MetricsOptions(token=TOKEN))


async def test_metrics_that_nobody_asked_for_are_not_there() -> None:
    async with SignallingServer() as server:
        assert (await fetch(f"{server.http_url}/metrics"))[0] == 404
    async with watched_server() as server:
        assert (await fetch(f"{server.http_url}/metrics"))[0] == 404, "they have a port of their own"


async def test_a_server_is_healthy_and_ready_on_both_ports() -> None:
    async with watched_server() as server:
        assert server.metrics_url is not None
        for base in (server.http_url, server.metrics_url.removesuffix("/metrics")):
            assert await fetch(f"{base}/healthz") == (200, "ok\n")
            assert await fetch(f"{base}/readyz") == (200, "ready\n")


async def test_a_server_that_stops_is_not_ready() -> None:
    async with watched_server() as server, welcomed(server, "ann") as ann:
        ann.socket.transport.pause_reading()  # it does not take part in the closing handshake
        assert server.metrics_url is not None
        url = server.metrics_url.replace("/metrics", "/readyz")
        stopping = asyncio.ensure_future(server.stop())
        while (await fetch(url)) == (200, "ready\n"):
            pass
        assert await fetch(url) == (503, "stopping\n")
        await stopping
        ann.socket.transport.abort()


async def test_a_metrics_port_in_use_is_told_and_leaves_nothing_open() -> None:
    async with watched_server() as first:
        assert first.metrics_url is not None
        port = int(first.metrics_url.split(":")[2].split("/")[0])
        with pytest.raises(OSError, match=r"cannot listen"):
            await SignallingServer(metrics=MetricsOptions(port=port)).start()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "a port or a token"),
        ({"token": "short"}, "at least 16"),
        ({"port": 70_000}, "70000"),
        ({"port": True}, "True"),
    ],
)
def test_metrics_options_name_what_is_wrong(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        MetricsOptions(**options)


async def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() -> None:
    webhooks = Webhooks("http://127.0.0.1:1/", new_webhook_secret())
    async with (
        SignallingServer(metrics=MetricsOptions(port=0), webhooks=webhooks) as server,
        welcomed(server, "ann") as ann,
    ):
        await ann.join("c")
        async with dialled(server, "key=pk_live_wrong") as probe:
            await probe.ending()
        names = {name for name, _ in await samples(server)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    in_panels = metrics_of([target["expr"] for panel in panels for target in panel["targets"]])
    in_alerts = metrics_of([rule["expr"] for rule in rules])
    assert len(in_panels) >= 12
    assert len(in_alerts) >= 6
    assert {*in_panels, *in_alerts} <= names


def metrics_of(queries: list[str]) -> list[str]:
    """Return the metrics that queries of Prometheus name."""
    bare = [re.sub(r'"[^"]*"', "", query) for query in queries]
    return [name for query in bare for name in re.findall(r"\b(?:metered_realtime_|process_)\w+", query)]


@given(st.lists(st.floats(0, 2), max_size=40))
def test_frame_times_are_cumulative(seconds: list[float]) -> None:
    times = Durations()
    for it in seconds:
        times.note(it)
    counts = [count for _, count in times.buckets]
    assert counts == sorted(counts)
    assert counts[-1] == len(seconds)
    assert times.total == pytest.approx(sum(seconds))
    for bound, count in zip(BOUNDS, counts, strict=False):
        assert count == sum(it <= bound for it in seconds)
