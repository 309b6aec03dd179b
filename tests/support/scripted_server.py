"""A WebSocket server that follows the script of a test, correct or faulty."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ssl import SSLContext
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

WELCOME = {"type": "welcome", "peerId": "ann", "expiresAt": None, "serverTime": 1, "maxMessageSize": 65536}


class Conversation:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, frame: object) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def welcome(self, **fields: Any) -> None:
        await self.say(WELCOME | fields)

    async def hear(self) -> dict[str, Any]:
        """Return the next frame of the client."""
        frame: dict[str, Any] = json.loads(await self.socket.recv())
        self.heard.append(frame)
        return frame

    async def ack(self) -> dict[str, Any]:
        """Acknowledge the next frame of the client."""
        frame = await self.hear()
        await self.say({"type": "ack", "requestId": frame["requestId"]})
        return frame

    async def refuse(self, code: str) -> dict[str, Any]:
        """Refuse the next frame of the client."""
        frame = await self.hear()
        await self.say({"type": "error", "code": code, "requestId": frame["requestId"]})
        return frame

    async def hang_up(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def drop(self) -> None:
        """Break the connection without a close frame."""
        self.socket.transport.abort()

    async def listen(self) -> None:
        """Read all frames without answering, until the end."""
        while True:
            await self.hear()


Script = Callable[[Conversation], Awaitable[None]]


async def behave(conversation: Conversation) -> None:
    """Act as an ordinary server: send the welcome, then acknowledge everything."""
    await conversation.welcome()
    while True:
        await conversation.ack()


def refuse_handshake(status: int, **headers: str) -> tuple[int, dict[str, str]]:
    """Answer the handshake with an HTTP status."""
    return status, {name.replace("_", "-"): value for name, value in headers.items()}


class ScriptedServer:
    """Runs one script per connection, and the last one for all further connections."""

    def __init__(self, *scripts: Script | tuple[int, dict[str, str]], ssl_context: SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._scripts = list(scripts) or [behave]
        self._server: Server | None = None
        self._port = 0
        self.paths: list[str] = []
        self.conversations: list[Conversation] = []
        self.errors: list[BaseException] = []
        self.reached = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'ws' if self._ssl_context is None else 'wss'}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> ScriptedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None and self.errors:
            raise self.errors[0]

    async def start(self) -> None:
        """Listen, on the same port as before if this is a restart."""
        self._server = await serve(
            self._converse,
            "127.0.0.1",
            self._port,
            process_request=self._admit,
            close_timeout=1,
            max_size=None,
            ssl=self._ssl_context,
            logger=logging.Logger("scripted server", logging.CRITICAL),
        )
        self._port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Drop all connections and release the port."""
        if self._server is not None:
            for conversation in self.conversations:
                conversation.drop()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _script(self) -> Script | tuple[int, dict[str, str]]:
        return self._scripts[min(len(self.paths), len(self._scripts)) - 1]

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        script = self._script()
        if isinstance(script, tuple):
            status, headers = script
            return Response(status, HTTPStatus(status).phrase, Headers(headers | {"Content-Length": "0"}))
        return None

    async def _converse(self, socket: ServerConnection) -> None:
        conversation = Conversation(socket)
        self.conversations.append(conversation)
        self.reached.set()
        script = self._script()
        assert not isinstance(script, tuple)
        try:
            await script(conversation)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.errors.append(error)
