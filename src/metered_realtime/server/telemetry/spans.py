"""Records traces as spans of OpenTelemetry.

Attributes follow the semantic conventions for HTTP and messaging where they have a name. They contain no credential, no
query, no path with ids in it, and nothing of a payload but its size. They do contain peer ids and channel names.

Spans have no parent from outside, except those of REST requests with a valid secret key: a `traceparent` of anybody
else could join the traces of others, and have every request recorded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import Token
from types import TracebackType
from urllib.parse import urlsplit

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from ..._version import __version__
from ...core.wire.frames import ClientFrame, FrameError, Publish, Send
from ..routing import Subscriber
from .hooks import ConnectionTrace, CountingHandler, FrameHandler, RequestTrace, Tracing, WebhookTrace

SCOPE = "metered_realtime.server"

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
"""Methods of HTTP. Others are recorded as `_OTHER`: their number has no bound."""

OWN = "metered_realtime."
"""Prefix of attributes that the semantic conventions have no name for."""


class SpanTracing(Tracing):
    """Makes traces of a server that are spans.

    `frame_ratio` is the share of publishes and sends that are recorded; `chance` returns numbers from 0 to 1.
    """

    def __init__(
        self,
        frame_ratio: float,
        provider: TracerProvider | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider=provider)
        self._frame_ratio = frame_ratio
        self._chance = chance

    def connection(self, address: str) -> ConnectionTrace:
        """Return the span of a connection that begins."""
        return _ConnectionSpan(self._tracer, address, self._frame_ratio, self._chance)

    def request(self, method: str, headers: Mapping[str, str], address: str) -> RequestTrace:
        """Return the span of a REST request that begins."""
        return _RequestSpan(self._tracer, method, headers, address)

    def webhook(self, url: str, count: int, headers: MutableMapping[str, str]) -> WebhookTrace:
        """Return the span of a webhook, and add its context to the headers of the request."""
        return _WebhookSpan(self._tracer, url, count, headers)


class _ConnectionSpan(ConnectionTrace):
    def __init__(self, tracer: Tracer, address: str, frame_ratio: float, chance: Callable[[], float]) -> None:
        self._tracer = tracer
        self._frame_ratio = frame_ratio
        self._chance = chance
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "GET",
            "http.route": "/v1",
            "network.protocol.name": "websocket",
            "client.address": address,
        }
        self._span = _root(tracer, "connect", SpanKind.SERVER, attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span.is_recording():  # else it has ended with the welcome
            if kind is not None:
                _fail(self._span, kind.__name__)
            self._span.end()

    def turned_away(self, status: int) -> None:
        self._span.set_attributes({"http.response.status_code": status, f"{OWN}auth.outcome": "not asked"})

    def refused(self, code: int, reason: str) -> None:
        self._span.set_attributes({f"{OWN}close_code": code, f"{OWN}auth.outcome": reason})

    def admitted(self, app: str, peer_id: str, kind: str, *, resumes: bool) -> None:
        self._span.set_attributes(
            {
                f"{OWN}app": app,
                f"{OWN}peer_id": peer_id,
                f"{OWN}auth.kind": kind,
                f"{OWN}auth.outcome": "accepted",
                f"{OWN}resumed": resumes,
            }
        )

    def welcomed(self) -> None:
        self._span.set_attribute("http.response.status_code", 101)
        self._span.end()

    def watched(self, hub: CountingHandler) -> FrameHandler:
        if not self._frame_ratio:
            return hub
        return _SampledFrames(hub, self._tracer, self._span, self._frame_ratio, self._chance)


class _SampledFrames:
    """Passes frames to the hub, and records a share of the publishes and sends.

    A connection lasts for hours: its frames have traces of their own, with a link to that of its handshake.
    """

    def __init__(
        self, hub: CountingHandler, tracer: Tracer, connection: Span, ratio: float, chance: Callable[[], float]
    ) -> None:
        self._hub = hub
        self._tracer = tracer
        self._links = [Link(connection.get_span_context())]
        self._ratio = ratio
        self._chance = chance

    def refuse(self, subscriber: Subscriber, fault: FrameError) -> None:
        self._hub.refuse(subscriber, fault)

    def handle(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        if isinstance(frame, Publish | Send) and self._chance() < self._ratio:
            self._record(subscriber, frame)
        else:
            self._hub.handle(subscriber, frame)

    def _record(self, subscriber: Subscriber, frame: Publish | Send) -> None:
        operation = "publish" if isinstance(frame, Publish) else "send"
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "metered_realtime",
            "messaging.operation.name": operation,
            "messaging.operation.type": "send",
            "messaging.message.body.size": len(bytes(frame.data)),
            f"{OWN}peer_id": subscriber.peer_id,
        }
        name = frame.channel if isinstance(frame, Publish) else frame.to
        hub, before, deliveries = self._hub, dict(self._hub.outcomes), self._hub.deliveries
        span = _root(self._tracer, operation, SpanKind.SERVER, attributes, self._links)
        # An exception may quote what the client sent.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                hub.handle(subscriber, frame)
            except Exception as error:
                _fail(span, type(error).__name__)
                raise
            changed = [code for (kind, code), count in hub.outcomes.items() if count != before.get((kind, code), 0)]
            outcome = changed[0] if changed else "pending"  # with an engine over a network
            span.set_attributes({f"{OWN}outcome": outcome, f"{OWN}deliveries": hub.deliveries - deliveries})
            if outcome == "ok":  # the name of a refused one may be anything
                span.set_attribute("messaging.destination.name", name)


class _RequestSpan(RequestTrace):
    """Begins when it is known whether its context can be trusted, with the time of the request."""

    def __init__(self, tracer: Tracer, method: str, headers: Mapping[str, str], address: str) -> None:
        self._tracer = tracer
        self._method = method if method in METHODS else "_OTHER"
        self._headers = headers
        self._address = address
        self._began = time.time_ns()
        self._route: str | None = None
        self._span: Span | None = None
        self._current: Token[Context] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._current is not None:
            context.detach(self._current)
        span = self._begun(Context())
        if kind is not None:
            _fail(span, kind.__name__)
        span.end()

    def routed(self, route: str) -> None:
        self._route = route

    def authenticated(self, app: str) -> None:
        span = self._begun(propagate.extract(self._headers, Context()))
        span.set_attribute(f"{OWN}app", app)
        self._current = context.attach(trace.set_span_in_context(span))

    def answered(self, status: int) -> None:
        span = self._begun(Context())
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            _fail(span, str(status))

    def _begun(self, parent: Context) -> Span:
        if self._span is None:
            attributes: dict[str, AttributeValue] = {
                "http.request.method": self._method,
                "client.address": self._address,
            }
            if self._route is not None:
                attributes["http.route"] = self._route
            name = "HTTP" if self._method == "_OTHER" else self._method
            self._span = self._tracer.start_span(
                name if self._route is None else f"{name} {self._route}",
                context=parent,
                kind=SpanKind.SERVER,
                attributes=attributes,
                start_time=self._began,
            )
        return self._span


class _WebhookSpan(WebhookTrace):
    def __init__(self, tracer: Tracer, url: str, count: int, headers: MutableMapping[str, str]) -> None:
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "server.address": urlsplit(url).hostname or "",  # the rest of the URL may hold credentials
            f"{OWN}webhook.events": count,
        }
        self._span = _root(tracer, "webhook", SpanKind.CLIENT, attributes)
        propagate.inject(headers, trace.set_span_in_context(self._span, Context()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            _fail(self._span, kind.__name__)
        self._span.end()

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if not 200 <= status < 300:
            _fail(self._span, str(status))

    def failed(self, kind: str) -> None:
        _fail(self._span, kind)


def _root(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, AttributeValue],
    links: list[Link] | None = None,
) -> Span:
    # Without a context of its own a span would belong to whatever was current when the server started.
    return tracer.start_span(name, context=Context(), kind=kind, attributes=attributes, links=links)


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
