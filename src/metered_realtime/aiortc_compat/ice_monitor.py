"""A connection can be closed at the end of an event loop, which has cancelled every task.

aiortc awaits its task that follows ICE when the transport stops. If that was cancelled, `RTCPeerConnection.close()`
ends with its `CancelledError` half-way: sockets stay open, and whoever else closes the connection waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiortc import RTCIceTransport


def outlive_cancellation(ice: RTCIceTransport) -> None:
    """Have the task that follows a transport end quietly when it is cancelled. Call before the transport starts."""
    transport: Any = ice
    follow = transport._monitor

    async def monitor() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await follow()

    transport._monitor = monitor
