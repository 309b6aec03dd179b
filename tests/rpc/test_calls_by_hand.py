"""Calls from a bare aiortc channel: literal requests, and their exact answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from metered_realtime.rpc import rpc_channel
from metered_realtime.rpc.errors import RpcError
from tests.support.patience import PATIENCE
from tests.support.peers import Room, eventually
from tests.support.rpc.peers import RpcPair

Message = str | bytes


class Hand:
    """A raw channel from a to b, whose calls b serves."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        channel.on("message", self._heard.put_nowait)

    async def ask(self, message: Message) -> Message:
        self.channel.send(message)
        async with asyncio.timeout(PATIENCE):
            return await self._heard.get()


@pytest.fixture
async def rpc(room: Room) -> RpcPair:
    made = RpcPair(await room.pair())
    methods = made.methods_b
    methods.add("sum", lambda a, b: a + b)
    methods.add("nothing", lambda: None)
    methods.add("echo", lambda value: value)
    methods.add("fail", lambda: 1 / 0)
    methods.add("refuse", _refuse)
    return made


def _refuse() -> None:
    raise RpcError(7, "no", {"why": "x"})


async def hand(rpc: RpcPair, protocol: str) -> Hand:
    channel = rpc.pair.to_b.create_data_channel("by hand", protocol=protocol)
    opened = asyncio.Event()
    channel.on("open", opened.set)
    await opened.wait()
    return Hand(channel)


def asking(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0"} | members)


def result(request_id: Any, value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def error(request_id: Any, code: int, message: str, **data: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message} | data}


INVALID = error(None, -32600, "Invalid Request")
UNREADABLE = error(None, -32700, "Parse error")

IN_JSON: list[tuple[Message, Any]] = [
    (asking(id=0, method="sum", params=[1, 2]), result(0, 3)),
    (asking(id="", method="sum", params={"b": 2, "a": 1}), result("", 3)),
    (asking(id=2**63, method="nothing"), result(2**63, None)),
    (asking(id=-1, method="nothing", extra=[]).encode(), result(-1, None)),
    (asking(id=1, method="fail"), error(1, -32000, "Application error in method handler")),
    (asking(id=1, method="refuse"), error(1, 7, "no", data={"why": "x"})),
    (asking(id=1, method="unknown"), error(1, -32601, "Method not supported at destination")),
    (asking(id=1, method="rpc.discover"), error(1, -32601, "Method not supported at destination")),
    (asking(id=1, method="$/cancelRequest", params=[1]), error(1, -32601, "Method not supported at destination")),
    (asking(id=1, method="echo", params=[2**80]), result(1, 2**80)),
    (asking(id=1, method="nothing", params="x"), error(1, -32600, "Invalid Request")),
    (asking(id=1, method="nothing", params=None), error(1, -32600, "Invalid Request")),
    (asking(id=1, method=5), error(1, -32600, "Invalid Request")),
    (asking(id=None, method="nothing"), INVALID),
    (asking(id=1.5, method="nothing"), INVALID),
    (asking(id=[1], method="nothing"), INVALID),
    (asking(id="x" * 257, method="nothing"), INVALID),
    ('{"id": 1, "method": "nothing"}', error(1, -32600, "Invalid Request")),
    ("[]", INVALID),
    ("[[]]", [INVALID]),
    ("null", INVALID),
    ("", UNREADABLE),
    (b"", UNREADABLE),
    (b"\xff\xfe", UNREADABLE),
    ("[" * 100_000, UNREADABLE),
    (asking(id=1, method="nothing")[:-1], UNREADABLE),
    (
        f"[{asking(id=5, method='nothing')}, 1, {asking(method='fail')}, {asking(id=5, method='sum', params=[1, 2])}]",
        [result(5, None), INVALID, result(5, 3)],
    ),
]


async def test_json_rpc_to_the_letter(rpc: RpcPair) -> None:
    far = await hand(rpc, "jsonrpc-2.0")
    for message, answer in IN_JSON:
        for silent in (
            asking(method="fail"),
            asking(method="unknown"),
            asking(method="$/unknown"),
            f"[{asking(method='nothing')}]",
        ):
            far.channel.send(silent)
        heard = await far.ask(message)
        assert isinstance(heard, str)
        assert json.loads(heard) == answer, message[:80]
    assert rpc.to_a.stats().running == 0


IN_MESSAGEPACK: list[tuple[Message, Any]] = [
    (msgspec.msgpack.encode([0, 0, "sum", [1, 2]]), [1, 0, None, 3]),
    (msgspec.msgpack.encode([0, 2**32 - 1, "nothing", []]), [1, 2**32 - 1, None, None]),
    (msgspec.msgpack.encode([0, 1, "echo", [b"\xff"]]), [1, 1, None, b"\xff"]),
    (msgspec.msgpack.encode([0, 0, "refuse", []]), [1, 0, [7, "no", {"why": "x"}], None]),
    (
        msgspec.msgpack.encode([0, 0, "unknown", []]),
        [1, 0, [-32601, "Method not supported at destination", None], None],
    ),
    (msgspec.msgpack.encode([0, 3, "sum", {}]), [1, 3, [-32602, "Invalid params", None], None]),
    (msgspec.msgpack.encode([0, 2**32, "sum", []]), [1, None, [-32600, "Invalid Request", None], None]),
    (msgspec.msgpack.encode([4]), [1, None, [-32600, "Invalid Request", None], None]),
    (b"\x94\x00", [1, None, [-32700, "Parse error", None], None]),
    ("text", [1, None, [-32700, "Parse error", None], None]),
]


async def test_messagepack_rpc_to_the_letter(rpc: RpcPair) -> None:
    far = await hand(rpc, "msgpack-rpc")
    for message, answer in IN_MESSAGEPACK:
        far.channel.send(msgspec.msgpack.encode([2, "fail", []]))
        heard = await far.ask(message)
        assert isinstance(heard, bytes)
        assert msgspec.msgpack.decode(heard) == answer, message[:80]


async def test_the_server_carries_calls_again_after_its_channel_was_closed(
    rpc: RpcPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = rpc.to_b.using(via="server")
    assert await client.call("sum", 1, 2) == 3
    monkeypatch.setattr(rpc_channel, "MAX_ANSWERS_WAITING", -1)  # as if the answers of b were not read
    flooding = asyncio.ensure_future(client.using(timeout=0.3).call("sum", 1, 2))
    await eventually(lambda: rpc.to_a.stats().channels == 0)
    monkeypatch.undo()
    assert await client.call("sum", 3, 4) == 7
    await asyncio.gather(flooding, return_exceptions=True)
