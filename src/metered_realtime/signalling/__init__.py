"""The signalling client: asyncio and websockets around the decisions in `core.session.session`."""

from .client import SignallingClient

__all__ = ["SignallingClient"]
