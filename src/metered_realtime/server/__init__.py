"""The signalling server: channels, presence and direct messages over WebSocket, and the room page."""

from __future__ import annotations

from ..missing import require

require("server", part="metered_realtime.server")

from .auth import mint_token
from .keys import App, PublishableKey, SecretKey
from .limits import Limits
from .metrics.endpoint import MetricsOptions
from .plan import Plan
from .server import SignallingServer
from .telemetry.options import TelemetryOptions
from .turn import TurnServer
from .webhooks.sender import Webhooks, new_webhook_secret

__all__ = [
    "App",
    "Limits",
    "MetricsOptions",
    "Plan",
    "PublishableKey",
    "SecretKey",
    "SignallingServer",
    "TelemetryOptions",
    "TurnServer",
    "Webhooks",
    "mint_token",
    "new_webhook_secret",
]
