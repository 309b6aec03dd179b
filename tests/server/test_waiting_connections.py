"""HTTP connections that send no request, and clients with many addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.server import Limits, SignallingServer
from metered_realtime.server.listening import listener
from metered_realtime.server.listening.door import Door
from metered_realtime.server.listening.listener import NO_REQUEST
from metered_realtime.server.listening.proxies import networks_of
from metered_realtime.server.listening.waiting import WaitingConnections
from tests.support.patience import PATIENCE
from tests.support.peers import eventually
from tests.support.probe import welcomed

from .test_tls import self_signed

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "


@pytest.fixture
async def server() -> AsyncIterator[SignallingServer]:
    async with SignallingServer() as server:
        yield server


@asynccontextmanager
async def sockets(server: SignallingServer, count: int, first: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open connections that send only this."""
    pairs = [await asyncio.open_connection(server.host, server.port) for _ in range(count)]
    try:
        for _, writer in pairs:
            writer.write(first)
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return once the server has closed a connection."""
    async with asyncio.timeout(PATIENCE):
        try:
            while await reader.read(1_000):
                pass
        except ConnectionError:
            pass
    return True


async def health(server: SignallingServer) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{server.http_url}/healthz") as answer:
        return answer.status


@pytest.mark.parametrize("sent", [b"", HALF], ids=["nothing", "half of its headers"])
async def test_a_connection_that_never_finishes_a_request_is_closed(
    server: SignallingServer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.1)
    async with welcomed(server, "ann") as ann, sockets(server, 3, sent) as readers:
        for reader in readers:
            assert await ended(reader)
        assert server.endings[NO_REQUEST] == 3
        assert (await ann.ask("subscribe", channel="c"))["type"] == "ack"


async def test_a_kept_connection_is_closed_when_its_next_request_never_ends(
    server: SignallingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "KEEP_ALIVE", 0.1)
    async with sockets(server, 1, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + HALF) as (reader,):
        assert b"200" in await reader.readline()
        assert await ended(reader)
    assert server.endings[NO_REQUEST] == 1


async def test_a_tls_handshake_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.2)
    cert, key = self_signed(tmp_path)
    async with (
        SignallingServer(tls_cert=cert, tls_key=key) as server,
        sockets(server, 2, b"\x16\x03\x01") as readers,
    ):
        for reader in readers:
            assert await ended(reader)


async def test_a_thousand_half_open_connections_of_one_address_leave_room_for_others(server: SignallingServer) -> None:
    """Those of one address give way to each other: of a thousand 64 are left, and requests are answered meanwhile."""
    async with welcomed(server, "ann") as ann, sockets(server, 1_000, HALF) as readers:
        await eventually(lambda: server.endings.get(NO_REQUEST, 0) >= 1_000 - 64)
        assert await health(server) == 200
        assert (await ann.ask("subscribe", channel="c"))["type"] == "ack"
        closed = [reader for reader in readers if reader.at_eof() or reader.exception() is not None]
        assert 1_000 - 64 <= server.endings[NO_REQUEST] <= 1_000 - 64 + 1  # the request took the place of one
        assert len(closed) <= server.endings[NO_REQUEST]


async def test_requests_that_are_answered_are_not_counted(server: SignallingServer) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            async with session.get(f"{server.http_url}/healthz", headers={"Connection": "close"}) as answer:
                assert answer.status == 200
    assert NO_REQUEST not in server.endings


async def test_an_address_has_a_bounded_number_of_websockets() -> None:
    async with SignallingServer(limits=Limits(connections_per_address=2)) as server:
        async with welcomed(server, "ann"), welcomed(server, "bob"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connect(server)
            assert refused.value.status == 429
            assert refused.value.headers is not None
            assert int(refused.value.headers["Retry-After"]) >= 1
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await connect(server)
                    break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.01)


async def connect(server: SignallingServer) -> None:
    url = f"{server.http_url}/v1?token={server.mint_token('cid')}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url):
        pass


class TestDoor:
    def test_a_site_with_many_64s_is_limited_as_a_whole(self) -> None:
        door = Door(Limits(connects_per_address=10))
        admitted = sum(not door.admit(f"2001:db8:1:{n:x}::1", 0.0) for n in range(1_000))
        assert admitted == 160, "sixteen times what an address may"

    def test_what_a_neighbour_was_refused_costs_the_others_nothing(self) -> None:
        door = Door(Limits(connects_per_address=10))
        for _ in range(1_000):
            door.admit("2001:db8:1:1::1", 0.0)
        assert [bool(door.admit("2001:db8:1:2::1", 0.0)) for _ in range(11)] == [False] * 10 + [True]

    def test_open_connections_are_counted_until_they_close(self) -> None:
        door = Door(Limits(connections_per_address=1))
        for n in range(4):
            assert not door.admit(f"2001:db8:0:{n}::", 0.0)
            door.enter(f"2001:db8:0:{n}::")
        assert door.admit("2001:db8:0:5::", 0.0), "a /56 has four"
        door.leave("2001:db8:0:0::")
        assert not door.admit("2001:db8:0:5::", 0.0)
        assert door.admit("2001:db8:0:1::", 0.0)

    def test_an_ipv4_address_is_its_own_network(self) -> None:
        assert networks_of("192.0.2.1") == networks_of("::ffff:192.0.2.1") == ("192.0.2.1",)
        assert networks_of("2001:db8:1:203::9") == ("2001:db8:1:203::/64", "2001:db8:1:200::/56", "2001:db8:1::/48")


@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "place", "end", "overdue"]), st.integers(0, 12), st.integers(0, 3)),
        max_size=60,
    )
)
def test_waiting_connections_never_exceed_their_bounds(steps: list[tuple[str, int, int]]) -> None:
    waiting: WaitingConnections[int] = WaitingConnections(most=6, most_of_network=2)
    networks: dict[int, int] = {}
    open_: dict[int, float] = {}
    for now, (step, connection, network) in enumerate(steps):
        gone: list[int | None] = []
        match step:
            case "begin" if connection not in open_:
                gone.append(waiting.begin(connection, now + 10))
                open_[connection] = now + 10
            case "place" if connection in open_ and connection not in networks:
                gone.append(waiting.place(connection, str(network)))
                networks[connection] = network
            case "end":
                waiting.end(connection)
                gone.append(connection)
            case "overdue":
                gone += waiting.end_overdue(now)
                assert all(deadline > now for it, deadline in open_.items() if it not in gone)
        for it in gone:
            if it is not None:
                open_.pop(it, None)
                networks.pop(it, None)
        assert set(waiting) == set(open_)
        assert len(waiting) <= 6
        assert all(list(networks.values()).count(n) <= 2 for n in range(4))
        assert all(waiting.is_placed(it) == (it in networks) for it in waiting)
