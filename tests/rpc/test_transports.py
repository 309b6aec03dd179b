"""Calls through the signalling server: what its refusals mean, what the envelope carries, when it is the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    DisconnectedError,
    MeteredPeerOversizedError,
    MeteredPeerSendError,
    MeteredRealtimeError,
    PayloadTooLargeError,
    ServerRequestError,
)
from metered_realtime.rpc import channels
from metered_realtime.rpc.built_in import (
    RpcRecipientNotFoundError,
    RpcRequestTooLargeError,
    RpcSendError,
    RpcUnsupportedServerError,
    RpcUnsupportedVersionError,
)
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.codec import RpcFormat, RpcPath
from metered_realtime.rpc.endpoint import RpcEndpoint
from metered_realtime.rpc.methods import RpcMethods
from metered_realtime.rpc.transports import ENVELOPE_KEY, ServerTransport, unwrap
from tests.support.rpc.world import FixedConnection, MemoryTransport, all_quiet, wire


class Server:
    """Accepts direct messages to a remote, or refuses each of them."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.sent: list[Any] = []
        self.is_asked = asyncio.Event()
        self._refusal = refusal

    async def send(self, data: Any) -> None:
        self.is_asked.set()
        if self._refusal is not None:
            raise self._refusal
        self.sent.append(data)


@pytest.mark.parametrize(
    ("refusal", "meaning"),
    [
        (ServerRequestError("peer_not_found"), RpcRecipientNotFoundError),
        (ServerRequestError("action_not_permitted"), RpcUnsupportedServerError),
        (ServerRequestError("unknown_type"), RpcUnsupportedServerError),
        (ServerRequestError("over_message_quota"), RpcSendError),
        (ServerRequestError("backend_error"), RpcSendError),
        (PayloadTooLargeError(2, 1), RpcRequestTooLargeError),
        (MeteredPeerOversizedError(2, 1), RpcRequestTooLargeError),
        (MeteredPeerSendError("not_joined", "m"), RpcSendError),
        (DisconnectedError(), RpcSendError),
        (MeteredRealtimeError("has left"), RpcSendError),
    ],
)
async def test_what_the_server_refuses_is_an_error_of_the_call(refusal: Exception, meaning: type[Exception]) -> None:
    transport = ServerTransport(Server(refusal), 65_536)
    with pytest.raises(meaning):
        await transport.send('{"jsonrpc": "2.0", "method": "m"}')
    endpoint = RpcEndpoint(FixedConnection(transport), identity="x", methods=RpcMethods())
    with pytest.raises(meaning):
        await RpcClient(endpoint).using(via="server").call("m")
    with pytest.raises(meaning):
        await RpcClient(endpoint).using(via="server").notify("m")
    await endpoint.wait_closed()


async def test_the_envelope_carries_the_object_itself_and_leaves_room_for_itself() -> None:
    server = Server()
    transport = ServerTransport(server, 1_000)
    await transport.send('{"jsonrpc":"2.0","method":"m"}')
    assert server.sent == [{ENVELOPE_KEY: {"jsonrpc": "2.0", "method": "m"}}]
    assert transport.max_message_size == 1_000 - len('{"__meteredRpc":}')


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({ENVELOPE_KEY: {"jsonrpc": "2.0"}}, '{"jsonrpc": "2.0"}'),
        ({ENVELOPE_KEY: [1]}, "[1]"),
        ({ENVELOPE_KEY: None}, "null"),
        ({ENVELOPE_KEY: {}, "more": 1}, None),
        ({"type": "rtc-ice"}, None),
        ("text", None),
        (None, None),
    ],
)
def test_only_the_envelope_is_taken_out_of_direct_messages(data: Any, text: str | None) -> None:
    assert unwrap(data) == text


class TwoWays:
    """An endpoint whose direct channels never open, and whose calls reach another one through the server."""

    is_connected = True

    def __init__(self) -> None:
        self.methods = RpcMethods()
        self.opened: list[RpcPath] = []
        self.far = RpcEndpoint(self, identity="near", methods=self.methods)
        self.near = RpcEndpoint(self, identity="far", methods=RpcMethods())
        self.client = RpcClient(self.near)

    def open_transport(self, format: RpcFormat, path: RpcPath) -> MemoryTransport:
        self.opened.append(path)
        if path == "p2p":
            return MemoryTransport()
        if format != "jsonrpc-2.0":
            raise RpcUnsupportedVersionError
        mine, theirs = wire()
        self.far.serve(theirs, format, path)
        return mine

    async def close(self) -> None:
        await self.near.wait_closed()
        await self.far.wait_closed()


async def test_a_call_goes_through_the_server_if_no_direct_channel_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "DIRECT_TIMEOUT", 0.05)
    ways = TwoWays()
    ways.methods.add("m", lambda: 1)
    assert await ways.client.call("m") == 1
    started = asyncio.get_running_loop().time()
    assert await ways.client.call("m") == 1
    assert asyncio.get_running_loop().time() - started < 0.05, "the next one does not wait again"
    assert ways.opened == ["p2p", "server"]
    await ways.close()


async def test_a_call_with_little_time_spends_half_of_it_on_a_direct_channel() -> None:
    ways = TwoWays()
    ways.methods.add("m", lambda: 1)
    started = asyncio.get_running_loop().time()
    assert await ways.client.using(timeout=0.4).call("m") == 1
    assert asyncio.get_running_loop().time() - started == pytest.approx(0.2)
    await ways.close()


async def test_a_call_that_the_server_does_not_carry_waits_for_a_direct_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "DIRECT_TIMEOUT", 0.01)
    methods, server = RpcMethods(), Server(ServerRequestError("action_not_permitted"))
    far = RpcEndpoint(FixedConnection(wire()[0]), identity="near", methods=methods)
    methods.add("m", lambda: 1)
    direct, theirs = wire()
    direct.open_event.clear()
    far.serve(theirs)

    connection = FixedConnection(direct, ServerTransport(server, 65_536))
    near = RpcEndpoint(connection, identity="far", methods=RpcMethods())
    call = asyncio.ensure_future(RpcClient(near).call("m"))
    await server.is_asked.wait()
    await all_quiet()
    assert not call.done()
    direct.open_event.set()
    assert await call == 1
    await near.wait_closed()
    await far.wait_closed()


async def test_a_call_that_the_remote_itself_refused_with_1403_is_not_made_again() -> None:
    ways, runs = TwoWays(), []

    def refuse() -> None:
        runs.append(1)
        raise RpcUnsupportedServerError

    ways.methods.add("m", refuse)
    with pytest.raises(RpcUnsupportedServerError):
        await ways.client.using(timeout=0.4).call("m")
    assert (runs, ways.opened) == ([1], ["p2p", "server"])
    await ways.close()


async def test_a_direct_call_waits_for_its_channel_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "DIRECT_TIMEOUT", 0.01)
    ways = TwoWays()
    for client in (ways.client.using(via="p2p", timeout=0.05), ways.client.using(format="msgpack-rpc", timeout=0.05)):
        with pytest.raises(MeteredRealtimeError) as caught:
            await client.call("m")
        assert getattr(caught.value, "code", None) == 1501
    await ways.close()


async def test_via_is_one_of_three() -> None:
    ways = TwoWays()
    with pytest.raises(ValueError, match="carrier pigeon"):
        ways.client.using(via="carrier pigeon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="xml"):
        ways.client.using(format="xml")  # type: ignore[arg-type]
    await ways.close()
