"""Calls under strain: remotes that send nonsense or too much, do not read, or open and close channels."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import msgspec
import pytest

from metered_realtime.core.rpc import callee, chunks
from metered_realtime.log import NoopLogger
from metered_realtime.rpc import calls as rpc_calls
from metered_realtime.rpc import channels, rpc_channel
from metered_realtime.rpc.built_in import (
    RpcRecipientDisconnectedError,
    RpcResponseTimeoutError,
    RpcResponseTooLargeError,
    RpcUnsupportedVersionError,
)
from metered_realtime.rpc.codec import RpcFormat
from tests.support.patience import PATIENCE
from tests.support.rpc.world import MemoryTransport, Raw, World, all_quiet, eventually, wire

# --- notifications


async def test_a_notification_has_a_deadline_and_is_not_sent_after_it(world: World) -> None:
    await world.to_b.notify("warm up")
    near = world.wires[0][0]
    near.flowing.clear()
    first = asyncio.ensure_future(world.to_b.notify("stuck"))  # it is being sent already
    await asyncio.sleep(0)
    with pytest.raises(RpcResponseTimeoutError):
        await world.to_b.using(timeout=0.02).notify("late")
    assert world.a.stats().pending == 1
    near.flowing.set()
    await first
    await world.to_b.notify("last")
    assert [json.loads(message)["method"] for message in near.sent[1:]] == ["warm up", "stuck", "last"]


async def test_a_notification_that_waits_can_be_taken_back(world: World) -> None:
    await world.to_b.notify("warm up")
    near = world.wires[0][0]
    near.flowing.clear()
    waiting = [asyncio.ensure_future(world.to_b.notify(name)) for name in ("one", "other", "last")]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.sleep(0)
    near.flowing.set()
    await asyncio.gather(waiting[0], waiting[2])
    assert [json.loads(message)["method"] for message in near.sent[2:]] == ["one", "last"]


async def test_a_notification_waits_for_a_connection_that_is_replaced(world: World) -> None:
    heard: list[str] = []
    world.methods_b.add("log", heard.append)
    await world.to_b.notify("log", "first")
    world.wires[0][0].flowing.clear()
    waiting = asyncio.ensure_future(world.to_b.notify("log", "second"))
    await asyncio.sleep(0)
    world.replace()
    await waiting
    await eventually(lambda: heard == ["first", "second"])


async def test_notifications_of_this_end_do_not_count_as_unread_answers(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_channel, "MAX_ANSWERS_WAITING", 100)
    raw.near.flowing.clear()
    notes = [asyncio.ensure_future(raw.client.using(format=raw.name).notify("m", "x" * 200)) for _ in range(300)]
    await all_quiet()
    raw.near.deliver("nothing of sense" if raw.name == "jsonrpc-2.0" else b"\xff")
    assert raw.endpoint.stats().channels == 1
    raw.near.flowing.set()
    await asyncio.gather(*notes)


# --- messages that are sent at once


async def test_messages_are_sent_in_the_same_turn_while_there_is_room_and_later_in_order() -> None:
    raw = Raw()
    near = raw.near
    near.prompt = True
    await raw.client.notify("open it")
    calls = [asyncio.ensure_future(raw.client.using(timeout=9).call("m")) for _ in range(2)]
    await asyncio.sleep(0)
    assert [json.loads(message)["method"] for message in near.sent[2:]] == ["$/timeout", "m"] * 2
    near.flowing.clear()
    calls += [asyncio.ensure_future(raw.client.call(name)) for name in ("x", "y")]
    await asyncio.sleep(0)
    near.flowing.set()
    calls += [asyncio.ensure_future(raw.client.call(name)) for name in ("z",)]
    await eventually(lambda: len(near.sent) == 9)
    assert [json.loads(message)["method"] for message in near.sent[6:]] == ["x", "y", "z"]
    await raw.close()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_large_request_that_is_cancelled_after_its_last_chunk_is_cancelled_at_the_remote() -> None:
    world = World()
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(value: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    world.methods_b.add("hang", hang)
    world.methods_b.add("warm up", lambda: None)
    await world.to_b.call("warm up")  # the hello of b, that it accepts chunks, arrives before the answer
    call = asyncio.ensure_future(world.to_b.call("hang", "x" * 100_000))
    near = world.wires[0][0]
    await eventually(lambda: any(isinstance(sent, bytes) for sent in near.sent))
    while near.sent[-1][1:2] != b"\x01":  # noqa: ASYNC110 - until the last piece is out
        await asyncio.sleep(0)
    call.cancel()  # before the writer has noticed that this was the last one
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        await cancelled.wait()
    await world.close()


async def test_a_large_request_waits_for_its_room_over_a_connection_that_is_replaced(world: World) -> None:
    world.methods_b.add("size", len)
    world.is_deaf_at_first = True
    call = asyncio.ensure_future(world.to_b.call("size", "x" * 1_000_000))
    await all_quiet()
    world.replace()
    assert await call == 1_000_000


async def test_many_small_calls_in_a_format_without_batches_are_not_one_large_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 0.01)
    raw = Raw("msgpack-rpc")
    raw.near.max_message_size = 10_000

    async def send() -> list[Any]:
        async with raw.client.using(format="msgpack-rpc").batch() as batch:
            for _ in range(5):
                batch.call("size", "x" * 5_000)
        return batch.results()

    sending = asyncio.ensure_future(send())
    await raw.hear()  # the greeting
    for number in range(5):
        heard: Any = await raw.hear()
        _, request_id, _, params = msgspec.msgpack.decode(heard)
        await raw.say(msgspec.msgpack.encode([1, request_id, None, len(params[0]) + number]))
    assert await sending == [5_000, 5_001, 5_002, 5_003, 5_004]
    await raw.close()


# --- channels that end


async def test_each_channel_that_ends_has_a_grace_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 10.0)
    gate = asyncio.Event()
    world.methods_b.add("slow", gate.wait)
    await world.to_b.using(format="msgpack-rpc").notify("warm up")
    world.wires[0][1].close()
    await asyncio.sleep(9.0)
    call = asyncio.ensure_future(world.to_b.call("slow"))
    await eventually(lambda: world.b.stats().running == 1)
    world.break_wires()
    await asyncio.sleep(2.0)  # the grace of the first one is over
    world.a.connection_replaced()
    world.b.connection_replaced()
    gate.set()
    assert await call is True


async def test_a_remote_that_opens_and_closes_channels_makes_few_calls_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 3_600.0)
    raw = Raw()
    calls: list[asyncio.Task[Any]] = []
    ends: list[weakref.ref[MemoryTransport]] = []
    for _ in range(3 * channels.MAX_RPC_CHANNELS):
        near, _ = wire()
        raw.endpoint.serve(near)
        calls.append(asyncio.ensure_future(raw.client.call("m")))
        await eventually(lambda near=near: len(near.sent) == 2)  # the hello and the request
        near.cut()
        ends.append(weakref.ref(near))
    given_up = len(calls) - channels.MAX_RPC_CHANNELS
    results = await asyncio.gather(*calls[:given_up], return_exceptions=True)
    assert {type(result) for result in results} == {RpcRecipientDisconnectedError}
    assert not any(call.done() for call in calls[given_up:])
    await raw.close()
    await asyncio.gather(*calls, return_exceptions=True)
    del near, _, calls, results
    gc.collect()
    assert [end() for end in ends] == [None] * len(ends), "no timer holds what has ended"


async def test_a_channel_through_the_server_needs_no_connection_to_be_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "LOSS_GRACE", 0.01)
    world.connected = False
    call = asyncio.ensure_future(world.to_b.using(via="server").call("slow"))
    world.methods_b.add("slow", asyncio.Event().wait)
    await eventually(lambda: world.b.stats().running == 1)
    world.wires[0][0].cut()
    with pytest.raises(RpcRecipientDisconnectedError):
        await call


# --- malformed messages


async def test_one_unreadable_binary_message_does_not_end_calls_in_text() -> None:
    raw = Raw()
    call = asyncio.ensure_future(raw.client.call("m"))
    await raw.hear()
    await raw.hear()
    refusal = json.loads(await raw.ask(b"\xff\xfe{"))
    assert refusal["error"]["code"] == -32700
    await raw.say('{"jsonrpc": "2.0", "id": 1, "result": 5}')
    assert await call == 5
    await raw.close()


async def test_an_answer_in_messagepack_means_that_the_remote_does_not_support_json() -> None:
    raw = Raw()
    call = asyncio.ensure_future(raw.client.call("m"))
    await raw.hear()
    await raw.say(msgspec.msgpack.encode([1, None, [-32700, "Parse error"], None]))
    with pytest.raises(RpcUnsupportedVersionError):
        await call
    await raw.close()


async def test_an_absurd_timeout_harms_nothing_else_in_its_batch(raw_json: Raw) -> None:
    raw_json.methods.add("m", lambda: 1)
    absurd = {"jsonrpc": "2.0", "method": "$/timeout", "params": {"id": 1, "ms": 10**400}}
    answer = await raw_json.ask(json.dumps([absurd, {"jsonrpc": "2.0", "id": 1, "method": "m"}]))
    assert json.loads(answer) == [{"jsonrpc": "2.0", "id": 1, "result": 1}]


async def test_chunks_of_endless_messages_are_bounded(raw_json: Raw) -> None:
    raw_json.methods.add("m", lambda: 1)
    for number in range(2_000):
        raw_json.near.deliver(b"\xc1\x00" + number.to_bytes(4, "big") + b"x" * 60_000)
    assert raw_json.endpoint.stats().malformed == 2_000 - chunks.MAX_PARTIAL
    assert json.loads(await raw_json.ask('{"jsonrpc":"2.0","id":1,"method":"m"}'))["result"] == 1


async def test_floods_of_cancellations_and_answers_change_nothing(raw_json: Raw) -> None:
    gate = asyncio.Event()
    raw_json.methods.add("slow", gate.wait)
    await raw_json.say('{"jsonrpc":"2.0","id":"mine","method":"slow"}')
    for number in range(5_000):
        cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": number}}
        raw_json.near.deliver(json.dumps(cancel))
        raw_json.near.deliver(json.dumps({"jsonrpc": "2.0", "id": number, "result": "forged"}))
    await eventually(lambda: raw_json.endpoint.stats().running == 1)
    gate.set()
    assert json.loads(await raw_json.hear()) == {"jsonrpc": "2.0", "id": "mine", "result": True}
    assert raw_json.endpoint.stats().dropped_answers == 5_000


# --- excess


async def test_a_batch_whose_answers_do_not_fit_together_is_answered_with_errors_for_the_largest() -> None:
    raw = Raw()
    raw.serve()
    raw.methods.add("text", lambda size: "x" * size)
    asked = [
        {"jsonrpc": "2.0", "id": name, "method": "text", "params": [size]}
        for name, size in (("a", 100_000), ("b", 5), ("c", 200_000), ("d", 50_000))
    ]
    answers = json.loads(await raw.ask(json.dumps(asked)))
    assert [answer["id"] for answer in answers] == ["a", "b", "c", "d"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, 1504, None]
    await raw.close()


async def test_a_batch_of_this_end_whose_answers_do_not_fit_is_answered(world: World) -> None:
    world.methods_b.add("text", lambda size: "x" * size)
    async with world.to_b.batch() as batch:
        calls = [batch.call("text", 5_000_000), batch.call("text", 4_000_000)]
    with pytest.raises(RpcResponseTooLargeError):
        await calls[0]
    assert len(await calls[1]) == 4_000_000


async def test_a_remote_that_sends_large_batches_and_does_not_read_loses_its_channel(
    raw_json: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_channel, "MAX_ANSWER_BYTES_WAITING", 1_000_000)
    raw_json.methods.add("text", lambda: "x" * 100_000)
    raw_json.near.flowing.clear()
    for _ in range(20):
        raw_json.near.deliver('[{"jsonrpc":"2.0","id":1,"method":"text"},{"jsonrpc":"2.0","id":2,"method":"text"}]')
    assert raw_json.near.is_closed


@pytest.mark.parametrize("format", ["jsonrpc-2.0", "msgpack-rpc"])
async def test_requests_that_wait_are_bounded_in_bytes(
    world: World, format: RpcFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callee, "MAX_HELD_BYTES", 1_000_000)
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 5.0)
    gate = asyncio.Event()

    async def slow(value: str) -> int:
        await gate.wait()
        return len(value)

    world.methods_b.add("slow", slow)
    client = world.to_b.using(format=format)
    calls = [asyncio.ensure_future(client.call("slow", "x" * 300_000)) for _ in range(6)]
    await eventually(lambda: sum(call.done() for call in calls) == 3)
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[:3] == [300_000] * 3
    assert {getattr(result, "code", None) for result in results[3:]} == {1429}


@pytest.mark.parametrize("format", ["jsonrpc-2.0", "msgpack-rpc"])
async def test_requests_that_grow_in_memory_are_bounded_by_what_they_take_there(
    world: World, format: RpcFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callee, "MAX_HELD_BYTES", 10_000_000)
    monkeypatch.setattr(rpc_calls, "HELLO_TIMEOUT", 5.0)
    gate = asyncio.Event()

    async def slow(value: list[Any]) -> int:
        await gate.wait()
        return len(value)

    world.methods_b.add("slow", slow)
    client = world.to_b.using(format=format)
    calls = [asyncio.ensure_future(client.call("slow", [[]] * 50_000)) for _ in range(4)]
    await eventually(lambda: sum(call.done() for call in calls) == 2)
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[:2] == [50_000] * 2
    assert {getattr(result, "code", None) for result in results[2:]} == {1429}


# --- messages that are expensive to decode


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("msgpack-rpc", b"\x94\x00\x01\xa1m\x91\x81\x90\x01"),
        ("msgpack-rpc", b"\x94\x00\x01\xa1m\xdd\x00\x10\x00\x00" + b"\x90" * 2**20),
        ("msgpack-rpc", b"\x94\x00\x01\xa1m" + b"\x91" * 200 + b"\x01"),
        ("jsonrpc-2.0", '{"jsonrpc":"2.0","id":1,"method":"m","params":[' + "[]," * 100_000 + "1]}"),
        ("jsonrpc-2.0", '{"jsonrpc":"2.0","id":1,"method":"m","params":' + "[" * 200 + "]" * 200 + "}"),
        ("jsonrpc-2.0", f'{{"jsonrpc":"2.0","id":1,"method":"m","params":["{"x" * 70_000}",{"1" * 4_000}]}}'),
    ],
    ids=["list as key", "lists", "depth", "json lists", "json depth", "json digits"],
)
async def test_a_message_that_costs_too_much_is_answered_without_being_decoded(
    monkeypatch: pytest.MonkeyPatch, name: RpcFormat, message: Any
) -> None:
    raw = Raw(name)
    raw.serve()
    called: list[Any] = []
    raw.methods.add("m", called.append)
    decode = msgspec.json.decode if name == "jsonrpc-2.0" else msgspec.msgpack.decode
    with monkeypatch.context() as patch:
        patch.setattr(msgspec.msgpack, "decode", called.append)
        patch.setattr(msgspec.json, "decode", called.append)
        answer = await raw.ask(message)
    error = decode(answer)["error"] if name == "jsonrpc-2.0" else dict(enumerate(decode(answer)[2]))
    assert error.get("code", error.get(0)) == -32700
    assert called == []
    assert raw.endpoint.stats().malformed == 1
    await raw.close()


@pytest.mark.parametrize("value", [[[]] * 100_000, list(range(300_000))], ids=["lists", "numbers"])
async def test_a_message_that_the_remote_would_refuse_is_not_sent(raw: Raw, value: Any) -> None:
    with pytest.raises(ValueError, match="refused: more than"):
        await raw.client.using(format=raw.name).call("m", value)
    assert raw.near.sent == []


async def test_method_names_are_short_because_they_are_remembered(raw: Raw) -> None:
    encode = msgspec.json.encode if raw.name == "jsonrpc-2.0" else msgspec.msgpack.encode
    name = "x" * 257
    request = {"jsonrpc": "2.0", "id": 7, "method": name} if raw.name == "jsonrpc-2.0" else [0, 7, name, []]
    answer: Any = await raw.ask(encode(request).decode() if raw.name == "jsonrpc-2.0" else encode(request))
    assert b"-32600" in answer.encode() if raw.name == "jsonrpc-2.0" else msgspec.msgpack.decode(answer)[2][0] == -32600
    with pytest.raises(ValueError, match="at most 256"):
        raw.methods.add(name, print)


async def test_chunks_of_endless_messages_are_bounded_over_all_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "MAX_PARTIAL_BYTES", 300_000)
    raw = Raw()
    ends = [wire() for _ in range(4)]
    for near, _ in ends:
        raw.endpoint.serve(near)
    piece = b"\xc1\x00\x00\x00\x00\x01" + bytes(100_000)
    for near, _ in ends:
        near.deliver(piece)
    assert raw.endpoint.stats().malformed == 1
    ends[0][0].cut()
    ends[1][0].deliver(piece)  # it fits where the channel that has ended left room
    assert raw.endpoint.stats().malformed == 1
    ends[2][0].deliver(piece)
    assert raw.endpoint.stats().malformed == 2
    await raw.close()


async def test_faults_of_a_remote_are_logged_each_time_that_they_have_doubled() -> None:
    class Log(NoopLogger):
        def warning(self, message: str, context: Any = None) -> None:
            warnings.append(context["count"])

    warnings: list[int] = []
    raw = Raw(logger=Log())
    raw.serve()
    for _ in range(100):
        raw.near.deliver('{"jsonrpc":"2.0","id":7,"result":1}')
    assert warnings == [1, 2, 4, 8, 16, 32, 64]
    assert raw.endpoint.stats().dropped_answers == 100
    await raw.close()


async def test_a_flood_of_cancellations_ends_the_requests_that_it_names() -> None:
    raw = Raw()
    raw.serve()
    raw.methods.add("wait", asyncio.Event().wait)
    for number in range(300):
        raw.near.deliver(json.dumps({"jsonrpc": "2.0", "id": number, "method": "wait"}))
    assert (raw.endpoint.stats().running, raw.endpoint.stats().queued) == (64, 236)
    for number in range(300):
        raw.near.deliver(json.dumps({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": number}}))
    await eventually(lambda: raw.endpoint.stats().running == 0)
    assert raw.endpoint.stats().queued == 0
    await raw.close()
