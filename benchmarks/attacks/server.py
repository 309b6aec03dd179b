"""Clients of the server that stay within its rate of frames, and cost it far more than their frames look like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.attacks.stage import Attack, Stage

CONNECTS_PER_ADDRESS = 40
"""Of 60 a minute. Loopback has addresses enough."""

CALM = 1.0
"""Seconds after the preparation, so that what is measured is the attack."""

_numbers = count()


@asynccontextmanager
async def client(stage: Stage, **claims: object) -> AsyncIterator[ClientConnection]:
    """Connect a bare client, and read its welcome."""
    number = next(_numbers)
    token = stage.server.mint_token(f"attacker-{number}", **claims)  # type: ignore[arg-type]
    address = f"127.0.0.{2 + number // CONNECTS_PER_ADDRESS}"
    url = f"{stage.server.url}/v1?token={token}"
    async with connect(url, local_addr=(address, 0), max_size=None, compression=None, close_timeout=0.1) as socket:
        await socket.recv()
        yield socket


def frame(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def masked(text: str, opcode: int = 0x81) -> bytes:
    """Return a frame of a client as it goes on the wire. A mask of zeros changes nothing."""
    size = len(text)
    if size < 126:
        head = bytes([opcode, 0x80 | size])
    elif size < 65_536:
        head = bytes([opcode, 0xFE]) + size.to_bytes(2)
    else:
        head = bytes([opcode, 0xFF]) + size.to_bytes(8)
    return head + bytes(4) + text.encode()


async def discard(socket: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await socket.recv()


async def write_all(sockets: Sequence[ClientConnection], data: bytes, seconds: float) -> None:
    """Write the same from each, read what comes, and wait until it is over."""
    readers = [asyncio.ensure_future(discard(socket)) for socket in sockets]
    for socket in sockets:
        socket.transport.write(data)
    await asyncio.wait(readers, timeout=seconds)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def patterns(stage: Stage) -> None:
    """5,500 subscriptions to patterns of many stars, then three publishes under new names."""
    async with AsyncExitStack() as stack:
        for number in range(55):
            socket = await stack.enter_async_context(client(stage))
            for index in range(100):
                await socket.send(frame("subscribe", channel="*a" * 100 + f"{number}.{index}*"))
            await socket.send(frame("ping"))
            while json.loads(await socket.recv())["type"] != "pong":
                pass
        publisher = await stack.enter_async_context(client(stage))
        await asyncio.sleep(CALM)
        async with stage.watch():
            for index in range(3):
                await publisher.send(frame("publish", channel="a" * 250 + str(index), data=1, requestId="r"))
                await publisher.recv()


async def junk(stage: Stage) -> None:
    """Four clients, 100 pings each with 64 KB of lists in a field that a ping does not use."""
    text = '{"type":"ping","channel":[' + ",".join(["[]"] * 21_000) + "]}"
    await _write(stage, masked(text) * 100, clients=4)


async def lone_halves(stage: Stage) -> None:
    """Four clients, 25 messages each of 64 KB of escapes of which one needs to be mended."""
    data = "\\ud83d" + "\\n" * 32_000
    await _write(stage, masked('{"type":"publish","channel":"c","data":"' + data + '"}') * 25, clients=4)


async def pings(stage: Stage) -> None:
    """Two clients, 20,000 pings each."""
    await _write(stage, masked(frame("ping")) * 20_000, clients=2)


async def pieces(stage: Stage) -> None:
    """Two clients, messages in 250,000 pieces of no byte each."""
    await _write(stage, masked("", 0x01) + masked("", 0x00) * 250_000, clients=2)


async def snapshots(stage: Stage) -> None:
    """A channel of 230 peers with 4 KB of metadata each, to which four clients subscribe again and again."""
    async with AsyncExitStack() as stack:
        # They see nobody, so that the preparation takes little.
        await _fill(stage, stack, 230, permissions=["subscribe"], peer_metadata={"x": "y" * 4_000})
        subscribers = [await stack.enter_async_context(client(stage)) for _ in range(4)]
        await asyncio.sleep(CALM)
        async with stage.watch():
            await _for_a_while([_subscribe_again(socket) for socket in subscribers], 3.0)


async def churn(stage: Stage) -> None:
    """A channel of 230 peers, which four clients enter and leave."""
    async with AsyncExitStack() as stack:
        await _fill(stage, stack, 230)
        sockets = [await stack.enter_async_context(client(stage)) for _ in range(4)]
        both = masked(frame("subscribe", channel="crowd")) + masked(frame("unsubscribe", channel="crowd"))
        await asyncio.sleep(CALM)
        async with stage.watch():
            await write_all(sockets, both * 99, 5.0)


async def _write(stage: Stage, data: bytes, *, clients: int) -> None:
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(client(stage)) for _ in range(clients)]
        await asyncio.sleep(CALM)
        async with stage.watch():
            await write_all(sockets, data, 5.0)


async def _fill(stage: Stage, stack: AsyncExitStack, size: int, **claims: object) -> None:
    """Let peers enter the channel `crowd`."""
    for _ in range(size):
        socket = await stack.enter_async_context(client(stage, **claims))
        await socket.send(frame("subscribe", channel="crowd", requestId="r"))
        await socket.recv()


async def _subscribe_again(socket: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await socket.send(frame("subscribe", channel="crowd"))
            await socket.recv()


async def _for_a_while(works: Sequence[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[arg-type, var-annotated]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


ATTACKS: dict[str, Attack] = {
    "server_patterns": patterns,
    "server_junk": junk,
    "server_lone_halves": lone_halves,
    "server_pings": pings,
    "server_pieces": pieces,
    "server_snapshots": snapshots,
    "server_churn": churn,
}
