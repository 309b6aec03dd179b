"""Exports the traces of a command with the SDK of OpenTelemetry, as its environment variables say."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import typer
from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from .._version import __version__

SERVICE_NAME = "metered-realtime"

FLUSH_TIME = 1.0
"""Seconds for the last spans, when the program ends: a collector that does not answer must not keep it."""


@contextmanager
def exported_traces() -> Iterator[None]:
    """Export spans to a collector within the block.

    A provider that the process has already, from `opentelemetry-instrument`, is used as it is.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        yield
        return
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # `shutdown` waits for a request in progress, which may take as long as the collector likes.
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_TIME)


def _resource() -> Resource:
    """Return what describes this process. The environment (`OTEL_SERVICE_NAME`, …) overrides the defaults."""
    ours = {"service.name": SERVICE_NAME, "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def _exporter() -> SpanExporter:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    transport = "grpc" if protocol == "grpc" else "http"  # the one for gRPC is a package of its own
    try:
        module = import_module(f"opentelemetry.exporter.otlp.proto.{transport}.trace_exporter")
    except ModuleNotFoundError:
        typer.echo(
            f"Error: traces need an exporter: pip install opentelemetry-exporter-otlp-proto-{transport}", err=True
        )
        raise typer.Exit(1) from None
    exporter: SpanExporter = module.OTLPSpanExporter()
    return exporter
