"""Close connections that do not close by themselves.

aiortc stops senders and receivers one after the other, waits for each, and closes the sockets last. One of them that
does not stop keeps everything open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from aiortc import RTCIceTransport, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender

from ..log import Logger
from .transports import dtls_transport
from .version import Guard, KnownPart

POLITE_CLOSE = 0.5
"""Seconds in which aiortc may close its parts one by one. Then the sockets are closed, whatever it waits for."""


class Connecting(Protocol):
    """What connects the transports."""

    @property
    def is_running(self) -> bool: ...
    async def stop(self) -> None: ...


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


async def tear_down(
    pc: RTCPeerConnection, gathering: asyncio.Task[None] | None, connecting: Connecting, logger: Logger
) -> None:
    """Close a connection whose candidates are being gathered, and which is being connected, perhaps."""
    politely = asyncio.ensure_future(_close_politely(pc, gathering, connecting))
    await asyncio.wait([politely], timeout=POLITE_CLOSE)
    if politely.done():
        return
    logger.warning("connection closed by force", {"after": POLITE_CLOSE})
    politely.cancel()
    if gathering is not None:
        await asyncio.wait([gathering])  # its sockets are known only when it is done
    await close_by_force(pc)
    if connecting.is_running:
        await connecting.stop()
        await close_by_force(pc)  # for what it has started meanwhile


async def _close_politely(pc: RTCPeerConnection, gathering: asyncio.Task[None] | None, connecting: Connecting) -> None:
    await connecting.stop()  # aiortc does not stop what the connect starts after the close
    with contextlib.suppress(Exception):  # it is being thrown away
        if gathering is not None:
            await asyncio.shield(gathering)
        await pc.close()


async def close_by_force(pc: RTCPeerConnection) -> None:
    """Close the sockets of a connection, then cancel the tasks of its senders and receivers."""
    if not GUARD.holds():
        return
    sctp = pc.sctp
    transport = dtls_transport(pc)
    ice: Any = transport.transport
    # `RTCIceTransport.stop()` does nothing more once it has begun, even if it was cancelled before the sockets closed.
    stops = (sctp.stop if sctp is not None else transport.stop, transport.stop, ice.stop, ice._connection.close)
    for stop in stops:
        with contextlib.suppress(Exception):  # a failure of one must not keep the others open
            await stop()
    for task in _tasks(pc):
        task.cancel()
    closed = vars(pc)["_RTCPeerConnection__isClosed"]
    if closed is not None and not closed.done():
        closed.set_result(True)  # other calls of `close()` wait for it


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
    """Let the task that monitors a transport end quietly when it is cancelled. Call it before the transport starts.

    aiortc awaits that task when the transport stops. `asyncio.run` cancels every task at the end of a program, and then
    `RTCPeerConnection.close()` raises `CancelledError` half-way: sockets stay open, and other closers wait for ever.
    """
    if not MONITOR_GUARD.holds():
        return
    transport: Any = ice
    follow = transport._monitor

    async def monitor() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await follow()

    transport._monitor = monitor
