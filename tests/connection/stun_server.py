"""A STUN server on loopback. It tells every client the same public address, whatever theirs is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioice import stun

PUBLIC_ADDRESS = ("203.0.113.7", 40_000)


class _Protocol(asyncio.DatagramProtocol):
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        request = stun.parse_message(data)
        reply = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=request.transaction_id)
        reply.attributes["XOR-MAPPED-ADDRESS"] = PUBLIC_ADDRESS
        self.transport.sendto(bytes(reply), address)


@asynccontextmanager
async def stun_server() -> AsyncIterator[str]:
    """Run a STUN server and yield its URL."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Protocol, ("127.0.0.1", 0))
    try:
        yield f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()
