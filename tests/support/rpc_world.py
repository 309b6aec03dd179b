"""Two endpoints on an in-memory wire that a test can watch, stop, cut and replace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from metered_realtime import MeteredRealtimeError
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.codec import RpcFormat, RpcPath
from metered_realtime.rpc.endpoint import RpcEndpoint
from metered_realtime.rpc.methods import RpcMethods
from tests.support.patience import PATIENCE

Message = str | bytes


class MemoryTransport:
    """One end of a wire. Messages are delivered in later turns of the event loop, in order.

    One that is `prompt` takes messages at once while it flows, as data channels do.
    """

    takes_pieces = True

    def __init__(self, max_message_size: int = 262_144, prompt: bool = False) -> None:
        self.max_message_size = max_message_size
        self.prompt = prompt
        self.sent: list[Message] = []
        self.other: MemoryTransport | None = None
        self.is_closed = False
        self.open_event = asyncio.Event()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._on_message: Callable[[Message], None] | None = None
        self._on_close: Callable[[], None] = lambda: None
        self._early: list[Message] = []

    def listen(self, on_message: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        self._on_message, self._on_close = on_message, on_close
        early, self._early = self._early, []
        for message in early:
            on_message(message)

    async def opened(self) -> None:
        await self.open_event.wait()
        if self.is_closed:
            raise MeteredRealtimeError("closed")

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        await self.flowing.wait()
        self._transmit(message)

    def send_now(self, message: Message) -> bool:
        if self.prompt and self.flowing.is_set():
            self._transmit(message)
            return True
        return False

    def _transmit(self, message: Message) -> None:
        if self.is_closed:
            raise MeteredRealtimeError("closed")
        self.sent.append(message)
        if self.other is not None:
            asyncio.get_running_loop().call_soon(self.other.deliver, message)

    def deliver(self, message: Message) -> None:
        if self.is_closed:
            return
        if self._on_message is None:
            self._early.append(message)
        else:
            self._on_message(message)

    def close(self) -> None:
        """End this end; the other one hears of it."""
        if not self.is_closed:
            self.is_closed = True
            self.open_event.set()
            if self.other is not None:
                asyncio.get_running_loop().call_soon(self.other.cut)

    def cut(self) -> None:
        """End this end as if the network had."""
        if not self.is_closed:
            self.is_closed = True
            self.open_event.set()
            self._on_close()


def wire(**options: Any) -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of a wire, open."""
    one, other = MemoryTransport(**options), MemoryTransport(**options)
    one.other, other.other = other, one
    for end in (one, other):
        end.open_event.set()
    return one, other


class World:
    """Two ends, a and b, which open wires to each other when they need them."""

    def __init__(self, **options: Any) -> None:
        self.methods_a, self.methods_b = RpcMethods(), RpcMethods()
        self.wires: list[tuple[MemoryTransport, MemoryTransport]] = []
        self.connected = True
        self.options: dict[str, Any] = {}
        ends = {"is_connected": lambda: self.connected, **options}
        self.a = RpcEndpoint(self._opener("a"), identity="b", methods=self.methods_a, **ends)
        self.b = RpcEndpoint(self._opener("b"), identity="a", methods=self.methods_b, **ends)
        self.to_b, self.to_a = RpcClient(self.a), RpcClient(self.b)

    def _opener(self, end: str) -> Callable[[RpcFormat, RpcPath], MemoryTransport]:
        def open_transport(name: RpcFormat, path: RpcPath) -> MemoryTransport:
            mine, theirs = wire(**self.options)
            self.wires.append((mine, theirs))
            other = self.b if end == "a" else self.a
            asyncio.get_running_loop().call_soon(other.serve, theirs, name, path)
            return mine

        return open_transport

    def break_wires(self) -> None:
        """Cut every wire at both ends, in the middle of what is on it."""
        for one, other in self.wires:
            one.other = other.other = None
            one.cut()
            other.cut()

    def replace(self) -> None:
        """Let both ends hear that their connection was replaced."""
        self.break_wires()
        self.a.transport_replaced()
        self.b.transport_replaced()

    async def close(self) -> None:
        await self.a.wait_closed()
        await self.b.wait_closed()


async def eventually(holds: Callable[[], object]) -> None:
    """Return once something holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.001)


class Raw:
    """A wire to an endpoint on which a test speaks for itself."""

    def __init__(self, name: RpcFormat = "jsonrpc-2.0", methods: RpcMethods | None = None, **options: Any) -> None:
        self.near, self.far = wire()
        self.methods = methods if methods is not None else RpcMethods()
        self.got: asyncio.Queue[Message] = asyncio.Queue()
        self.far.listen(self.got.put_nowait, lambda: None)
        self.endpoint = RpcEndpoint(lambda name, path: self.near, identity="far", methods=self.methods, **options)
        self.client = RpcClient(self.endpoint)
        self.name: RpcFormat = name

    def serve(self) -> None:
        """Let the endpoint serve the wire, as one that the far end opened."""
        self.endpoint.serve(self.near, self.name)

    async def say(self, message: Message) -> None:
        await self.far.send(message)

    async def hear(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self.got.get()

    async def ask(self, message: Message) -> Message:
        """Say something and return what is said next."""
        await self.say(message)
        return await self.hear()

    async def silence(self) -> None:
        """Check that nothing is said, long after it would have been."""
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.got.empty(), self.got.get_nowait()

    async def close(self) -> None:
        await self.endpoint.wait_closed()
