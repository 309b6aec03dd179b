"""Closing a connection that does not close: private attributes of aiortc.

aiortc ends senders and receivers one after the other and waits for each, and closes the sockets at last. One that does
not end keeps everything. tests/aiortc_compat/test_closing.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from aiortc import RTCIceTransport, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender

from .transports import dtls_transport
from .version import Guard, KnownPart

GUARD = Guard(
    "a connection that does not close in time is left to the event loop",
    KnownPart(RTCPeerConnection, "7e2df1bb95ebce29", "close"),
    KnownPart(RTCRtpSender, "0605ffeb22509872", "send", "stop"),
    KnownPart(RTCRtpReceiver, "95627705c2781cad", "receive", "stop"),
    KnownPart(RTCIceTransport, "21ec0a44c16c9316", "stop"),
)

MONITOR_GUARD = Guard(
    "a program that ends with open connections may leave sockets open",
    KnownPart(RTCIceTransport, "95545a7fc797304f", "_monitor", "start", "stop"),
)


async def close_by_force(pc: RTCPeerConnection) -> None:
    """Close the sockets of a connection, then cancel what its senders and receivers still do."""
    if not GUARD.holds():
        return
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
    if not MONITOR_GUARD.holds():
        return
    transport: Any = ice
    follow = transport._monitor

    async def monitor() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await follow()

    transport._monitor = monitor
