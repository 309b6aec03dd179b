"""The configuration of nginx in deploy/, in a real nginx before two servers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from yarl import URL

from metered_realtime.server import Limits, MetricsOptions, SignallingServer, mint_token
from metered_realtime.server.listening.listener import KEEP_ALIVE
from metered_realtime.server.server import MAX_REQUEST_LINE
from tests.deploy.nginx import TEMPLATE, Proxy, needs_nginx, nginx

SECRET_ID, SECRET = "sk_id_test", "sk_secret_" + "t" * 40
KEY = "pk_live_test"
METRICS_TOKEN = "a token of a good length"
DEAD = "127.0.0.1:1"
"""Where nobody listens: the port is privileged, and for no protocol in use."""


@dataclass
class Lines:
    """A logger that keeps the context of each line."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def _keep(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append((msg, ctx or {}))

    debug = info = warning = error = _keep

    @property
    def addresses(self) -> list[str]:
        return [ctx["address"] for msg, ctx in self.lines if msg == "connection opened"]


@dataclass
class Node:
    server: SignallingServer
    log: Lines

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@asynccontextmanager
async def nodes(directory: Path, count: int = 2) -> AsyncIterator[tuple[Proxy, list[Node]]]:
    """Run this many nodes, two at most, with nginx in front. The place of one that is missing is dead."""
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            log = Lines()
            server = SignallingServer(
                api_key=KEY,
                secret_id=SECRET_ID,
                secret=SECRET,
                trusted_proxies=["127.0.0.1"],
                metrics=MetricsOptions(token=METRICS_TOKEN),
                logger=log,
            )
            started.append(Node(await stack.enter_async_context(server), log))
        authorities = [node.authority for node in started] + [DEAD]
        yield await stack.enter_async_context(nginx(directory, *authorities[:2])), started


def token(peer_id: str, **claims: Any) -> str:
    return mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id=peer_id, **claims)


@asynccontextmanager
async def joined(proxy: Proxy, query: str, **options: Any) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """Connect through the proxy. Yield the socket and the welcome."""
    async with connect(f"{proxy.url}/v1?{query}", ssl=proxy.tls, **options) as socket:
        welcome = json.loads(await socket.recv())
        assert welcome["type"] == "welcome"
        yield socket, welcome


@needs_nginx
class TestNginx:
    async def test_clients_talk_through_tls_and_websocket(self, tmp_path: Path) -> None:
        async with (
            nodes(tmp_path, 1) as (proxy, _),
            joined(proxy, f"token={token('ann')}") as (ann, _),
            joined(proxy, f"key={KEY}") as (bob, _),
        ):
            await bob.send('{"type": "subscribe", "channel": "c", "requestId": "r"}')
            assert json.loads(await bob.recv()) == {"type": "ack", "requestId": "r"}
            await bob.recv()  # the snapshot
            await ann.send('{"type": "publish", "channel": "c", "data": "x"}')
            assert json.loads(await bob.recv())["data"] == "x"

    async def test_the_address_is_that_of_the_client_whatever_it_claims(self, tmp_path: Path) -> None:
        claims = {"X-Forwarded-For": "198.51.100.7, 127.0.0.1"}
        async with (
            nodes(tmp_path, 1) as (proxy, (node,)),
            joined(proxy, f"key={KEY}", local_addr=("127.0.0.2", 0), additional_headers=claims),
        ):
            assert node.log.addresses == ["127.0.0.2"]

    async def test_connections_spread_over_both_nodes(self, tmp_path: Path) -> None:
        async with nodes(tmp_path) as (proxy, both), AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(joined(proxy, f"key={KEY}"))
            assert [len(node.log.addresses) for node in both] == [2, 2]

    async def test_a_client_is_known_at_either_node(self, tmp_path: Path) -> None:
        async with nodes(tmp_path) as (proxy, both):
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    _, welcome = await stack.enter_async_context(joined(proxy, f"token={token('ann')}"))
                    assert welcome["peerId"] == "ann"
            assert [len(node.log.addresses) for node in both] == [1, 1]

    async def test_a_dead_node_is_passed_over(self, tmp_path: Path) -> None:
        async with nodes(tmp_path, 1) as (proxy, (node,)), AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(joined(proxy, f"key={KEY}"))
            assert len(node.log.addresses) == 4

    async def test_a_node_that_drains_is_passed_over(self, tmp_path: Path) -> None:
        async def drain(_: web.Request) -> web.Response:
            asked.set()
            return web.Response(status=503, headers={"Retry-After": "1"})

        asked = asyncio.Event()
        application = web.Application()
        application.router.add_get("/{any:.*}", drain)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            async with (
                SignallingServer(api_key=KEY) as server,
                nginx(tmp_path, f"127.0.0.1:{site.port}", f"127.0.0.1:{server.port}") as proxy,
                AsyncExitStack() as stack,
            ):
                for _ in range(4):
                    await stack.enter_async_context(joined(proxy, f"key={KEY}"))
        finally:
            await runner.cleanup()
        assert asked.is_set()

    async def test_clients_of_a_node_that_stops_go_on_at_the_other(self, tmp_path: Path) -> None:
        async with nodes(tmp_path) as (proxy, both):
            async with joined(proxy, f"token={token('ann')}") as (socket, _):
                (first,) = [node for node in both if node.log.addresses]
                (other,) = [node for node in both if node is not first]
                stopping = asyncio.create_task(first.server.stop())
                assert json.loads(await socket.recv()) == {"type": "going_away", "retryAfterMs": 1000}
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1001
            async with joined(proxy, f"token={token('ann')}") as (_, welcome):
                assert welcome["peerId"] == "ann"
            await stopping
            assert len(other.log.addresses) == 1

    @pytest.mark.parametrize(
        "path", ["/metrics", "/metrics?a=b", "//metrics", "/./metrics", "/v1/../metrics", "/%6detrics", "/metrics#a"]
    )
    async def test_metrics_are_not_exposed(self, tmp_path: Path, path: str) -> None:
        headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        async with nodes(tmp_path, 1) as (proxy, (node,)), aiohttp.ClientSession(headers=headers) as session:
            async with session.get(f"{node.server.http_url}/metrics") as direct:
                assert direct.status == 200
            async with session.get(URL(f"{proxy.http_url}{path}", encoded=True), ssl=proxy.tls) as answer:
                assert answer.status == 404
                assert "metered_realtime_" not in await answer.text()

    async def test_requests_of_backends_keep_their_escaped_slashes(self, tmp_path: Path) -> None:
        headers = {"Authorization": f"Bearer {SECRET_ID}:{SECRET}"}
        async with nodes(tmp_path, 1) as (proxy, _), aiohttp.ClientSession(headers=headers) as session:
            for _ in range(2):  # the second one reuses the connection to the node
                url = URL(f"{proxy.http_url}/v1/channels/room%2F7/publish", encoded=True)
                async with session.post(url, json={"data": "x" * 30_000}, ssl=proxy.tls) as answer:
                    assert await answer.json() == {"channel": "room/7", "delivered": 0}

    async def test_a_token_with_all_that_it_may_have_passes(self, tmp_path: Path) -> None:
        claims = {"metadata": {"a": "x" * 8_000}, "peer_metadata": {"a": "x" * 4_000}, "channels": ["c" * 250] * 50}
        big = token("ann", **claims)
        assert len(big) > 30_000
        async with nodes(tmp_path, 1) as (proxy, _), joined(proxy, f"token={big}"):
            pass

    async def test_no_log_shows_a_credential(self, tmp_path: Path) -> None:
        async with nginx(tmp_path, DEAD, DEAD) as proxy, aiohttp.ClientSession() as session:
            for query in ("token=private", "token=private&" + "x" * 200_000):
                async with session.get(f"{proxy.http_url}/v1?{query}", ssl=proxy.tls) as answer:
                    assert answer.status in (414, 502)
            async with session.get(f"{proxy.plain}/v1?token=private", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (301, "https://127.0.0.1/")
            assert '"GET /v1" 502' in proxy.access_log
            assert "private" not in proxy.logs


def setting(name: str) -> str:
    """Return the value of a directive that stands once in the file."""
    (value,) = re.findall(rf"^\s*{name} (.*);", TEMPLATE.read_text(), re.MULTILINE)
    return str(value)


def seconds(name: str) -> float:
    value = setting(name)
    assert value.endswith("s")
    return float(value[:-1])


def kilobytes(value: str) -> int:
    assert value.endswith("k")
    return int(value[:-1]) * 1024


def test_a_websocket_is_never_idle_for_as_long_as_the_proxy_waits() -> None:
    limits = Limits()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(name) > limits.ping_interval + limits.pong_timeout


def test_connections_to_nodes_are_given_up_before_the_nodes_close_them() -> None:
    assert seconds("keepalive_timeout") < KEEP_ALIVE


def test_the_proxy_takes_what_the_server_takes() -> None:
    assert kilobytes(setting("client_max_body_size")) >= Limits().rest_body_size
    assert kilobytes(setting("large_client_header_buffers").split()[1]) >= MAX_REQUEST_LINE
