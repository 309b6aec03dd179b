"""Third-party RPC libraries, unmodified, at the far end of a raw data channel. Only the transport is adapted."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio
from pjrpc.client.client import AbstractAsyncClient
from pjrpc.server import AsyncDispatcher
from sansio_jsonrpc import JsonRpcException, JsonRpcPeer, JsonRpcRequest, JsonRpcResponse
from tinyrpc.client import RPCClient
from tinyrpc.dispatch import RPCDispatcher
from tinyrpc.protocols import RPCProtocol
from tinyrpc.server import RPCServer
from tinyrpc.transports import ClientTransport, ServerTransport
from trio_jsonrpc.main import JsonRpcConnection, JsonRpcConnectionType
from trio_jsonrpc.transport import BaseTransport, TransportClosed

from metered_realtime import DataChannel, DCMessage
from tests.support.patience import PATIENCE

Message = str | bytes


class Wire:
    """A data channel for a library that handles bytes, in this loop or in a thread."""

    def __init__(self, channel: DataChannel, *, is_text: bool) -> None:
        self._channel = channel
        self._is_text = is_text
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def on_bytes(self, handler: Callable[[bytes], object]) -> None:
        """Pass every message to a handler."""
        self._channel.on(DCMessage, lambda event: handler(_bytes(event.data)))

    async def send(self, message: Message) -> None:
        """Send as text or bytes, depending on the format."""
        await self._channel.send(_bytes(message).decode() if self._is_text else _bytes(message))

    def send_soon(self, message: Message) -> None:
        """Send from a plain function in this loop."""
        task = asyncio.ensure_future(self.send(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send_from_thread(self, message: Message) -> None:
        """Send from another thread."""
        self._loop.call_soon_threadsafe(self.send_soon, message)


def _bytes(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else message


# --- tinyrpc


class TinyServer(ServerTransport):
    """The server of tinyrpc, one message after the other."""

    def __init__(self, wire: Wire, protocol: RPCProtocol, dispatcher: RPCDispatcher) -> None:
        self._wire = wire
        self._inbox: deque[bytes] = deque()
        self._server = RPCServer(self, protocol, dispatcher)
        wire.on_bytes(self._take)

    def receive_message(self) -> tuple[Any, bytes]:
        return None, self._inbox.popleft()

    def send_reply(self, context: Any, reply: bytes) -> None:
        self._wire.send_soon(reply)

    def _take(self, message: bytes) -> None:
        self._inbox.append(message)
        self._server.receive_one_message()


class TinyClient(ClientTransport):
    """The client of tinyrpc, whose calls block a thread."""

    def __init__(self, wire: Wire, protocol: RPCProtocol) -> None:
        self._wire = wire
        self._replies: deque[bytes] = deque()
        self._arrived = threading.Semaphore(0)
        self.client = RPCClient(protocol, self)
        wire.on_bytes(self._take)

    def send_message(self, message: bytes, expect_reply: bool = True) -> bytes:
        self._wire.send_from_thread(message)
        if not expect_reply:
            return b""
        assert self._arrived.acquire(timeout=PATIENCE)
        return self._replies.popleft()

    async def call(self, method: str, *args: Any, one_way: bool = False, **names: Any) -> Any:
        return await asyncio.to_thread(self.client.call, method, list(args), names, one_way)

    def _take(self, message: bytes) -> None:
        self._replies.append(message)
        self._arrived.release()


# --- pjrpc


def serve_pjrpc(wire: Wire, dispatcher: AsyncDispatcher[None]) -> None:
    """Dispatch every message with pjrpc."""

    async def dispatch(message: bytes) -> None:
        answer = await dispatcher.dispatch(message.decode(), None)
        if answer is not None:
            await wire.send(answer[0])

    tasks: set[asyncio.Task[None]] = set()

    def take(message: bytes) -> None:
        tasks.add(task := asyncio.ensure_future(dispatch(message)))
        task.add_done_callback(tasks.discard)

    wire.on_bytes(take)


class PjrpcClient(AbstractAsyncClient):  # type: ignore[misc]
    """The client of pjrpc. All its calls have the id 1, so there is one at a time."""

    def __init__(self, wire: Wire, **options: Any) -> None:
        super().__init__(**options)
        self._wire = wire
        self._replies: asyncio.Queue[bytes] = asyncio.Queue()
        wire.on_bytes(self._replies.put_nowait)

    async def _request(self, request_text: str, is_notification: bool, request_kwargs: Mapping[str, Any]) -> str | None:
        await self._wire.send(request_text)
        if is_notification:
            return None
        async with asyncio.timeout(PATIENCE):
            return (await self._replies.get()).decode()


# --- sansio-jsonrpc


class Sansio:
    """sansio-jsonrpc in both roles, driven by this loop."""

    def __init__(self, wire: Wire, methods: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.peer = JsonRpcPeer()
        self._wire = wire
        self._methods = methods or {}
        self._waiting: dict[Any, asyncio.Future[JsonRpcResponse]] = {}
        wire.on_bytes(self._take)

    async def request(self, method: str, params: Any = None) -> Any:
        request_id, data = self.peer.request(method, params)
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        await self._wire.send(data)
        async with asyncio.timeout(PATIENCE):
            response = await self._waiting[request_id]
        if response.success:
            return response.result
        raise JsonRpcException.exc_from_error(response.error)

    async def notify(self, method: str, params: Any = None) -> None:
        await self._wire.send(self.peer.notify(method, params))

    def _take(self, message: bytes) -> None:
        for item in self.peer.parse(message):
            if isinstance(item, JsonRpcResponse):
                self._waiting.pop(item.id).set_result(item)
            elif not item.is_notification:
                self._wire.send_soon(self._answer(item))

    def _answer(self, request: JsonRpcRequest) -> bytes:
        try:
            return self.peer.respond_with_result(request, self._methods[request.method](*(request.params or [])))
        except JsonRpcException as error:
            return self.peer.respond_with_error(request, error.get_error())


# --- trio-jsonrpc


class TrioTransport(BaseTransport):  # type: ignore[misc]
    """Carries messages between a loop of trio, in a thread, and the data channel."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._feed, self._inbox = trio.open_memory_channel[bytes](1_000)
        self._token = trio.lowlevel.current_trio_token()
        wire.on_bytes(lambda message: self._token.run_sync_soon(self._feed.send_nowait, message))

    async def recv(self) -> bytes:
        try:
            return await self._inbox.receive()
        except trio.EndOfChannel:
            raise TransportClosed from None

    async def send(self, data: bytes) -> None:
        self._wire.send_from_thread(data)


async def with_trio(
    wire: Wire, kind: JsonRpcConnectionType, program: Callable[[JsonRpcConnection], Awaitable[Any]]
) -> Any:
    """Run a trio program with a connection of trio-jsonrpc in a thread, and return its result."""

    async def main() -> Any:
        connection = JsonRpcConnection(TrioTransport(wire), kind)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection._background_task)
            try:
                return await program(connection)
            finally:
                nursery.cancel_scope.cancel()

    return await asyncio.to_thread(partial(trio.run, main))
