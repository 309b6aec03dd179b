"""Two endpoints on an in-memory wire that a test can inspect, stop, cut and replace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from metered_realtime import MeteredRealtimeError
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.codec import RpcFormat, RpcPath
from metered_realtime.rpc.endpoint import RpcEndpoint
from metered_realtime.rpc.methods import RpcMethods
from metered_realtime.rpc.transports import RpcTransport, TransportListener
from tests.support.patience import PATIENCE
from tests.support.virtual_time import VirtualLoop

Message = str | bytes


class MemoryTransport:
    """One end of a wire. Messages are delivered in later turns of the event loop, in order.

    A `prompt` one accepts messages at once while it flows, as data channels do.
    """

    supports_chunks = True

    def __init__(self, max_message_size: int = 262_144, prompt: bool = False) -> None:
        self.max_message_size = max_message_size
        self.prompt = prompt
        self.sent: list[Message] = []
        self.other: MemoryTransport | None = None
        self.is_closed = False
        self.open_event = asyncio.Event()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._listener: TransportListener | None = None
        self._early: list[Message] = []

    def listen(self, listener: TransportListener) -> None:
        self._listener = listener
        early, self._early = self._early, []
        for message in early:
            listener.message_received(message)

    async def opened(self) -> None:
        await self.open_event.wait()
        if self.is_closed:
            raise MeteredRealtimeError("closed")

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        await self.flowing.wait()
        self._transmit(message)

    def try_send(self, message: Message) -> bool:
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
        if self._listener is None:
            self._early.append(message)
        else:
            self._listener.message_received(message)

    def close(self) -> None:
        """Close this end, and then the other one."""
        if not self.is_closed:
            self.is_closed = True
            self.open_event.set()
            if self.other is not None:
                asyncio.get_running_loop().call_soon(self.other.cut)

    def cut(self) -> None:
        """Close this end as if the network had failed."""
        if not self.is_closed:
            self.is_closed = True
            self.open_event.set()
            if self._listener is not None:
                self._listener.transport_closed()


def wire(**options: Any) -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of an open wire."""
    one, other = MemoryTransport(**options), MemoryTransport(**options)
    one.other, other.other = other, one
    for end in (one, other):
        end.open_event.set()
    return one, other


class WorldConnection:
    """The connection of one end of a `World`."""

    def __init__(self, world: World, end: str) -> None:
        self._world = world
        self._end = end

    @property
    def is_connected(self) -> bool:
        return self._world.connected

    def open_transport(self, format: RpcFormat, path: RpcPath) -> MemoryTransport:
        world = self._world
        mine, theirs = wire(**world.options)
        world.wires.append((mine, theirs))
        if world.is_deaf_at_first and len(world.wires) == 1:
            theirs.other = None
        other = world.b if self._end == "a" else world.a
        asyncio.get_running_loop().call_soon(other.serve, theirs, format, path)
        return mine


class World:
    """Two ends, a and b, which open wires to each other when they need them.

    With `is_deaf_at_first`, nothing comes back on the first wire.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self.methods_a, self.methods_b = RpcMethods(debug=debug), RpcMethods(debug=debug)
        self.wires: list[tuple[MemoryTransport, MemoryTransport]] = []
        self.connected = True
        self.is_deaf_at_first = False
        self.options: dict[str, Any] = {}
        self.a = RpcEndpoint(WorldConnection(self, "a"), identity="b", methods=self.methods_a)
        self.b = RpcEndpoint(WorldConnection(self, "b"), identity="a", methods=self.methods_b)
        self.to_b, self.to_a = RpcClient(self.a), RpcClient(self.b)

    def break_wires(self) -> None:
        """Cut every wire at both ends; what is on it is lost."""
        for one, other in self.wires:
            one.other = other.other = None
            one.cut()
            other.cut()

    def replace(self) -> None:
        """Replace the connection at both ends."""
        self.break_wires()
        self.a.connection_replaced()
        self.b.connection_replaced()

    async def close(self) -> None:
        await self.a.wait_closed()
        await self.b.wait_closed()


async def eventually(holds: Callable[[], object]) -> None:
    """Return once a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.001)


class FixedConnection:
    """A connection that is up, with one transport for each path."""

    is_connected = True

    def __init__(self, p2p: RpcTransport, server: RpcTransport | None = None) -> None:
        self._transports: dict[RpcPath, RpcTransport] = {"p2p": p2p, "server": p2p if server is None else server}

    def open_transport(self, format: RpcFormat, path: RpcPath) -> RpcTransport:
        return self._transports[path]


async def all_quiet() -> None:
    """Return once everything waits. Only in virtual time, which passes only then."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(0.001)


class Raw:
    """A wire to an endpoint whose other end is the test."""

    is_connected = True

    def __init__(self, name: RpcFormat = "jsonrpc-2.0", methods: RpcMethods | None = None, **options: Any) -> None:
        self.near, self.far = wire()
        self.methods = methods if methods is not None else RpcMethods()
        self.got: asyncio.Queue[Message] = asyncio.Queue()
        self.far.listen(self)
        self.endpoint = RpcEndpoint(self, identity="far", methods=self.methods, **options)
        self.client = RpcClient(self.endpoint)
        self.name: RpcFormat = name

    def open_transport(self, format: RpcFormat, path: RpcPath) -> MemoryTransport:
        return self.near

    def message_received(self, message: Message) -> None:
        self.got.put_nowait(message)

    def transport_closed(self) -> None:
        """Do nothing: a test inspects the wire."""

    def serve(self) -> None:
        """Let the endpoint serve the wire, as if the test had opened it."""
        self.endpoint.serve(self.near, self.name)

    async def say(self, message: Message) -> None:
        await self.far.send(message)

    async def hear(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self.got.get()

    async def ask(self, message: Message) -> Message:
        """Send a message and return the next one that is received."""
        await self.say(message)
        return await self.hear()

    async def silence(self) -> None:
        """Check that nothing is received."""
        await all_quiet()
        assert self.got.empty(), self.got.get_nowait()

    async def close(self) -> None:
        await self.endpoint.wait_closed()
