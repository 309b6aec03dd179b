"""Closing a connection that does not close: private attributes of aiortc.

aiortc ends senders and receivers one after the other and waits for each, and closes the sockets at last. One that does
not end keeps everything. tests/aiortc_compat/test_closing.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from aiortc import RTCIceTransport, RTCPeerConnection

from .transports import dtls_transport


async def close_by_force(pc: RTCPeerConnection) -> None:
    """Close the sockets of a connection, then cancel what its senders and receivers still do."""
    sctp = pc.sctp
    transport = dtls_transport(pc)
    ice: Any = transport.transport
    # `RTCIceTransport.stop()` does nothing more once it has begun, even if it was cancelled before the sockets closed.
    stops = (sctp.stop if sctp is not None else transport.stop, transport.stop, ice.stop, ice._connection.close)
    for stop in stops:
        with contextlib.suppress(Exception):  # whatever is wrong with one, the others are to end
            await stop()
    for task in _tasks(pc):
        task.cancel()
    closed = vars(pc)["_RTCPeerConnection__isClosed"]
    if closed is not None and not closed.done():
        closed.set_result(True)  # who else closes it waits for that


def _tasks(pc: RTCPeerConnection) -> Iterator[Any]:
    for transceiver in pc.getTransceivers():
        sender, receiver = vars(transceiver.sender), vars(transceiver.receiver)
        for task in (
            sender["_RTCRtpSender__rtp_task"],
            sender["_RTCRtpSender__rtcp_task"],
            receiver["_RTCRtpReceiver__rtcp_task"],
        ):
            if task is not None:
                yield task


def outlive_cancellation(ice: RTCIceTransport) -> None:
    """Have the task that follows a transport end quietly when it is cancelled. Call before the transport starts."""
    transport: Any = ice
    follow = transport._monitor

    async def monitor() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await follow()

    transport._monitor = monitor
