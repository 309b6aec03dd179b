"""Calls to and from third-party RPC libraries over a data channel, with the errors of both ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
import sansio_jsonrpc
import tinyrpc.exc
from pjrpc.client import exceptions as pjrpc_client
from pjrpc.server import AsyncDispatcher, MethodRegistry
from pjrpc.server import exceptions as pjrpc_server
from tinyrpc import RPCBatchResponse
from tinyrpc.client import RPCCall
from tinyrpc.dispatch import RPCDispatcher
from tinyrpc.protocols.jsonrpc import JSONRPCError, JSONRPCProtocol
from tinyrpc.protocols.msgpackrpc import MSGPACKRPCError, MSGPACKRPCProtocol
from trio_jsonrpc.main import JsonRpcConnection, JsonRpcConnectionType

from metered_realtime import DataChannel, DataChannelOpened, DCOpen
from metered_realtime.rpc.built_in import (
    RpcApplicationError,
    RpcInternalError,
    RpcInvalidParamsError,
    RpcUnsupportedMethodError,
)
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.codec import RpcFormat
from metered_realtime.rpc.errors import ErrorRegistry, RpcError
from metered_realtime.rpc.methods import RpcMethods
from tests.support.peers import EventLog, Room
from tests.support.rpc.foreign import (
    PjrpcClient,
    Sansio,
    TinyClient,
    TinyServer,
    Wire,
    serve_pjrpc,
    with_trio,
)


class InsufficientFunds(RpcError, code=1000, message="Insufficient funds"):
    """The same error, as each library declares it."""


class TinyInsufficientFunds(tinyrpc.exc.RPCError):  # type: ignore[misc]
    jsonrpc_error_code = 1000
    msgpackrpc_error_code = 1000

    def __init__(self, data: Any = None) -> None:
        super().__init__("Insufficient funds")
        self.data = data

    def error_respond(self) -> None:
        return None


class PjrpcInsufficientFunds(pjrpc_server.TypedError):  # type: ignore[misc]
    CODE = 1000
    MESSAGE = "Insufficient funds"


class PjrpcClientInsufficientFunds(pjrpc_client.TypedError):  # type: ignore[misc]
    CODE = 1000
    MESSAGE = "Insufficient funds"


class SansioInsufficientFunds(sansio_jsonrpc.JsonRpcApplicationError):  # type: ignore[misc]
    ERROR_CODE = 1000
    ERROR_MESSAGE = "Insufficient funds"


class Ends:
    """The native end of the calls, and wires for a library at the other end."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        self.methods: RpcMethods = pair.a.rpc
        self.heard: list[Any] = []
        self.client: RpcClient = pair.to_b.rpc
        pair.to_a._takes_calls = lambda channel: False  # the library has the raw channel
        self.methods.add("sum", lambda a, b: a + b)
        self.methods.add("nothing", lambda: None)
        self.methods.add("log", self.heard.append)
        self.methods.add("pay", self._pay)
        self.methods.add("typed", self._typed)
        self.methods.add("fail", lambda: 1 / 0)

    def _pay(self, amount: int) -> None:
        raise InsufficientFunds(data={"missing": amount})

    def _typed(self, number: int) -> int:
        return number

    async def serves(self, protocol: str = "jsonrpc-2.0") -> Wire:
        """Return the wire of the channel that the native end opens for its calls: the library serves."""
        opened = await self.pair.log_b.until(DataChannelOpened)
        assert (opened.channel.label, opened.channel.protocol) == ("rpc", protocol)
        return Wire(DataChannel(opened.channel), is_text=protocol == "jsonrpc-2.0")

    async def calls(self, protocol: str = "jsonrpc-2.0") -> Wire:
        """Return the wire of a channel that the far end opens: the library calls."""
        channel = DataChannel(self.pair.to_a.create_data_channel("rpc", protocol=protocol))
        await EventLog(channel).until(DCOpen)
        return Wire(channel, is_text=protocol == "jsonrpc-2.0")


@pytest.fixture
async def ends(room: Room) -> Ends:
    return Ends(await room.pair())


async def check_calls(client: RpcClient, first: Any) -> None:
    """Make every kind of call to a library's `sum`, `nothing` and unknown."""
    assert await first == 3
    assert await asyncio.gather(*(client.call("sum", n, n) for n in range(20))) == [2 * n for n in range(20)]
    with pytest.raises(RpcUnsupportedMethodError):
        await client.call("unknown")


# --- tinyrpc


def tiny_dispatcher(heard: list[Any]) -> RPCDispatcher:
    dispatcher = RPCDispatcher()

    def pay(amount: int) -> None:
        raise TinyInsufficientFunds({"missing": amount})

    def broken() -> None:
        raise RuntimeError("in their words")

    dispatcher.add_method(lambda a, b: a + b, "sum")
    dispatcher.add_method(lambda: None, "nothing")
    dispatcher.add_method(heard.append, "log")
    dispatcher.add_method(pay, "pay")
    dispatcher.add_method(broken, "broken")
    return dispatcher


@pytest.mark.parametrize("protocol", ["jsonrpc-2.0", "msgpack-rpc"])
async def test_tinyrpc_serves(ends: Ends, protocol: RpcFormat) -> None:
    client, heard = ends.client.using(format=protocol), list[Any]()
    first = asyncio.ensure_future(client.call("sum", 1, 2))
    TinyServer(
        await ends.serves(protocol),
        JSONRPCProtocol() if protocol == "jsonrpc-2.0" else MSGPACKRPCProtocol(),
        tiny_dispatcher(heard),
    )
    await check_calls(client, first)
    assert await client.call("nothing") is None
    await client.notify("log", "x")
    assert await client.using(timeout=9).call("sum", 1, 1) == 2, "$/timeout is ignored"
    assert heard == ["x"]
    with pytest.raises(InsufficientFunds) as caught:
        await client.call("pay", 7)
    assert caught.value.data == ({"missing": 7} if protocol == "jsonrpc-2.0" else None), "its MessagePack has no data"
    with pytest.raises(RpcApplicationError) as failed:
        await client.call("broken")
    assert (failed.value.message, failed.value.wire_code) == ("in their words", -32000)


async def test_tinyrpc_serves_names_and_batches(ends: Ends) -> None:
    first = asyncio.ensure_future(ends.client.call("sum", a=1, b=2))
    heard: list[Any] = []
    TinyServer(await ends.serves(), JSONRPCProtocol(), tiny_dispatcher(heard))
    assert await first == 3
    async with ends.client.batch() as batch:
        one, unknown, pay = batch.call("sum", 1, 2), batch.call("unknown"), batch.call("pay", 7)
        batch.notify("log", "x")
    assert (await one, heard) == (3, ["x"])
    with pytest.raises(RpcUnsupportedMethodError):
        await unknown
    with pytest.raises(InsufficientFunds):
        await pay


async def test_tinyrpc_calls_in_json(ends: Ends) -> None:
    tiny = TinyClient(await ends.calls(), JSONRPCProtocol())
    assert await tiny.call("sum", 1, 2) == await tiny.call("sum", a=1, b=2) == 3
    assert await tiny.call("nothing") is None
    await tiny.call("log", "x", one_way=True)
    assert await tiny.call("sum", 2, 2) == 4
    assert ends.heard == ["x"]
    for call, code, message in (
        (("pay", 7), 1000, "Insufficient funds"),
        (("unknown",), -32601, "Method not supported at destination"),
        (("typed", "x"), -32602, "Invalid params"),
        (("fail",), -32000, "Application error in method handler"),
    ):
        with pytest.raises(JSONRPCError) as caught:
            await tiny.call(*call)
        assert (caught.value._jsonrpc_error_code, str(caught.value)) == (code, message)


async def test_tinyrpc_calls_with_id_0_and_in_batches(ends: Ends) -> None:
    tiny = TinyClient(await ends.calls(), JSONRPCProtocol(id_generator=iter(range(99))))
    assert await tiny.call("sum", 1, 2) == 3
    calls = [RPCCall("sum", [1, 2], {}), RPCCall("pay", [7], {}), RPCCall("nothing", [], {})]
    answers = await asyncio.to_thread(tiny.client.batch_call, calls)
    assert isinstance(answers, RPCBatchResponse)
    assert [answer.unique_id for answer in answers] == [1, 2, 3]
    assert (answers[0].result, answers[1]._jsonrpc_error_code, answers[2].result) == (3, 1000, None)


async def test_tinyrpc_calls_in_messagepack(ends: Ends) -> None:
    tiny = TinyClient(await ends.calls("msgpack-rpc"), MSGPACKRPCProtocol(id_generator=iter(range(99))))
    assert await tiny.call("sum", 1, 2) == 3, "the id of this one is 0"
    assert await tiny.call("nothing") is None
    await tiny.call("log", b"x", one_way=True)
    with pytest.raises(MSGPACKRPCError) as caught:
        await tiny.call("pay", 7)
    assert caught.value.args == ([1000, "Insufficient funds", {"missing": 7}],)
    with pytest.raises(MSGPACKRPCError) as unknown:
        await tiny.call("unknown")
    assert unknown.value.args[0][0] == -32601
    assert ends.heard == [b"x"]


async def test_an_error_for_id_0_in_messagepack_is_answered(ends: Ends) -> None:
    tiny = TinyClient(await ends.calls("msgpack-rpc"), MSGPACKRPCProtocol(id_generator=iter(range(99))))
    with pytest.raises(MSGPACKRPCError):
        await tiny.call("unknown")


# --- pjrpc


def pjrpc_dispatcher(heard: list[Any]) -> AsyncDispatcher[None]:
    methods = MethodRegistry()

    async def add(a: int, b: int) -> int:
        return a + b

    def pay(amount: int) -> None:
        raise PjrpcInsufficientFunds(data={"missing": amount})

    def broken() -> None:
        raise RuntimeError("their secret")

    for name, function in {
        "sum": add,
        "nothing": lambda: None,
        "log": lambda word: heard.append(word),
        "pay": pay,
        "broken": broken,
    }.items():
        methods.add_method(function, name)
    dispatcher: AsyncDispatcher[None] = AsyncDispatcher()
    dispatcher.add_methods(methods)
    return dispatcher


async def test_pjrpc_serves(ends: Ends) -> None:
    heard: list[Any] = []
    first = asyncio.ensure_future(ends.client.call("sum", 1, 2))
    serve_pjrpc(await ends.serves(), pjrpc_dispatcher(heard))
    await check_calls(ends.client, first)
    assert await ends.client.call("sum", a=1, b=2) == 3
    assert await ends.client.call("nothing") is None
    await ends.client.notify("log", "x")
    with pytest.raises(InsufficientFunds) as caught:
        await ends.client.call("pay", 7)
    assert caught.value.data == {"missing": 7}
    with pytest.raises(RpcInvalidParamsError):
        await ends.client.call("sum", 1)
    with pytest.raises(RpcApplicationError):
        await ends.client.call("broken")
    async with ends.client.batch() as batch:
        one, unknown = batch.call("sum", 1, 2), batch.call("unknown")
        batch.notify("log", "y")
    assert await one == 3
    with pytest.raises(RpcUnsupportedMethodError):
        await unknown
    assert heard == ["x", "y"]


async def test_pjrpc_calls(ends: Ends) -> None:
    client = PjrpcClient(await ends.calls())
    assert await client.call("sum", 1, 2) == await client.proxy.sum(a=1, b=2) == 3
    assert await client.call("nothing") is None
    await client.notify("log", "x")
    for call, error in (
        (("pay", 7), PjrpcClientInsufficientFunds),
        (("unknown",), pjrpc_client.MethodNotFoundError),
        (("typed", "x"), pjrpc_client.InvalidParamsError),
        (("fail",), pjrpc_client.ServerError),
    ):
        with pytest.raises(error) as caught:
            await client.call(*call)
        if error is PjrpcClientInsufficientFunds:
            assert caught.value.data == {"missing": 7}
    async with client.batch() as batch:
        batch.call("sum", 1, 2)
        batch.notify("log", "y")
        batch.call("nothing")
    assert batch.get_results() == [3, None]
    assert ends.heard == ["x", "y"]


async def test_two_services_with_one_code_for_pjrpc_as_caller(room: Room) -> None:
    class ErrorV1(pjrpc_client.TypedError, base=True):  # type: ignore[misc]
        pass

    class PermissionDenied(ErrorV1):
        CODE = 1
        MESSAGE = "permission denied"

    class ErrorV2(pjrpc_client.TypedError, base=True):  # type: ignore[misc]
        pass

    class ResourceNotFound(ErrorV2):
        CODE = 1
        MESSAGE = "resource not found"

    ends = Ends(await room.pair())

    def refuse() -> None:
        raise RpcError(1, "one of the two")

    ends.methods.add("refuse", refuse)
    for base, error in ((ErrorV1, PermissionDenied), (ErrorV2, ResourceNotFound)):
        client = PjrpcClient(await ends.calls(), error_cls=base)
        with pytest.raises(error):
            await client.call("refuse")


async def test_two_services_with_one_code_for_us_as_caller(ends: Ends) -> None:
    class ErrorV1(RpcError, registry=ErrorRegistry()):
        pass

    class PermissionDenied(ErrorV1, code=1, message="permission denied"):
        pass

    class ErrorV2(RpcError, registry=ErrorRegistry()):
        pass

    class ResourceNotFound(ErrorV2, code=1, message="resource not found"):
        pass

    class TheirError(pjrpc_server.TypedError):  # type: ignore[misc]
        CODE = 1
        MESSAGE = "one of the two"

    def refuse() -> None:
        raise TheirError

    dispatcher = pjrpc_dispatcher([])
    dispatcher.registry.add_method(refuse)
    first = asyncio.ensure_future(ends.client.using(errors=ErrorV1).proxy.refuse())
    serve_pjrpc(await ends.serves(), dispatcher)
    with pytest.raises(PermissionDenied):
        await first
    with pytest.raises(ResourceNotFound):
        await ends.client.using(errors=ErrorV2).proxy.refuse()


# --- sansio-jsonrpc and trio-jsonrpc


def sansio_pay(amount: int) -> None:
    raise SansioInsufficientFunds(data={"missing": amount})


def sansio_unknown(*args: Any) -> None:
    raise sansio_jsonrpc.JsonRpcMethodNotFoundError


async def test_sansio_jsonrpc_serves_and_calls_over_one_channel(ends: Ends) -> None:
    first = asyncio.ensure_future(ends.client.call("sum", 1, 2))
    methods = {"sum": lambda a, b: a + b, "pay": sansio_pay, "unknown": sansio_unknown}
    far = Sansio(await ends.serves(), methods)
    await check_calls(ends.client, first)
    with pytest.raises(InsufficientFunds) as caught:
        await ends.client.call("pay", 7)
    assert caught.value.data == {"missing": 7}
    assert await far.request("sum", [1, 2]) == await far.request("sum", {"a": 1, "b": 2}) == 3
    await far.notify("log", ["x"])
    with pytest.raises(SansioInsufficientFunds) as theirs:
        await far.request("pay", [7])
    assert theirs.value.data == {"missing": 7}
    with pytest.raises(sansio_jsonrpc.JsonRpcMethodNotFoundError):
        await far.request("unknown")
    assert ends.heard == ["x"]


async def test_what_sansio_jsonrpc_makes_of_standard_errors(ends: Ends) -> None:
    far = Sansio(await ends.calls())
    with pytest.raises(sansio_jsonrpc.JsonRpcInternalError) as swapped:  # its class for -32603 has the number -32602
        await far.request("typed", ["x"])
    assert (swapped.value.code, swapped.value.message) == (-32602, "Invalid params")
    with pytest.raises(sansio_jsonrpc.JsonRpcReservedError) as failed:
        await far.request("fail")
    assert (failed.value.code, failed.value.message) == (-32000, "Application error in method handler")


async def test_its_swapped_internal_error_is_taken_by_its_number(ends: Ends) -> None:
    def broken() -> None:
        raise sansio_jsonrpc.JsonRpcInternalError

    def standard() -> None:
        error = sansio_jsonrpc.JsonRpcInternalError()
        error.get_error().code = -32603
        raise error

    first = asyncio.ensure_future(ends.client.call("broken"))
    Sansio(await ends.serves(), {"broken": broken, "standard": standard})
    with pytest.raises(RpcInvalidParamsError):
        await first
    with pytest.raises(RpcInternalError):
        await ends.client.call("standard")


async def test_trio_jsonrpc_calls(ends: Ends) -> None:
    async def program(connection: JsonRpcConnection) -> list[Any]:
        found = [await connection.request("sum", [1, 2])]
        await connection.notify("log", ["x"])
        for method in ("pay", "unknown"):
            try:
                await connection.request(method, [7])
            except sansio_jsonrpc.JsonRpcException as error:
                found.append(type(error))
        return found

    found = await with_trio(await ends.calls(), JsonRpcConnectionType.CLIENT, program)
    assert found == [3, SansioInsufficientFunds, sansio_jsonrpc.JsonRpcMethodNotFoundError]
    assert ends.heard == ["x"]


async def test_trio_jsonrpc_serves(ends: Ends) -> None:
    async def program(connection: JsonRpcConnection) -> None:
        async with aclosing(connection.iter_requests()) as requests:
            async for request in requests:
                if request.is_notification:
                    continue
                if request.method == "stop":
                    await connection.respond_with_result(request, "stopped")
                    return
                if request.method == "sum":
                    await connection.respond_with_result(request, sum(request.params))
                else:
                    error = SansioInsufficientFunds(data={"missing": 7}).get_error()
                    await connection.respond_with_error(request, error)

    first = asyncio.ensure_future(ends.client.call("sum", 1, 2))
    serving = asyncio.ensure_future(with_trio(await ends.serves(), JsonRpcConnectionType.SERVER, program))
    assert await first == 3
    with pytest.raises(InsufficientFunds) as caught:
        await ends.client.call("pay", 7)
    assert caught.value.data == {"missing": 7}
    assert await ends.client.call("stop") == "stopped"
    await serving
