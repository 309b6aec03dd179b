"""Calls between two ends over a wire that can fail: results, errors, deadlines, cancellation, replacement, load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import msgspec
import pytest

from metered_realtime.core.rpc import caller, chunks
from metered_realtime.rpc import calls as rpc_calls
from metered_realtime.rpc import channels, rpc_channel
from metered_realtime.rpc.built_in import (
    RpcApplicationError,
    RpcBusyError,
    RpcCancelledError,
    RpcConnectionTimeoutError,
    RpcInvalidReplyError,
    RpcRecipientDisconnectedError,
    RpcRecipientNotFoundError,
    RpcRequestTooLargeError,
    RpcResponseTimeoutError,
    RpcResponseTooLargeError,
    RpcSendError,
    RpcUnexpectedReplyError,
    RpcUnsupportedMethodError,
    RpcUnsupportedVersionError,
)
from metered_realtime.rpc.codec import RpcFormat
from metered_realtime.rpc.errors import ErrorRegistry, RpcError
from metered_realtime.rpc.methods import RpcInvocationData
from tests.support.rpc.world import Message, Raw, World, all_quiet, eventually, wire

FORMATS: list[RpcFormat] = ["jsonrpc-2.0", "msgpack-rpc"]


class NoMoney(RpcError, code=2_100, message="Insufficient funds"):
    pass


class Gate:
    """A handler that waits until it is opened, and counts its calls and cancellations."""

    def __init__(self) -> None:
        self.entered = 0
        self.cancelled = 0
        self.open = asyncio.Event()

    async def __call__(self, value: Any = None) -> Any:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return value


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, 1.5, "größe 🎈", [{"a": [None]}], 2**60])
async def test_values_come_back_as_they_are(world: World, format: RpcFormat, value: Any) -> None:
    world.methods_b.add("echo", lambda value: value)
    assert await world.to_b.using(format=format).call("echo", value) == value


async def test_msgpack_carries_bytes(world: World) -> None:
    world.methods_b.add("echo", lambda value: value)
    assert await world.to_b.using(format="msgpack-rpc").call("echo", b"\x00\xff") == b"\x00\xff"


async def test_both_ends_call_over_one_channel(world: World) -> None:
    world.methods_a.add("who", lambda: "a")
    world.methods_b.add("who", lambda: "b")
    assert await world.to_b.call("who") == "b"
    assert await world.to_a.call("who") == "a"
    assert len(world.wires) == 1


async def test_both_ends_may_open_a_channel_at_the_same_moment(world: World) -> None:
    world.methods_a.add("who", lambda: "a")
    world.methods_b.add("who", lambda: "b")
    assert await asyncio.gather(world.to_b.call("who"), world.to_a.call("who")) == ["b", "a"]


async def test_proxies_are_calls(world: World) -> None:
    world.methods_b.add("sum", lambda a, b: a + b)
    assert await world.to_b.proxy.sum(1, 2) == await world.to_b.proxy.sum(a=2, b=1) == 3


async def test_a_handler_may_call_back(world: World) -> None:
    async def ask() -> Any:
        return await world.to_a.call("answer") + 1

    world.methods_a.add("answer", lambda: 41)
    world.methods_b.add("ask", ask)
    assert await world.to_b.call("ask") == 42


async def test_notifications_run_and_have_no_answer(world: World) -> None:
    heard: list[Any] = []
    world.methods_b.add("log", heard.append)
    await world.to_b.notify("log", "x")
    await world.to_b.notify("no such method")
    await eventually(lambda: heard == ["x"])
    assert len(world.wires[0][1].sent) == 1, "only the greeting"


async def test_text_handlers_receive_the_caller_and_its_timeout(world: World) -> None:
    seen: list[RpcInvocationData] = []

    async def greet(data: RpcInvocationData) -> str:
        seen.append(data)
        return f"Hello, {data.caller_identity}!"

    world.methods_b.add_text("greet", greet)
    assert await world.to_b.perform("greet", "hi", 2.5) == "Hello, a!"
    assert await world.to_b.perform("greet", "hi") == "Hello, a!"
    assert seen == [RpcInvocationData("1", "a", "hi", 2.5), RpcInvocationData("2", "a", "hi", 15.0)]


@pytest.mark.parametrize("result", [None, 5, b"x", ["x"]])
async def test_a_text_handler_that_returns_something_else_has_failed(world: World, result: Any) -> None:
    world.methods_b.add_text("broken", lambda data: result)
    with pytest.raises(RpcApplicationError):
        await world.to_b.perform("broken", "")


async def test_perform_accepts_and_returns_only_text(world: World) -> None:
    world.methods_b.add("five", lambda text: 5)
    with pytest.raises(RpcUnexpectedReplyError):
        await world.to_b.perform("five", "")
    with pytest.raises(TypeError):
        await world.to_b.perform("five", 5)  # type: ignore[arg-type]


# --- errors


@pytest.mark.parametrize("format", FORMATS)
async def test_a_typed_error_arrives_as_what_it_was_raised_as(world: World, format: RpcFormat) -> None:
    def pay(amount: int) -> None:
        raise NoMoney(data={"missing": amount})

    world.methods_b.add("pay", pay)
    with pytest.raises(NoMoney) as caught:
        await world.to_b.using(format=format).call("pay", 7)
    assert (caught.value.code, caught.value.message, caught.value.data) == (
        2_100,
        "Insufficient funds",
        {"missing": 7},
    )


async def test_codes_are_looked_up_in_the_registry_of_the_client(world: World) -> None:
    class V1(RpcError, registry=ErrorRegistry()):
        pass

    class Denied(V1, code=1):
        pass

    class V2(RpcError, registry=ErrorRegistry()):
        pass

    class Missing(V2, code=1):
        pass

    def fail() -> None:
        raise RpcError(1, "which one?")

    world.methods_b.add("fail", fail)
    for base, error in ((V1, Denied), (V2, Missing)):
        with pytest.raises(error):
            await world.to_b.using(errors=base).call("fail")
    with pytest.raises(RpcError) as caught:
        await world.to_b.call("fail")
    assert type(caught.value) is RpcError


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_text_of_an_exception_does_not_leave_the_process(format: RpcFormat, is_async: bool) -> None:
    async def fail_async() -> None:
        raise ValueError("the secret password")

    def fail() -> None:
        raise ValueError("the secret password")

    world = World()
    world.methods_b.add("fail", fail_async if is_async else fail)
    with pytest.raises(RpcApplicationError) as caught:
        await world.to_b.using(format=format).call("fail")
    assert (caught.value.code, caught.value.wire_code) == (1500, -32000)
    assert (caught.value.message, caught.value.data) == ("Application error in method handler", None)
    await world.close()


async def test_with_debug_the_text_of_an_exception_is_sent() -> None:
    def fail() -> None:
        raise ValueError("the reason")

    world = World(debug=True)
    world.methods_b.add("fail", fail)
    with pytest.raises(RpcApplicationError) as caught:
        await world.to_b.call("fail")
    assert caught.value.message == "ValueError: the reason"
    assert "Traceback" in caught.value.data
    await world.close()


@pytest.mark.parametrize("format", FORMATS)
async def test_a_result_that_cannot_be_encoded_is_a_failure_of_the_handler(world: World, format: RpcFormat) -> None:
    world.methods_b.add("odd", lambda: object())
    with pytest.raises(RpcApplicationError):
        await world.to_b.using(format=format).call("odd")


@pytest.mark.parametrize("format", FORMATS)
async def test_an_error_whose_data_cannot_be_encoded_arrives_without_it(world: World, format: RpcFormat) -> None:
    def fail() -> None:
        raise NoMoney("m", object())

    world.methods_b.add("fail", fail)
    with pytest.raises(NoMoney) as caught:
        await world.to_b.using(format=format).call("fail")
    assert (caught.value.message, caught.value.data) == ("m", None)


@pytest.mark.parametrize("format", FORMATS)
async def test_an_error_with_a_code_beyond_the_format_still_arrives(world: World, format: RpcFormat) -> None:
    def fail() -> None:
        raise RpcError(10**30, "m")

    world.methods_b.add("fail", fail)
    with pytest.raises(RpcError, match="m"):
        await world.to_b.using(format=format).call("fail")


async def test_errors_of_text_handlers_are_cut_on_a_character(world: World) -> None:
    def fail(data: RpcInvocationData) -> str:
        raise RpcError(5, "é" * 200, "x" + "é" * 10_000)

    world.methods_b.add_text("fail", fail)
    with pytest.raises(RpcError) as caught:
        await world.to_b.perform("fail", "")
    assert caught.value.message == "é" * 128
    assert caught.value.data == "x" + "é" * 7_679


async def test_errors_that_perform_raises_are_cut_whatever_the_remote_sent() -> None:
    raw = Raw()
    performing = asyncio.ensure_future(raw.client.perform("m", ""))
    assert "hello" in str(await raw.hear())
    await raw.hear()
    error = {"code": 5, "message": "é" * 200, "data": "é" * 10_000}
    await raw.say(json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}))
    with pytest.raises(RpcError) as caught:
        await performing
    assert (len(caught.value.message.encode()), len(caught.value.data.encode())) == (256, 15_360)
    await raw.close()


@pytest.mark.parametrize("format", FORMATS)
async def test_parameters_that_cannot_be_encoded_are_the_callers_fault(world: World, format: RpcFormat) -> None:
    with pytest.raises((TypeError, ValueError)):
        await world.to_b.using(format=format).call("m", object())
    assert world.a.stats().pending == 0


async def test_names_and_positions_do_not_mix(world: World) -> None:
    with pytest.raises(TypeError, match="not both"):
        await world.to_b.call("m", 1, a=2)
    with pytest.raises(TypeError, match="by name"):
        await world.to_b.using(format="msgpack-rpc").call("m", a=2)
    with pytest.raises(ValueError, match="name"):
        await world.to_b.call("$/hello")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
async def test_a_timeout_has_a_range(world: World, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await world.to_b.using(timeout=timeout).call("m")


# --- deadlines and cancellation


@pytest.mark.parametrize("format", FORMATS)
async def test_a_handler_that_hangs_costs_the_timeout_and_is_cancelled(world: World, format: RpcFormat) -> None:
    gate = Gate()
    world.methods_b.add("hang", gate)
    with pytest.raises(RpcResponseTimeoutError):
        await world.to_b.using(format=format, timeout=0.3).call("hang")
    await eventually(lambda: gate.cancelled == 1)
    await eventually(lambda: world.b.stats().running == 0)
    assert world.a.stats().pending == 0


async def test_a_handler_that_ignores_being_cancelled_keeps_its_place_until_it_ends(world: World) -> None:
    released, cancelled = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                cancelled.set()

    world.methods_b.add("stubborn", stubborn)
    with pytest.raises(RpcResponseTimeoutError):
        await world.to_b.using(timeout=0.02).call("stubborn")
    await cancelled.wait()
    await all_quiet()
    assert world.b.stats().running == 1
    released.set()
    await eventually(lambda: world.b.stats().running == 0)


async def test_cancelling_the_call_cancels_the_handler(world: World) -> None:
    gate = Gate()
    world.methods_b.add("hang", gate)
    calling = asyncio.ensure_future(world.to_b.call("hang"))
    await eventually(lambda: gate.entered)
    calling.cancel()
    await eventually(lambda: gate.cancelled == 1)
    assert world.a.stats().pending == 0
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_call_that_is_cancelled_before_it_went_out_never_runs(world: World) -> None:
    gate = Gate()
    world.methods_b.add("hang", gate)
    await world.to_b.notify("warm up")
    world.wires[0][0].flowing.clear()
    calls = [asyncio.ensure_future(world.to_b.call("hang")) for _ in range(3)]
    await all_quiet()
    calls[2].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    world.wires[0][0].flowing.set()
    await asyncio.gather(*calls[:2])
    assert gate.entered == 2


async def test_a_handler_that_its_own_program_cancels_is_an_error_of_its_own(world: World) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    world.methods_b.add("cancelled", cancelled)
    with pytest.raises(RpcCancelledError):
        await world.to_b.call("cancelled")


async def test_a_timeout_is_announced_only_if_it_is_not_the_default(world: World) -> None:
    world.methods_b.add("m", lambda: None)
    await world.to_b.call("m")
    await world.to_b.using(timeout=2.5).call("m")
    sent = [json.loads(message) for message in world.wires[0][0].sent]
    assert [message["method"] for message in sent] == ["$/hello", "m", "$/timeout", "m"]
    assert sent[2] == {"jsonrpc": "2.0", "method": "$/timeout", "params": {"id": 2, "ms": 2500}}


# --- load


async def test_the_65th_call_waits_and_what_is_too_much_is_refused_at_once(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    calls = [asyncio.ensure_future(world.to_b.call("slow", n)) for n in range(65)]
    await eventually(lambda: gate.entered == 64)
    await eventually(lambda: world.b.stats().queued == 1)
    calls += [asyncio.ensure_future(world.to_b.call("slow", n)) for n in range(65, 1_000)]
    await eventually(lambda: sum(call.done() for call in calls) == 1_000 - 64 - 256)
    gate.open.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[:320] == list(range(320))
    assert {type(result) for result in results[320:]} == {RpcBusyError}
    assert gate.entered == 320


async def test_a_thousand_quick_calls_at_once_are_all_answered(world: World) -> None:
    world.methods_b.add("echo", lambda value: value)
    assert await asyncio.gather(*(world.to_b.call("echo", n) for n in range(1_000))) == list(range(1_000))


async def test_too_many_pending_calls_of_this_end_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "MAX_PENDING", 2)
    gate = Gate()
    world.methods_b.add("slow", gate)
    calls = [asyncio.ensure_future(world.to_b.call("slow", n)) for n in range(3)]
    await eventually(lambda: calls[2].done())
    assert isinstance(calls[2].exception(), RpcBusyError)
    gate.open.set()
    assert await asyncio.gather(*calls[:2]) == [0, 1]


# --- batches


async def test_a_batch_is_one_message_and_one_answer(world: World) -> None:
    heard: list[Any] = []
    world.methods_b.add("sum", lambda a, b: a + b)
    world.methods_b.add("log", heard.append)
    async with world.to_b.batch() as batch:
        one = batch.call("sum", 1, 2)
        batch.notify("log", "x")
        unknown = batch.call("unknown")
        other = batch.proxy.sum(a=3, b=4)
    assert (await one, await other, heard) == (3, 7, ["x"])
    with pytest.raises(RpcUnsupportedMethodError):
        await unknown
    with pytest.raises(RpcUnsupportedMethodError):
        batch.results()
    near, far = world.wires[0]
    assert [len(json.loads(message)) for message in (near.sent[-1], far.sent[-1])] == [4, 3]


async def test_a_batch_in_a_format_without_batches_is_as_many_calls(world: World) -> None:
    world.methods_b.add("sum", lambda a, b: a + b)
    async with world.to_b.using(format="msgpack-rpc").batch() as batch:
        batch.call("sum", 1, 2)
        batch.notify("sum", 1, 2)
        batch.call("sum", 3, 4)
    assert batch.results() == [3, 7]


async def test_an_empty_batch_and_one_with_an_error_in_its_block_send_nothing(world: World) -> None:
    async with world.to_b.batch() as batch:
        pass
    assert batch.results() == []
    with contextlib.suppress(KeyError):
        async with world.to_b.batch() as batch:
            call = batch.call("m")
            raise KeyError
    assert world.wires == []
    with pytest.raises(RuntimeError):
        await call
    with pytest.raises(ValueError, match="sent"):
        batch.call("m")


async def test_a_batch_of_notifications_is_not_waited_for(world: World) -> None:
    heard: list[Any] = []
    world.methods_b.add("log", heard.append)
    async with world.to_b.batch() as batch:
        batch.notify("log", 1)
        batch.notify("log", 2)
    await eventually(lambda: heard == [1, 2])


async def test_a_batch_has_a_bound(world: World) -> None:
    batch = world.to_b.batch()
    for _ in range(256):
        batch.notify("m")
    with pytest.raises(ValueError, match="256"):
        batch.notify("m")


# --- size


@pytest.mark.parametrize("format", FORMATS)
async def test_five_megabytes_are_sent_in_chunks(world: World, format: RpcFormat) -> None:
    world.methods_b.add("echo", lambda value: value)
    payload = "0123456789" * 500_000
    assert await world.to_b.using(format=format).call("echo", payload) == payload
    sizes = [len(message) for wire in world.wires for end in wire for message in end.sent]
    assert max(sizes) < 65_536


async def test_small_calls_overtake_a_large_one(world: World) -> None:
    world.methods_b.add("size", len)
    large = asyncio.ensure_future(world.to_b.call("size", "x" * 7_000_000))
    await world.to_b.call("size", "x")
    assert not large.done()
    assert await large == 7_000_000


async def test_a_large_call_that_is_cancelled_half_way_is_abandoned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_PARTIAL", 1)  # what is left of a message would be in the way of the next
    gate = Gate()
    world.methods_b.add("slow", gate)
    await world.to_b.notify("warm up")
    large = asyncio.ensure_future(world.to_b.call("slow", "x" * 1_000_000))
    while len(world.wires[0][0].sent) < 4:  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(0)
    large.cancel()
    gate.open.set()
    assert await world.to_b.call("slow", 1) == 1
    assert gate.entered == 1
    payload = "y" * 1_000_000
    assert await world.to_b.call("slow", payload) == payload
    assert world.b.stats().malformed == 0


async def test_a_request_beyond_the_bound_is_refused_before_it_is_sent(world: World) -> None:
    world.methods_b.add("size", len)
    with pytest.raises(RpcRequestTooLargeError):
        await world.to_b.call("size", "x" * (chunks.MAX_MESSAGE_SIZE + 1))
    assert sum(len(message) for message in world.wires[0][0].sent) < 1_000


async def test_a_result_beyond_the_bound_is_refused_by_the_callee(world: World) -> None:
    world.methods_b.add("large", lambda: "x" * (chunks.MAX_MESSAGE_SIZE + 1))
    with pytest.raises(RpcResponseTooLargeError):
        await world.to_b.call("large")


async def test_a_request_to_a_foreign_end_is_bounded_by_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 0.01)
    raw = Raw()
    raw.methods.add("large", lambda: "x" * 300_000)
    with pytest.raises(RpcRequestTooLargeError):
        await raw.client.call("m", "x" * 300_000)
    assert "hello" in str(await raw.hear())
    answer = json.loads(await raw.ask('{"jsonrpc":"2.0","id":1,"method":"large"}'))
    assert answer["error"]["code"] == 1504
    await raw.close()


# --- the end of channels and connections


async def test_a_remote_that_leaves_fails_every_pending_call_at_once(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    calls = [asyncio.ensure_future(world.to_b.call("slow")) for _ in range(100)]
    await eventually(lambda: gate.entered == 64)
    world.a.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {RpcRecipientDisconnectedError}
    await eventually(lambda: gate.cancelled == 0 and world.b.stats().channels == 0)


async def test_a_remote_that_has_left_is_not_found_at_once(world: World) -> None:
    world.a.close()
    world.a.close()
    with pytest.raises(RpcRecipientNotFoundError):
        await world.to_b.call("m")
    assert not world.a.serve(wire()[0])


async def test_leaving_cancels_the_handlers_and_may_be_done_in_one(world: World) -> None:
    gate = Gate()

    async def leave() -> None:
        await world.b.wait_closed()

    world.methods_b.add("slow", gate)
    world.methods_b.add("leave", leave)
    calls = [asyncio.ensure_future(world.to_b.call(name)) for name in ("slow", "leave")]
    await eventually(lambda: gate.cancelled == 1)
    world.a.close()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_channel_that_ends_by_itself_fails_its_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.01)
    gate = Gate()
    world.methods_b.add("slow", gate)
    sent = asyncio.ensure_future(world.to_b.call("slow"))
    await eventually(lambda: gate.entered)
    world.wires[0][0].flowing.clear()
    unsent = [asyncio.ensure_future(world.to_b.call("slow")), asyncio.ensure_future(world.to_b.notify("slow"))]
    await asyncio.sleep(0)
    world.wires[0][1].close()
    results = await asyncio.gather(sent, *unsent, return_exceptions=True)
    assert [type(result) for result in results] == [RpcRecipientDisconnectedError, RpcSendError, RpcSendError]


async def test_after_a_channel_has_ended_the_next_call_opens_another(world: World) -> None:
    world.methods_b.add("m", lambda: 1)
    await world.to_b.call("m")
    world.wires[0][1].close()
    await eventually(lambda: world.a.stats().channels == 0)
    assert await world.to_b.call("m") == 1
    assert len(world.wires) == 2


@pytest.mark.parametrize("format", FORMATS)
async def test_a_replaced_connection_sends_again_and_nothing_runs_twice(world: World, format: RpcFormat) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    calls = [asyncio.ensure_future(world.to_b.using(format=format).call("slow", n)) for n in range(100)]
    await eventually(lambda: (gate.entered, world.b.stats().queued) == (64, 36))
    world.replace()
    await eventually(lambda: world.b.stats().repeated_requests == 100)
    gate.open.set()
    assert await asyncio.gather(*calls) == list(range(100))
    assert gate.entered == 100


async def test_answers_that_were_lost_with_the_connection_are_sent_again(world: World) -> None:
    ran: list[int] = []
    world.methods_b.add("note", ran.append)
    await world.to_b.call("note", 0)
    world.wires[0][1].other = None  # the answer goes nowhere
    call = asyncio.ensure_future(world.to_b.call("note", 1))
    await eventually(lambda: len(ran) == 2)
    world.replace()
    assert await call is None
    assert ran == [0, 1]


async def test_requests_that_were_not_sent_are_sent_on_the_new_connection(world: World) -> None:
    world.methods_b.add("echo", lambda value: value)
    await world.to_b.notify("warm up")
    await eventually(lambda: world.wires[0][1].sent)
    world.wires[0][0].flowing.clear()
    calls = [asyncio.ensure_future(world.to_b.call("echo", n)) for n in range(3)]
    calls.append(asyncio.ensure_future(world.to_b.call("echo", "x" * 1_000_000)))
    await asyncio.sleep(0)
    world.replace()
    assert (await asyncio.gather(*calls))[:3] == [0, 1, 2]


async def test_a_connection_replaced_twice_fails_what_was_sent_twice(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    call = asyncio.ensure_future(world.to_b.call("slow"))
    await eventually(lambda: gate.entered)
    world.replace()
    await eventually(lambda: world.b.stats().repeated_requests == 1)
    world.replace()
    with pytest.raises(RpcRecipientDisconnectedError):
        await call


async def test_a_batch_is_carried_over_call_by_call(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)

    async def send() -> list[Any]:
        async with world.to_b.batch() as batch:
            batch.call("slow", 1)
            batch.call("slow", 2)
        return batch.results()

    sending = asyncio.ensure_future(send())
    await eventually(lambda: gate.entered == 2)
    world.replace()
    await eventually(lambda: world.b.stats().repeated_requests == 2)
    gate.open.set()
    assert await sending == [1, 2]
    assert gate.entered == 2


async def test_calls_wait_for_a_connection_that_is_being_repaired(
    world: World,
) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    call = asyncio.ensure_future(world.to_b.call("slow", 1))
    await eventually(lambda: gate.entered)
    world.connected = False
    world.break_wires()
    await asyncio.sleep(10 * channels.LOSS_GRACE)
    assert not call.done()
    gate.open.set()
    world.connected = True
    world.a.connection_replaced()
    world.b.connection_replaced()
    assert await call == 1


async def test_a_connection_that_is_lost_for_good_fails_what_waits_for_it(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    call = asyncio.ensure_future(world.to_b.call("slow", 1))
    await eventually(lambda: gate.entered)
    world.connected = False
    world.break_wires()
    world.a.connection_lost()
    with pytest.raises(RpcRecipientDisconnectedError):
        await call


async def test_an_answer_from_another_remote_than_the_callee_is_dropped_and_counted() -> None:
    callee, other = Raw(), Raw()
    call = asyncio.ensure_future(callee.client.call("m"))
    await callee.hear()
    await callee.hear()
    other.serve()
    await other.say('{"jsonrpc": "2.0", "id": 1, "result": "forged"}')
    await other.silence()
    assert (other.endpoint.stats().dropped_answers, call.done()) == (1, False)
    await callee.say('{"jsonrpc": "2.0", "id": 1, "result": "true"}')
    assert await call == "true"
    await callee.close()
    await other.close()


async def test_a_batch_beyond_reason_is_one_error(raw_json: Raw) -> None:
    items = ",".join('{"jsonrpc":"2.0","method":"m"}' for _ in range(257))
    answer = json.loads(await raw_json.ask(f"[{items}]"))
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)


async def test_a_connection_that_is_replaced_before_the_hello_of_the_remote(world: World) -> None:
    gate = Gate()
    world.methods_b.add("slow", gate)
    world.is_deaf_at_first = True
    call = asyncio.ensure_future(world.to_b.call("slow", 1))
    await eventually(lambda: gate.entered)
    world.replace()
    gate.open.set()
    assert await call == 1
    assert (gate.entered, world.b.stats().repeated_requests) == (1, 1)


async def test_a_request_is_not_repeated_to_a_foreign_end_without_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 0.02)
    raw = Raw()
    call = asyncio.ensure_future(raw.client.call("m"))
    assert ["hello" in str(await raw.hear()) for _ in range(2)] == [True, False]
    raw.near, far = wire()
    far.listen(raw)
    raw.endpoint.connection_replaced()
    with pytest.raises(RpcRecipientDisconnectedError):
        await call
    said = [str(raw.got.get_nowait()) for _ in range(raw.got.qsize())]
    assert all("$/" in message for message in said), said
    await raw.close()


async def test_a_request_is_not_repeated_to_a_foreign_end() -> None:
    raw = Raw()
    call = asyncio.ensure_future(raw.client.call("m"))
    await raw.hear()
    await raw.hear()
    raw.endpoint.connection_replaced()
    with pytest.raises(RpcRecipientDisconnectedError):
        await call
    await raw.close()


async def test_a_channel_that_does_not_open_in_time() -> None:
    raw = Raw()
    raw.near.open_event.clear()
    with pytest.raises(RpcConnectionTimeoutError):
        await raw.client.using(timeout=0.02).call("m")
    assert raw.endpoint.stats().pending == 0
    await raw.close()


async def test_a_transport_that_fails_in_its_own_way_is_a_channel_that_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.01)
    await world.to_b.notify("warm up")

    async def broken(message: Message) -> None:
        raise KeyError

    monkeypatch.setattr(world.wires[0][0], "send", broken)
    with pytest.raises(RpcSendError):
        await world.to_b.call("m")


async def test_a_channel_that_ends_before_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.01)
    raw = Raw()
    raw.near.open_event.clear()
    call = asyncio.ensure_future(raw.client.call("m"))
    await asyncio.sleep(0)
    raw.near.cut()
    with pytest.raises(RpcSendError):
        await call
    await raw.close()


async def test_a_remote_that_leaves_while_the_channel_opens_is_not_found() -> None:
    raw = Raw()
    raw.near.open_event.clear()
    call = asyncio.ensure_future(raw.client.call("m"))
    await asyncio.sleep(0)
    raw.endpoint.close()
    with pytest.raises(RpcRecipientNotFoundError):
        await call
    await raw.close()


async def test_channels_of_one_remote_are_few(world: World) -> None:
    ends = [wire() for _ in range(channels.MAX_RPC_CHANNELS + 1)]
    served = [world.a.serve(near) for near, _ in ends]
    assert served == [True] * channels.MAX_RPC_CHANNELS + [False]
    assert ends[-1][0].is_closed


# --- foreign and hostile ends


async def test_a_remote_with_another_format_is_distinguished_from_one_that_fails() -> None:
    raw = Raw()
    call = asyncio.ensure_future(raw.client.using(format="msgpack-rpc").call("m"))
    await raw.hear()
    await raw.hear()
    await raw.say('{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "Parse error"}}')
    with pytest.raises(RpcUnsupportedVersionError):
        await call
    with pytest.raises(RpcUnsupportedVersionError):
        await raw.client.using(format="msgpack-rpc").call("m")
    assert raw.got.empty(), "nothing goes out any more"
    await raw.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ('{"id": 1, "result": 5, "error": null}', RpcUnsupportedVersionError),
        ('{"jsonrpc": "2.0", "id": 1, "error": "x"}', RpcInvalidReplyError),
        ('{"jsonrpc": "2.0", "id": 1, "error": {"code": 1}, "result": 2}', RpcInvalidReplyError),
        ('{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "m"}}', RpcError),
    ],
)
async def test_invalid_answers_fail_their_call(answer: str, error: type[Exception]) -> None:
    raw = Raw()
    call = asyncio.ensure_future(raw.client.call("m"))
    await raw.hear()
    await raw.hear()
    await raw.say('{"jsonrpc": "2.0", "id": 99, "result": 5}')
    await raw.say(answer)
    with pytest.raises(error):
        await call
    assert raw.endpoint.stats().dropped_answers == 1
    await raw.silence()
    await raw.close()


async def test_a_foreign_end_that_only_calls_receives_only_answers(raw_json: Raw) -> None:
    raw_json.methods.add("m", lambda: None)
    assert json.loads(await raw_json.ask('{"jsonrpc":"2.0","id":0,"method":"m"}')) == {
        "jsonrpc": "2.0",
        "id": 0,
        "result": None,
    }
    await raw_json.say('{"jsonrpc":"2.0","method":"m"}')
    await raw_json.say('{"jsonrpc":"2.0","method":"$/unknown"}')
    await raw_json.silence()


async def test_a_repeated_id_of_a_foreign_end_is_another_call(raw_json: Raw) -> None:
    numbers = iter(range(9))
    raw_json.methods.add("next", lambda: next(numbers))
    request = '{"jsonrpc":"2.0","id":1,"method":"next"}'
    assert [json.loads(await raw_json.ask(request))["result"] for _ in range(3)] == [0, 1, 2]


async def test_bytes_are_decoded_as_text_in_a_text_format(raw_json: Raw) -> None:
    raw_json.methods.add("m", lambda: 1)
    answer = await raw_json.ask(b'{"jsonrpc":"2.0","id":1,"method":"m"}')
    assert isinstance(answer, str)


@pytest.mark.parametrize(
    ("message", "code"),
    [("{", -32700), (b"\xff\xfe", -32700), ("5", -32600), ("[]", -32600), ('{"id":1,"method":"m"}', -32600)],
)
async def test_garbage_is_answered_with_a_well_formed_error(raw_json: Raw, message: Message, code: int) -> None:
    answer = json.loads(await raw_json.ask(message))
    assert set(answer) == {"jsonrpc", "id", "error"}
    assert answer["error"]["code"] == code


def check_answers(raw: Raw) -> None:
    """Check that every message is a hello, or a well-formed answer."""
    codec: Any = msgspec.json if raw.name == "jsonrpc-2.0" else msgspec.msgpack
    while not raw.got.empty():
        said = codec.decode(raw.got.get_nowait())
        for item in said if raw.name == "jsonrpc-2.0" and isinstance(said, list) else [said]:
            if raw.name == "jsonrpc-2.0":
                assert item["jsonrpc"] == "2.0"
                assert item.get("method") == "$/hello" or set(item) in ({"jsonrpc", "id", "result"}, ERROR_MEMBERS)
            else:
                assert item[:2] == [2, "$/hello"] or (item[0] == 1 and len(item) == 4)


ERROR_MEMBERS = {"jsonrpc", "id", "error"}


async def test_garbage_of_every_kind_is_answered_with_an_error_or_not_at_all(raw: Raw) -> None:
    chance = random.Random(7)
    for _ in range(3_000):
        garbage = chance.randbytes(chance.randrange(12))
        raw.near.deliver(garbage if chance.random() < 0.5 else garbage.decode("latin-1"))
    await all_quiet()
    check_answers(raw)


async def test_nearly_valid_messages_are_answered_with_an_error_or_not_at_all(raw: Raw) -> None:
    chance = random.Random(11)
    raw.methods.add("m", lambda *args: args)
    raw.methods.add("fail", lambda: 1 / 0)
    methods = ["m", "fail", "x", "", "$/hello", "$/timeout", "$/cancelRequest", "$/x", 5, None]
    scalars = [None, True, 0, 1, -1, 2**70, 1.5, "", "x", "2.0", [], {}, [1], {"id": 1}, {"code": 1, "message": "m"}]

    def some() -> Any:
        return chance.choice(scalars)

    def item() -> Any:
        if raw.name == "msgpack-rpc":
            return [some() if chance.random() < 0.2 else chance.randrange(3), *(some() for _ in range(3))][
                : chance.randrange(6)
            ]
        members = {"jsonrpc": "2.0", "id": some(), "method": chance.choice(methods), "params": some()}
        members |= {"result": some()} if chance.random() < 0.2 else {}
        members |= {"error": some()} if chance.random() < 0.2 else {}
        return {name: value for name, value in members.items() if chance.random() < 0.8}

    for _ in range(3_000):
        message = [item() for _ in range(chance.randrange(4))] if chance.random() < 0.2 else item()
        with contextlib.suppress(OverflowError):  # MessagePack has no such integers
            raw.near.deliver(json.dumps(message) if raw.name == "jsonrpc-2.0" else msgspec.msgpack.encode(message))
    await all_quiet()
    check_answers(raw)
    assert raw.endpoint.stats().running == 0


async def test_a_remote_that_calls_and_does_not_read_loses_its_channel(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_channel, "MAX_ANSWERS_WAITING", 100)
    raw.near.flowing.clear()
    for _ in range(200):
        raw.near.deliver("garbage")
    assert raw.near.is_closed
    assert raw.endpoint.stats().channels == 0


async def test_large_answers_that_are_not_read_hold_their_places(raw_json: Raw) -> None:
    await raw_json.ask('{"jsonrpc":"2.0","method":"$/hello","params":{"chunks":true}}')
    raw_json.methods.add("large", lambda: "x" * 100_000)
    raw_json.near.flowing.clear()
    for number in range(400):
        await raw_json.say(json.dumps({"jsonrpc": "2.0", "id": number, "method": "large"}))
    await all_quiet()
    stats = raw_json.endpoint.stats()
    assert (stats.running, stats.queued) == (64, 256)
    raw_json.near.flowing.set()
    await eventually(lambda: raw_json.endpoint.stats().running == 0)


@pytest.mark.parametrize("hello", [None, [], {"session": 5}, {"session": "x" * 100}, {"session": ""}, [1, 2, 3]])
async def test_malformed_hellos_do_no_harm(raw_json: Raw, hello: Any) -> None:
    raw_json.methods.add("m", lambda: 1)
    params = {} if hello is None else {"params": hello}
    greeting = await raw_json.ask(json.dumps({"jsonrpc": "2.0", "method": "$/hello"} | params))
    assert json.loads(greeting)["method"] == "$/hello"
    assert json.loads(await raw_json.ask('{"jsonrpc":"2.0","id":1,"method":"m"}'))["result"] == 1
