"""The signalling client: asyncio and websockets around the decisions in `core.session`."""

from .client import SignallingClient

__all__ = ["SignallingClient"]
