"""Calls over real data channels: the examples of LiveKit, and every error code by its real cause."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DCMessage,
    DCOpen,
    MeteredPeer,
    PeerJoined,
)
from metered_realtime.rpc import calls as rpc_calls
from metered_realtime.rpc import channels
from metered_realtime.rpc.built_in import (
    RpcApplicationError,
    RpcBusyError,
    RpcConnectionTimeoutError,
    RpcRecipientDisconnectedError,
    RpcRecipientNotFoundError,
    RpcRequestTooLargeError,
    RpcResponseTimeoutError,
    RpcResponseTooLargeError,
    RpcSendError,
    RpcUnsupportedMethodError,
    RpcUnsupportedServerError,
    RpcUnsupportedVersionError,
)
from metered_realtime.rpc.errors import RpcError
from metered_realtime.rpc.methods import RpcInvocationData
from tests.support.peers import EventLog, Pair, Room, eventually
from tests.support.rpc.peers import RpcPair

FORMATS = ["jsonrpc-2.0", "msgpack-rpc"]


class TooWarm(RpcError, code=2_200, message="Too warm"):
    pass


@pytest.fixture
async def rpc(room: Room) -> RpcPair:
    return RpcPair(await room.pair())


def code_of(error: RpcError) -> int:
    return int(error.code)


async def hang(*args: Any) -> None:
    await asyncio.Event().wait()


# --- LiveKit's examples


@pytest.mark.every_path
async def test_greeting(rpc: RpcPair) -> None:
    async def handle_greet(data: RpcInvocationData) -> str:
        assert data.request_id == "1"
        assert data.response_timeout == 15.0
        return f"Hello, {data.caller_identity}! You said {data.payload}"

    rpc.methods_b.add_text("greet", handle_greet)
    assert await rpc.to_b.perform("greet", "hello from a") == "Hello, a! You said hello from a"
    rpc.methods_b.remove("greet")
    with pytest.raises(RpcError) as caught:
        await rpc.to_b.perform("greet", "again")
    assert caught.value.code == RpcError.ErrorCode.UNSUPPORTED_METHOD
    assert caught.value.message == RpcError.ErrorMessage[RpcError.ErrorCode.UNSUPPORTED_METHOD]


async def test_an_error_of_the_handlers_own_arrives_equivalent(rpc: RpcPair) -> None:
    def divide(data: RpcInvocationData) -> str:
        numbers = json.loads(data.payload)
        if numbers["divisor"] == 0:
            raise RpcError(code=42, message="cannot divide by zero", data=data.payload)
        return json.dumps({"result": numbers["dividend"] / numbers["divisor"]})

    rpc.methods_b.add_text("divide", divide)
    assert json.loads(await rpc.to_b.perform("divide", '{"dividend": 6, "divisor": 3}')) == {"result": 2.0}
    with pytest.raises(RpcError) as caught:
        await rpc.to_b.perform("divide", '{"dividend": 6, "divisor": 0}')
    assert (caught.value.code, caught.value.message) == (42, "cannot divide by zero")
    assert caught.value.data == '{"dividend": 6, "divisor": 0}'


# --- every code by its cause


async def test_1400_the_callee_has_no_such_method(rpc: RpcPair) -> None:
    for format in FORMATS:
        with pytest.raises(RpcUnsupportedMethodError) as caught:
            await rpc.to_b.using(format=format).call("unknown")  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.wire_code) == (1400, -32601)


async def test_1401_the_remote_has_left_the_channel(rpc: RpcPair) -> None:
    await rpc.pair.b.close()
    await eventually(lambda: rpc.pair.to_b.state == "closed")
    call = asyncio.ensure_future(rpc.to_b.call("m"))
    await asyncio.sleep(0)
    assert call.done(), "it waits for nothing"
    with pytest.raises(RpcRecipientNotFoundError) as caught:
        await call
    assert code_of(caught.value) == 1401


async def test_1402_the_remote_does_not_accept_a_request_of_that_size(
    rpc: RpcPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 0.1)
    far = await raw_channel(rpc.pair)
    with pytest.raises(RpcRequestTooLargeError) as caught:
        await rpc.to_b.call("m", "x" * 300_000)
    assert code_of(caught.value) == 1402
    assert all("x" not in str(event.data) for event in far.of(DCMessage)[1:])


async def test_1404_the_remote_does_not_support_the_format(rpc: RpcPair) -> None:
    raw = rpc.pair.to_b.create_data_channel("rpc", protocol="cbor-rpc")
    channel = DataChannel(raw)
    log = EventLog(channel)
    refusal = json.loads((await log.until(DCMessage)).data)
    assert (refusal["id"], refusal["error"]["code"]) == (None, 1404)

    far = await raw_channel(rpc.pair, "msgpack-rpc")
    call = asyncio.ensure_future(rpc.to_b.using(format="msgpack-rpc").call("m"))
    await far.until(DCMessage, 2)
    await far.channel.send(json.dumps(refusal))
    with pytest.raises(RpcUnsupportedVersionError) as caught:
        await call
    assert code_of(caught.value) == 1404


async def test_1500_the_handler_raised_something(rpc: RpcPair) -> None:
    def fail() -> None:
        raise KeyError("secret")

    rpc.methods_b.add("fail", fail)
    with pytest.raises(RpcApplicationError) as caught:
        await rpc.to_b.call("fail")
    assert (caught.value.code, caught.value.wire_code) == (1500, -32000)
    assert "secret" not in repr(caught.value.__dict__)


async def test_1501_the_channel_does_not_open_in_time(room: Room) -> None:
    pair = await room.pair()
    await pair.b.leave()
    deaf = room.peer("c", ice_servers=[], ice_transport_policy="relay")  # it finds no way at all
    log = EventLog(pair.a)
    await deaf.join("room")
    remote = (await log.until(PeerJoined)).peer
    with pytest.raises(RpcConnectionTimeoutError) as caught:
        await remote.rpc.using(timeout=0.5, via="p2p").call("m")
    assert code_of(caught.value) == 1501


async def test_1502_the_deadline_passes(rpc: RpcPair) -> None:
    rpc.methods_b.add("hang", hang)
    rpc.methods_b.add("nothing", lambda: None)
    await rpc.to_b.call("nothing")  # from now on the channel is open
    with pytest.raises(RpcResponseTimeoutError) as caught:
        await rpc.to_b.using(timeout=0.5).call("hang")
    assert code_of(caught.value) == 1502
    await eventually(lambda: rpc.to_a.stats().running == 0)


async def test_1503_the_remote_leaves_in_mid_call(rpc: RpcPair) -> None:
    rpc.methods_b.add("hang", hang)
    calls = [asyncio.ensure_future(rpc.to_b.call("hang")) for _ in range(10)]
    await eventually(lambda: rpc.to_a.stats().running == 10)
    await rpc.pair.b.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {RpcRecipientDisconnectedError}
    assert all(isinstance(result, RpcError) and result.code == 1503 for result in results)


async def test_1504_the_result_is_too_large_for_the_caller(rpc: RpcPair) -> None:
    rpc.methods_b.add("large", lambda: "x" * (17 * 1024 * 1024))
    with pytest.raises(RpcResponseTooLargeError) as caught:
        await rpc.to_b.call("large")
    assert code_of(caught.value) == 1504


async def test_1505_the_channel_closes_before_the_request_went_out(
    rpc: RpcPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.1)
    far = await raw_channel(rpc.pair)
    with pytest.raises(RpcRecipientDisconnectedError):
        await asyncio.gather(rpc.to_b.using(timeout=9).call("m"), closing(far))
    far = await raw_channel(rpc.pair)
    clogged = [asyncio.ensure_future(rpc.to_b.call("m", "x" * 250_000)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await closing(far)
    results = await asyncio.gather(*clogged, return_exceptions=True)
    assert {type(result) for result in results} <= {RpcSendError, RpcRecipientDisconnectedError}
    assert isinstance(results[-1], RpcSendError)
    assert code_of(results[-1]) == 1505


async def test_1403_the_server_does_not_carry_calls(room: Room) -> None:
    token = room.server.mint_token("mute", permissions=["subscribe", "presence"])
    mute = MeteredPeer(token_provider=lambda: token, url=room.server.url)
    room.peers.append(mute)
    other = room.peer("z")
    pair = await room.meet(mute, other)
    rpc = RpcPair(pair)
    with pytest.raises(RpcUnsupportedServerError) as caught:
        await rpc.to_b.using(via="server").call("m")
    assert code_of(caught.value) == 1403


# --- through the server


async def test_calls_through_the_server(rpc: RpcPair) -> None:
    rpc.methods_b.add("sum", lambda a, b: a + b)
    client = rpc.to_b.using(via="server")
    assert await client.call("sum", 1, 2) == 3
    assert await asyncio.gather(*(client.call("sum", n, n) for n in range(20))) == [2 * n for n in range(20)]
    async with client.batch() as batch:
        batch.call("sum", 1, 2)
        batch.call("sum", 3, 4)
    assert batch.results() == [3, 7]
    with pytest.raises(RpcRequestTooLargeError):
        await client.call("sum", "x" * 70_000, "")
    rpc.methods_b.add("large", lambda: "x" * 70_000)
    with pytest.raises(RpcResponseTooLargeError):
        await client.call("large")
    with pytest.raises(RpcUnsupportedVersionError):
        await client.using(format="msgpack-rpc").call("sum", 1, 2)
    assert rpc.pair.to_b.state == "idle", "nothing was opened"


async def test_calls_go_through_the_server_where_no_channel_opens(
    rpc: RpcPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_webrtc(*args: Any, **kwargs: Any) -> None:
        raise ImportError("aiortc")

    monkeypatch.setattr(rpc.pair.to_b, "create_data_channel", no_webrtc)
    rpc.methods_b.add("sum", lambda a, b: a + b)
    assert await rpc.to_b.call("sum", 1, 2) == 3
    with pytest.raises(ImportError):
        await rpc.to_b.using(via="p2p").call("sum", 1, 2)


# --- channels and connections


async def test_both_ends_call_each_other_in_both_formats(rpc: RpcPair) -> None:
    rpc.methods_a.add("who", lambda: "a")
    rpc.methods_b.add("who", lambda: "b")
    for format in FORMATS:
        assert await rpc.to_b.using(format=format).call("who") == "b"  # type: ignore[arg-type]
        assert await rpc.to_a.using(format=format).call("who") == "a"  # type: ignore[arg-type]
    assert rpc.pair.log_a.of(DataChannelOpened) == rpc.pair.log_b.of(DataChannelOpened) == []


async def test_a_typed_error_arrives_over_a_data_channel(rpc: RpcPair) -> None:
    def measure() -> None:
        raise TooWarm(data={"degrees": 41})

    rpc.methods_b.add("measure", measure)
    with pytest.raises(TooWarm) as caught:
        await rpc.to_b.call("measure")
    assert caught.value.data == {"degrees": 41}


@pytest.mark.parametrize("format", FORMATS)
async def test_five_megabytes_there_and_back(rpc: RpcPair, format: Any) -> None:
    rpc.methods_b.add("echo", lambda value: value)
    payload = "0123456789" * 500_000
    client = rpc.to_b.using(format=format, timeout=50)
    large = asyncio.ensure_future(client.call("echo", payload))
    assert await client.call("echo", "small") == "small"
    assert await large == payload


async def test_a_thousand_calls_at_once_and_65_slow_ones(rpc: RpcPair) -> None:
    rpc.methods_b.add("echo", lambda value: value)
    assert await asyncio.gather(*(rpc.to_b.call("echo", n) for n in range(1_000))) == list(range(1_000))
    gate = asyncio.Event()
    rpc.methods_b.add("wait", gate.wait)
    slow = [asyncio.ensure_future(rpc.to_b.call("wait")) for _ in range(65)]
    await eventually(lambda: rpc.to_a.stats().queued == 1)
    assert rpc.to_a.stats().running == 64
    more = [asyncio.ensure_future(rpc.to_b.call("wait")) for _ in range(300)]
    await eventually(lambda: sum(call.done() for call in more) == 45)
    gate.set()
    results = await asyncio.gather(*slow, *more, return_exceptions=True)
    assert results[:320] == [True] * 320
    assert {type(result) for result in results[320:]} == {RpcBusyError}


async def test_cancelling_a_call_cancels_its_handler(rpc: RpcPair) -> None:
    rpc.methods_b.add("hang", hang)
    call = asyncio.ensure_future(rpc.to_b.call("hang"))
    await eventually(lambda: rpc.to_a.stats().running == 1)
    call.cancel()
    await eventually(lambda: rpc.to_a.stats().running == 0)


async def test_a_connection_that_is_replaced_in_mid_call(rpc: RpcPair) -> None:
    entered, gate = [], asyncio.Event()

    async def slow(number: int) -> int:
        entered.append(number)
        await gate.wait()
        return number

    rpc.methods_b.add("slow", slow)
    rpc.methods_a.add("slow", slow)
    for client, methods in ((rpc.to_b, rpc.methods_b), (rpc.to_a, rpc.methods_a)):
        methods.add("echo", lambda value: value)
        await client.call("echo", 1)  # the hello of the remote has arrived: it deduplicates
    calls = [asyncio.ensure_future(rpc.to_b.call("slow", n)) for n in range(5)]
    back = asyncio.ensure_future(rpc.to_a.call("slow", 99))
    await eventually(lambda: len(entered) == 6)
    await rpc.pair.to_b.pc.close()
    await rpc.pair.log_a.until(ConnectionReset)
    await eventually(lambda: rpc.to_a.stats().repeated_requests == 5)
    gate.set()
    assert await asyncio.gather(*calls, back) == [0, 1, 2, 3, 4, 99]
    assert sorted(entered) == [0, 1, 2, 3, 4, 99]


async def test_a_connection_that_fails_in_mid_call_and_calls_while_it_is_repaired(rpc: RpcPair) -> None:
    entered, gate = [], asyncio.Event()

    async def slow(number: int) -> int:
        entered.append(number)
        await gate.wait()
        return number

    for methods in (rpc.methods_a, rpc.methods_b):
        methods.add("echo", lambda value: value)
    rpc.methods_b.add("slow", slow)
    await rpc.to_b.call("echo", 1)  # the hello of b has arrived: it deduplicates
    call = asyncio.ensure_future(rpc.to_b.call("slow", 5))
    await eventually(lambda: entered)
    await rpc.pair.to_b.pc.close()
    assert rpc.pair.to_b.state == "reconnecting"
    assert await asyncio.gather(rpc.to_b.call("echo", 2), rpc.to_a.call("echo", 3)) == [2, 3]
    gate.set()
    assert await call == 5
    assert (entered, rpc.to_a.stats().repeated_requests) == ([5], 1)


async def test_a_channel_opened_by_any_json_rpc_client_is_served_and_nothing_is_lost(rpc: RpcPair) -> None:
    rpc.methods_b.add("sum", lambda a, b: a + b)
    for label, protocol in (("rpc", ""), ("anything", "jsonrpc-2.0")):
        channel = DataChannel(rpc.pair.to_b.create_data_channel(label, protocol=protocol))
        log = EventLog(channel)
        await log.until(DCOpen)
        await channel.send('{"jsonrpc": "2.0", "id": "x", "method": "sum", "params": [1, 2]}')
        assert json.loads((await log.until(DCMessage)).data) == {"jsonrpc": "2.0", "id": "x", "result": 3}


async def test_other_data_channels_are_not_served(rpc: RpcPair) -> None:
    rpc.pair.to_b.create_data_channel("chat")
    event = await rpc.pair.log_b.until(DataChannelOpened)
    assert event.channel.label == "chat"
    assert rpc.to_a.stats().channels == 0


# --- a far end that the test plays


class FarEnd(EventLog):
    """The end at b of a raw channel that a uses for its calls."""

    def __init__(self, channel: DataChannel) -> None:
        super().__init__(channel)
        self.channel = channel


async def raw_channel(pair: Pair, protocol: str = "jsonrpc-2.0") -> FarEnd:
    """Open a channel from b, which a then uses for its calls, and which nothing serves at b."""
    channel = DataChannel(pair.to_a.create_data_channel("rpc", protocol=protocol))
    far = FarEnd(channel)
    await far.until(DCOpen)
    return far


async def closing(far: FarEnd) -> None:
    await far.until(DCMessage)
    far.channel.close()
