"""Whether the server records traces."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from .hooks import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryOptions:
    """Record traces with the API of OpenTelemetry: connections, REST requests and webhooks.

    `frame_ratio` is the share of the `publish` and `send` frames that are recorded too, 0 to 1. `tracer_provider` is
    where spans go, by default the provider of the process (`opentelemetry.trace.set_tracer_provider`).

    Raises:
        ValueError: the ratio is out of range, or OpenTelemetry is not installed.
    """

    frame_ratio: float = 0.0
    tracer_provider: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        ratio = self.frame_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ValueError(f"frame_ratio must be a number from 0 to 1, not {ratio!r}")
        if find_spec("opentelemetry") is None:
            raise ValueError("traces need OpenTelemetry: pip install 'metered-realtime-mesh[otel]'")


def tracing_of(options: TelemetryOptions | None) -> Tracing:
    """Return what records the traces of a server. It imports OpenTelemetry only if they are on."""
    if options is None:
        return Tracing()
    from .spans import SpanTracing

    return SpanTracing(options.frame_ratio, options.tracer_provider)
