"""STUN and TURN servers: who names them, when they are asked, and what a dead one costs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DCOpen,
    IceServerConfig,
    MeteredPeer,
    NegotiationError,
    NoopLogger,
)
from metered_realtime.connection import ice_servers
from metered_realtime.connection.ice_servers import IceServers, choose, resolve
from tests.support.coturn import coturn, needs_coturn
from tests.support.inside import aioice_of
from tests.support.patience import takes_less_than
from tests.support.peers import EventLog, Pair, Room, eventually

SECRET = "relay-secret"


def ice(peer: MeteredPeer) -> Any:
    """Return aioice's connection to the only remote."""
    pc: Any = peer.remote_peers[0].pc
    return aioice_of(pc)


class _Silent(asyncio.DatagramProtocol):
    """Receives and never answers."""

    def __init__(self) -> None:
        self.asked = 0

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.asked += 1


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[IceServerConfig, _Silent]]:
    transport, silent = await asyncio.get_running_loop().create_datagram_endpoint(_Silent, local_addr=("127.0.0.1", 0))
    try:
        yield IceServerConfig(f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}"), silent
    finally:
        transport.close()


async def pair_with(room: Room, servers: Any, **options: Any) -> Pair:
    return await room.meet(
        room.peer("a", ice_servers=servers, **options), room.peer("b", ice_servers=servers, **options)
    )


async def open_channel(pair: Pair) -> DataChannel:
    channel = DataChannel(pair.to_b.create_data_channel("x"))
    await EventLog(channel).until(DCOpen)
    return channel


# --- who names them


async def test_no_ice_servers_means_none(room: Room) -> None:
    pair = await room.pair()
    await open_channel(pair)
    assert (ice(pair.a).stun_server, ice(pair.a).turn_server) == (None, None)


async def test_an_empty_list_means_none_whatever_the_server_names(room: Room) -> None:
    pair = await room.pair()
    named = IceServers([], lambda: (IceServerConfig("stun:127.0.0.1"),), NoopLogger())
    assert not named.may_have_any
    assert not await named.get()
    await open_channel(pair)


async def test_a_sequence_and_a_provider_replace_what_the_server_names() -> None:
    named = (IceServerConfig("stun:named"),)
    given = IceServerConfig("stun:given")

    async def provider() -> list[IceServerConfig]:
        return [given]

    for option in ([given], lambda: [given], provider):
        servers = IceServers(option, lambda: named, NoopLogger())
        assert servers.may_have_any
        assert list(await servers.get()) == [given]
    assert list(await IceServers(None, lambda: named, NoopLogger()).get()) == list(named)


@pytest.mark.parametrize("wrong", ["stun:x", 5, [("stun:x",)], {"urls": "stun:x"}])
def test_what_is_no_server_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="ice_servers must"):
        MeteredPeer(api_key="k", ice_servers=wrong)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="'relay-only'"):
        MeteredPeer(api_key="k", ice_transport_policy="relay-only")  # type: ignore[arg-type]


# --- the provider


async def test_a_provider_is_asked_once_for_all_and_again_when_its_answer_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    async def provider() -> list[IceServerConfig]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return [IceServerConfig(f"stun:server{calls}")]

    servers = IceServers(provider, lambda: None, NoopLogger())
    answers = await asyncio.gather(*(servers.get() for _ in range(5)))
    assert calls == 1
    assert {str(answer[0].urls) for answer in answers} == {"stun:server1"}
    await servers.get()
    assert calls == 1
    monkeypatch.setattr(ice_servers, "REFRESH_AFTER", 0.0)
    assert (await servers.get())[0].urls == "stun:server2"


async def test_a_provider_that_fails_ends_the_join_with_its_error_and_the_next_may_succeed(room: Room) -> None:
    answers: list[Any] = [RuntimeError("no credential=hush here"), [IceServerConfig("stun:127.0.0.1:9")]]

    def provider() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    peer = room.peer("a", ice_servers=provider)
    with pytest.raises(RuntimeError) as caught:
        await peer.join("room")
    assert "hush" not in str(caught.value)
    assert (peer.state, peer.channel) == ("idle", None)
    await peer.join("room")
    assert peer.state == "joined"


async def test_a_provider_that_fails_later_leaves_the_old_servers_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [[IceServerConfig("stun:good")]]
    servers = IceServers(lambda: answers.pop(0), lambda: None, NoopLogger())
    await servers.prepare()
    monkeypatch.setattr(ice_servers, "REFRESH_AFTER", 0.0)
    with pytest.raises(IndexError):
        await servers.prepare()
    assert (await servers.get())[0].urls == "stun:good"


async def test_a_provider_that_hangs_delays_no_connection(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = False

    async def provider() -> list[IceServerConfig]:
        await asyncio.Event().wait() if hang else None
        return []

    pair = await pair_with(room, provider)
    monkeypatch.setattr(ice_servers, "REFRESH_AFTER", 0.0)
    hang = True
    started = asyncio.get_running_loop().time()
    await open_channel(pair)
    assert asyncio.get_running_loop().time() - started < 1.0


# --- which one is used


def test_each_attempt_takes_the_next_server_of_each_kind() -> None:
    listed = [
        IceServerConfig(["stun:s1", "turn:t1"], "user", "secret"),
        IceServerConfig("turn:t2", "other", "secret2"),
        IceServerConfig("stun:s2"),
    ]
    chosen = [[server.urls for server in choose(listed, attempt)] for attempt in range(3)]
    assert chosen == [["stun:s1", "turn:t1"], ["stun:s2", "turn:t2"], ["stun:s1", "turn:t1"]]
    assert choose(listed, 1)[1] == listed[1]
    assert choose([], 3) == []


async def test_a_recovery_asks_the_next_server(room: Room) -> None:
    async with silent_server() as (first, asked_first), silent_server() as (second, asked_second):
        pair = await pair_with(room, [first, second])
        await open_channel(pair)
        await eventually(lambda: asked_first.asked)
        assert not asked_second.asked
        await pair.to_a.pc.close()
        await pair.log_b.until(ConnectionReset)
        await eventually(lambda: asked_second.asked)
        await pair.a.close()
        await pair.b.close()


async def test_an_ice_server_that_aiortc_cannot_use_is_left_out(room: Room) -> None:
    pair = await pair_with(
        room,
        [
            IceServerConfig(["stun:[::1]:3478", "STUN:127.0.0.1:9"]),
            IceServerConfig("turns:127.0.0.1:9?transport=udp", "u", "c"),
            IceServerConfig("nonsense"),
        ],
    )
    await pair.media_to_b()
    await pair.media_to_a()
    assert pair.log_a.of(NegotiationError) == []


async def test_a_list_is_checked_once_for_all_connections() -> None:
    checked: list[Any] = []

    def is_usable(server: IceServerConfig) -> bool:
        checked.append(server.urls)
        return server.urls != "stun:[::1]"

    named = [(IceServerConfig(["stun:a", "stun:[::1]"]), IceServerConfig("turn:b"))]
    servers = IceServers(None, lambda: named[0], NoopLogger())
    for _ in range(100):
        assert [it.urls for it in await servers.usable(is_usable)] == ["stun:a", "turn:b"]
    assert checked == ["stun:a", "stun:[::1]", "turn:b"]
    named[0] = (IceServerConfig("stun:c"),)
    assert [it.urls for it in await servers.usable(is_usable)] == ["stun:c"]


async def test_addresses_of_so_many_hosts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(host: str) -> str:
        return "192.0.2.7"

    monkeypatch.setattr(ice_servers, "_look_up", look_up)
    monkeypatch.setattr(ice_servers, "_addresses", {})
    for number in range(ice_servers.MAX_ADDRESSES + 10):
        await resolve(f"{number}.example")
    assert len(ice_servers._addresses) == ice_servers.MAX_ADDRESSES


async def test_the_name_of_a_server_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = []

    async def look_up(host: str) -> str:
        lookups.append(host)
        return "192.0.2.7"

    monkeypatch.setattr(ice_servers, "_look_up", look_up)
    monkeypatch.setattr(ice_servers, "_addresses", {})
    assert set(await asyncio.gather(*(resolve("turn.example") for _ in range(20)))) == {"192.0.2.7"}
    assert lookups == ["turn.example"]
    assert await resolve("127.0.0.1") == "127.0.0.1"
    monkeypatch.setattr(ice_servers, "ADDRESS_LIFETIME", 0.0)
    await resolve("other.example")
    await resolve("other.example")
    assert lookups == ["turn.example", "other.example", "other.example"]


async def test_a_name_that_does_not_exist_stays_a_name() -> None:
    assert await resolve("nowhere.invalid") == "nowhere.invalid"


# --- what they cost


async def test_a_dead_stun_server_delays_nothing(room: Room) -> None:
    async with silent_server() as (server, silent):
        pair = await pair_with(room, [server])
        async with takes_less_than(1.0):
            await open_channel(pair)
        await eventually(lambda: silent.asked)
        await pair.media_to_a()
        await pair.a.close()
        await pair.b.close()


# --- relays


def relay(url: str) -> IceServerConfig:
    """Return a TURN server with credentials of the shared secret (the TURN REST API scheme)."""
    user = f"{int(time.time()) + 600}:tester"
    digest = hmac.new(SECRET.encode(), user.encode(), hashlib.sha1).digest()
    return IceServerConfig(url, user, base64.b64encode(digest).decode())


@needs_coturn
async def test_relay_only_shows_no_address_of_its_own_and_works(room: Room, tmp_path: Path) -> None:
    async with coturn(SECRET, tmp_path) as url:
        pair = await pair_with(room, lambda: [relay(url)], ice_transport_policy="relay")
        await open_channel(pair)
        await pair.media_to_b()
        await pair.media_to_a()
        for peer in (pair.a, pair.b):
            assert {candidate.type for candidate in ice(peer).local_candidates} == {"relay"}
            assert {nominated.local_candidate.type for nominated in ice(peer)._nominated.values()} == {"relay"}
        assert " typ host" not in pair.to_a.pc.localDescription.sdp
        assert not pair.log_a.of(ConnectionReset)
        await pair.a.close()
        await pair.b.close()


@needs_coturn
async def test_one_end_behind_a_relay_reaches_an_ordinary_one(room: Room, tmp_path: Path) -> None:
    async with coturn(SECRET, tmp_path) as url:
        hidden = room.peer("a", ice_servers=[relay(url)], ice_transport_policy="relay")
        pair = await room.meet(hidden, room.peer("b"))
        await pair.media_to_b()
        await pair.media_to_a()
        await pair.a.close()
        await pair.b.close()


async def test_relay_only_without_a_relay_never_connects(room: Room) -> None:
    pair = await pair_with(room, [], ice_transport_policy="relay")
    pair.to_b.create_data_channel("x")
    await eventually(lambda: pair.to_a.state == "connecting")
    assert ice(pair.a).local_candidates == []
