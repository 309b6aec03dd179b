"""The wire alone, on bare websockets: what a foreign peer needs of the server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE


class ForeignSocket:
    """A connection to the server. `on_direct` receives the sender and the data of each direct message."""

    def __init__(self, socket: ClientConnection, on_direct: Callable[[str, Any], None]) -> None:
        self._socket = socket
        self._on_direct = on_direct
        self._request_ids = map(str, itertools.count())
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def join(
        cls, server: SignallingServer, peer_id: str, on_direct: Callable[[str, Any], None], channel: str = "room"
    ) -> ForeignSocket:
        """Come into a channel."""
        socket = await connect(f"{server.url}/v1?token={server.mint_token(peer_id=peer_id)}")
        assert json.loads(await socket.recv())["type"] == "welcome"
        joined = cls(socket, on_direct)
        await joined.request(type="subscribe", channel=channel)
        return joined

    async def request(self, **fields: Any) -> Any:
        """Send a frame and return its ack or error."""
        request_id = next(self._request_ids)
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({**fields, "requestId": request_id}))
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def close(self) -> None:
        """Leave."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        async for text in self._socket:
            frame = json.loads(text)
            if frame.get("requestId") in self._answers:
                self._answers.pop(frame["requestId"]).set_result(frame)
            elif frame["type"] == "direct":
                self._on_direct(frame["from"], frame["data"])
