"""Calls through the public API: `peer.rpc`, `remote.rpc`, and the methods named as in LiveKit."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime import (
    ConnectionReset,
    Data,
    DataChannelOpened,
    ErrorRegistry,
    RpcError,
    RpcInvocationData,
    RpcRecipientDisconnectedError,
    RpcRecipientNotFoundError,
    RpcUnsupportedMethodError,
)
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Room


class OutOfStock(RpcError, code=5100, message="Out of stock"):
    """An error that both ends know."""


async def test_methods_are_offered_to_everybody_and_errors_arrive_as_they_were_raised(room: Room) -> None:
    pair = await room.pair()

    @pair.b.rpc.method
    async def order(item: str, count: int = 1) -> str:
        if count > 9:
            raise OutOfStock(data={"left": 9})
        return f"{count} {item}"

    assert await pair.to_b.rpc.call("order", "pear", 2) == "2 pear"
    with pytest.raises(OutOfStock) as caught:
        await pair.to_b.rpc.proxy.order("pear", 10)
    assert caught.value.data == {"left": 9}
    with pytest.raises(RpcUnsupportedMethodError):
        await pair.to_a.rpc.call("order", "pear")
    assert not pair.log_b.of(DataChannelOpened), "the program does not see the channel of calls"
    stats = pair.to_b.rpc.stats()
    assert (stats.pending, stats.channels, stats.dropped_answers) == (0, 1, 0)


async def test_text_is_answered_with_text(room: Room) -> None:
    pair = await room.pair()

    async def greet(data: RpcInvocationData) -> str:
        return f"Hello, {data.caller_identity}, you said {data.payload}"

    pair.b.register_rpc_method("greet", greet)
    with pytest.raises(ValueError, match="greet"):
        pair.b.register_rpc_method("greet", greet)
    assert await pair.to_b.perform_rpc(method="greet", payload="hi") == "Hello, a, you said hi"
    pair.b.unregister_rpc_method("greet")
    with pytest.raises(RpcError) as caught:
        await pair.to_b.perform_rpc(method="greet", payload="hi", response_timeout=5)
    assert caught.value.code == RpcError.ErrorCode.UNSUPPORTED_METHOD


async def test_calls_go_on_over_a_replaced_connection(room: Room) -> None:
    pair = await room.pair()
    begun, go_on, runs = asyncio.Event(), asyncio.Event(), []

    @pair.b.rpc.method
    async def slow() -> str:
        runs.append(1)
        begun.set()
        await go_on.wait()
        return "done"

    pair.b.rpc.add("echo", lambda value: value)
    await pair.to_b.rpc.call("echo", 1)  # the hello of b has arrived: it deduplicates
    call = asyncio.ensure_future(pair.to_b.rpc.call("slow"))
    await begun.wait()
    await pair.to_b.pc.close()
    await pair.log_a.until(ConnectionReset)
    go_on.set()
    assert await call == "done"
    assert len(runs) == 1


async def test_a_remote_that_leaves_fails_its_calls_at_once(room: Room) -> None:
    pair = await room.pair()
    begun = asyncio.Event()

    @pair.b.rpc.method
    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.ensure_future(pair.to_b.rpc.call("never"))
    await begun.wait()
    await pair.b.close()
    with pytest.raises(RpcRecipientDisconnectedError):
        await asyncio.wait_for(call, PATIENCE)
    with pytest.raises(RpcRecipientNotFoundError):
        await pair.to_b.rpc.call("never")


async def test_calls_through_the_server_emit_no_data_event(room: Room) -> None:
    pair = await room.pair()
    seen = EventLog(pair.b)
    pair.b.rpc.add("double", lambda n: 2 * n)
    assert await pair.to_b.rpc.using(via="server").call("double", 21) == 42
    assert pair.to_b.state == "idle"
    assert not seen.of(Data)


SHOP = ErrorRegistry()


class SoldOut(RpcError, code=5100, message="Sold out", registry=SHOP):
    """An error whose code other programs use for another one."""


async def test_a_peer_has_a_registry_of_its_own(room: Room) -> None:
    pair = await room.meet(room.peer("a", rpc_errors=SHOP), room.peer("b"))

    @pair.b.rpc.method
    async def order() -> None:
        raise OutOfStock(data={"left": 9})

    with pytest.raises(SoldOut) as caught:
        await pair.to_b.rpc.call("order")
    assert caught.value.data == {"left": 9}


@pytest.mark.parametrize("debug", [False, True])
async def test_the_text_of_an_exception_is_sent_only_with_debug(room: Room, debug: bool) -> None:
    pair = await room.meet(room.peer("a"), room.peer("b", rpc_debug=debug))

    @pair.b.rpc.method
    async def fail() -> None:
        raise RuntimeError("the text of a fault")

    with pytest.raises(RpcError) as caught:
        await pair.to_b.rpc.call("fail")
    assert caught.value.code == RpcError.ErrorCode.APPLICATION_ERROR
    assert ("the text of a fault" in repr(vars(caught.value))) is debug
