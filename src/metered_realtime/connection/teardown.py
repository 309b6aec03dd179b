"""The end of an RTCPeerConnection: politely, then by force."""

from __future__ import annotations

import asyncio
import contextlib

from aiortc import RTCPeerConnection

from ..aiortc_compat.closing import close_by_force
from ..log import Logger
from .repeated_task import RepeatedTask

POLITE_CLOSE = 0.5
"""Seconds in which aiortc may close its parts one by one. Then the sockets are closed, whatever it waits for."""


async def tear_down(
    pc: RTCPeerConnection, gathering: asyncio.Task[None] | None, connecting: RepeatedTask, logger: Logger
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


async def _close_politely(
    pc: RTCPeerConnection, gathering: asyncio.Task[None] | None, connecting: RepeatedTask
) -> None:
    await connecting.stop()  # aiortc does not stop what the connect starts after the close
    with contextlib.suppress(Exception):  # it is being thrown away
        if gathering is not None:
            await asyncio.shield(gathering)
        await pc.close()
