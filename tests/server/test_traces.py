"""Traces, as the exporter of the SDK of OpenTelemetry gets them."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from metered_realtime.server import Limits, SignallingServer, TelemetryOptions, Webhooks, new_webhook_secret
from metered_realtime.server.telemetry.hooks import ConnectionTrace, Tracing
from metered_realtime.server.telemetry.options import tracing_of
from metered_realtime.server.telemetry.spans import SpanTracing
from tests.support.peers import eventually
from tests.support.probe import Guest, Probe, dialled, welcomed
from tests.support.rest_client import backend

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
CHANNEL = "/channels/a%2Fb"


class Spans:
    """The spans that have ended, of a provider of the test's own."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    @property
    def names(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]

    @property
    def text(self) -> str:
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Spans:
    return Spans()


@asynccontextmanager
async def traced(spans: Spans, frame_ratio: float = 0.0, **options: Any) -> AsyncIterator[SignallingServer]:
    telemetry = TelemetryOptions(frame_ratio=frame_ratio, tracer_provider=spans.provider)
    async with SignallingServer(telemetry=telemetry, **options) as server:
        yield server


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span, without the prefix of those that are the project's own."""
    return {name.removeprefix("metered_realtime."): value for name, value in (span.attributes or {}).items()}


class TestConnections:
    async def test_a_connection_is_a_span_that_ends_with_its_welcome(self, spans: Spans) -> None:
        async with traced(spans) as server, welcomed(server, "ann"):
            span = spans.one("connect")
        assert spans.names == ["connect"]
        assert span.kind is SpanKind.SERVER
        assert attributes(span) == {
            "http.request.method": "GET",
            "http.route": "/v1",
            "http.response.status_code": 101,
            "network.protocol.name": "websocket",
            "client.address": "127.0.0.1",
            "app": "run",
            "peer_id": "ann",
            "auth.kind": "token",
            "auth.outcome": "accepted",
            "resumed": False,
        }

    async def test_a_refused_connection_tells_why_and_shows_no_credential(self, spans: Spans) -> None:
        async with traced(spans) as server, dialled(server, "key=pk_live_wrong") as probe:
            await probe.ending()
        found = attributes(spans.one("connect"))
        assert (found["auth.outcome"], found["close_code"]) == ("invalid credential", 4001)
        assert "pk_live_wrong" not in spans.text

    async def test_a_connection_that_is_turned_away_has_the_status_of_its_answer(self, spans: Spans) -> None:
        limits = Limits(connects_per_address=1)
        async with traced(spans, limits=limits) as server, ClientSession() as session:
            for _ in range(2):
                await session.get(f"{server.http_url}/v1?key=x")
        last = attributes(spans.named("connect")[-1])
        assert (last["auth.outcome"], last["http.response.status_code"]) == ("not asked", 429)

    async def test_nobody_joins_a_trace_without_a_secret_key(self, spans: Spans) -> None:
        with spans.provider.get_tracer("program").start_as_current_span("start-up"):  # the handlers inherit its context
            async with traced(spans) as server:
                async with dialled(server, additional_headers=TRACEPARENT) as probe:
                    await probe.get()
                async with backend(server, "sk_id_x:wrong") as stranger:
                    await stranger.ask("GET", "/usage", headers=TRACEPARENT)
        for name in ("connect", "GET /v1/usage"):
            span = spans.one(name)
            assert span.parent is None
            assert span.context is not None
            assert format(span.context.trace_id, "032x") != TRACE_ID


class TestRequests:
    async def test_a_request_of_a_backend_continues_its_trace(self, spans: Spans) -> None:
        async with traced(spans) as server, backend(server) as ours:
            await ours.ask("POST", f"{CHANNEL}/publish", {"data": "private"}, headers=TRACEPARENT)
        span = spans.one("POST /v1/channels/{id}/publish")
        assert span.parent is not None
        assert format(span.parent.trace_id, "032x") == TRACE_ID
        assert format(span.parent.span_id, "016x") == PARENT_ID
        assert attributes(span) == {
            "http.request.method": "POST",
            "http.route": "/v1/channels/{id}/publish",
            "http.response.status_code": 200,
            "client.address": "127.0.0.1",
            "app": "run",
        }
        assert span.status.status_code is StatusCode.UNSET

    @pytest.mark.parametrize(
        ("method", "path", "name", "status"),
        [
            ("GET", "/nothing/secret", "GET", 404),
            ("PROPFIND", "/usage", "HTTP", 405),
            ("POST", f"{CHANNEL}/publish", "POST /v1/channels/{id}/publish", 400),
        ],
    )
    async def test_a_refused_request_has_a_name_of_a_bounded_set(
        self, spans: Spans, method: str, path: str, name: str, status: int
    ) -> None:
        async with traced(spans) as server, backend(server) as ours:
            await ours.ask(method, path)
        assert attributes(spans.one(name))["http.response.status_code"] == status
        assert spans.one(name).status.status_code is StatusCode.UNSET
        assert "secret" not in spans.text

    async def test_a_fault_of_the_server_is_an_error_of_its_span(
        self, spans: Spans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("private")

        async with traced(spans) as server, backend(server) as ours:
            monkeypatch.setattr("metered_realtime.server.plan.Meter.usage", fail)
            await ours.ask("GET", "/usage")
        span = spans.one("GET /v1/usage")
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "503"
        assert "private" not in spans.text


class TestFrames:
    async def test_no_frame_is_recorded_unless_asked_for(self, spans: Spans) -> None:
        async with traced(spans) as server, welcomed(server, "ann") as ann:
            await publish_and_send(ann)
        assert spans.names == ["connect"]

    async def test_publishes_and_sends_are_recorded_and_nothing_of_their_payload(self, spans: Spans) -> None:
        async with traced(spans, 1.0) as server, welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            await publish_and_send(ann)
        assert sorted(spans.names) == ["connect", "connect", "publish", "send", "send"]
        published = spans.one("publish")
        assert attributes(published) == {
            "messaging.system": "metered_realtime",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "c",
            "messaging.message.body.size": len('"private"'),
            "peer_id": "ann",
            "outcome": "ok",
            "deliveries": 1,
        }
        welcome = next(it for it in spans.named("connect") if attributes(it)["peer_id"] == "ann")
        assert published.parent is None
        assert [link.context for link in published.links] == [welcome.context]
        refused, delivered = sorted((attributes(it) for it in spans.named("send")), key=lambda it: it["deliveries"])
        assert (refused["outcome"], refused["deliveries"]) == ("peer_not_found", 0)
        assert "messaging.destination.name" not in refused
        assert (delivered["outcome"], delivered["deliveries"]) == ("ok", 1)
        assert "private" not in spans.text

    @pytest.mark.parametrize(("chances", "names"), [([0.2, 0.3], ["publish"]), ([0.25, 0.9], [])])
    def test_the_ratio_decides_which_are_recorded(self, spans: Spans, chances: list[float], names: list[str]) -> None:
        hub, handler, subscriber = recorded_hub(SpanTracing(0.25, spans.provider, iter(chances).__next__))
        for _ in range(2):
            handler.handle(subscriber, PUBLISH)
        assert spans.names == names
        assert hub.outcomes["publish", "ok"] == 2

    def test_a_fault_in_the_hub_is_recorded_without_its_text(
        self, spans: Spans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub, handler, subscriber = recorded_hub(SpanTracing(1.0, spans.provider))

        def fail(*_: object) -> None:
            raise RuntimeError("private")

        monkeypatch.setattr(hub, "_dispatch", fail)
        with pytest.raises(RuntimeError):
            handler.handle(subscriber, PUBLISH)
        assert spans.one("publish").status.status_code is StatusCode.ERROR
        assert attributes(spans.one("publish"))["error.type"] == "RuntimeError"
        assert "private" not in spans.text


class TestOff:
    def test_frames_reach_the_hub_directly_when_they_are_not_recorded(self, spans: Spans) -> None:
        for tracing in (tracing_of(None), SpanTracing(0.0, spans.provider)):
            hub, handler, _ = recorded_hub(tracing)
            assert handler is hub

    def test_traces_that_are_off_record_nothing(self) -> None:
        assert type(tracing_of(None)) is Tracing
        assert type(Tracing().connection("192.0.2.1")) is ConnectionTrace

    @pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), True, "1"])
    def test_a_ratio_out_of_range_is_named(self, ratio: Any) -> None:
        with pytest.raises(ValueError, match=r"from 0 to 1"):
            TelemetryOptions(frame_ratio=ratio)

    def test_without_opentelemetry_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("metered_realtime.server.telemetry.options.find_spec", lambda _: None)
        with pytest.raises(ValueError, match=r"metered-realtime-mesh\[otel\]"):
            TelemetryOptions()

    def test_a_server_without_traces_does_not_import_opentelemetry(self) -> None:
        import subprocess

        code = (
            "import asyncio, sys\n"
            "from metered_realtime.server import SignallingServer\n"
            "async def main():\n"
            "    async with SignallingServer(): pass\n"
            "asyncio.run(main())\n"
            "assert not [it for it in sys.modules if it.startswith('opentelemetry')]"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_webhook_is_a_span_whose_trace_the_backend_can_continue(spans: Spans) -> None:
    requests: list[web.Request] = []
    statuses = [500, 204]

    async def take(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(status=statuses.pop(0) if statuses else 204)

    application = web.Application()
    application.router.add_post("/{any:.*}", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://user:private@127.0.0.1:{site.port}/private"
        async with (
            traced(spans, webhooks=Webhooks(url, new_webhook_secret())) as server,
            welcomed(server, "ann") as ann,
        ):
            await ann.join("c")
            await eventually(lambda: len(spans.named("webhook")) >= 2)
    finally:
        await runner.cleanup()
    first, second = spans.named("webhook")[:2]
    assert first.kind is SpanKind.CLIENT
    assert first.parent is None
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [attributes(it)["http.response.status_code"] for it in (first, second)] == [500, 204]
    assert attributes(first)["server.address"] == "127.0.0.1"
    assert attributes(second)["webhook.events"] >= 1
    for request, span in zip(requests, (first, second), strict=False):
        assert span.context is not None
        ids = f"{span.context.trace_id:032x}-{span.context.span_id:016x}"
        assert request.headers["traceparent"].startswith(f"00-{ids}-")
    assert "private" not in spans.text


async def publish_and_send(peer: Probe) -> None:
    await peer.ask("publish", channel="c", data="private")
    await peer.ask("send", to="nobody", data="private")
    await peer.put("send", to="bob", data="private", requestId="r")
    await peer.get()


def recorded_hub(tracing: Tracing) -> tuple[Any, Any, Any]:
    """Return a hub, what handles the frames of a connection, and the connection."""
    from ..support.probe import lone_hub

    hub = lone_hub()
    return hub, tracing.connection("192.0.2.1").watched(hub), Guest(hub, "ann").subscriber


def _publish() -> Any:
    from metered_realtime.core.wire.frames import decode_client_frame

    return decode_client_frame(json.dumps({"type": "publish", "channel": "c", "data": 1}).encode())


PUBLISH = _publish()
