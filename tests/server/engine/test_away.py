"""A real server whose engine is away: sockets stay, local work goes on, everything else is answered with an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from typing import Any

import aiohttp
import pytest

from metered_realtime.log import NoopLogger
from metered_realtime.server import Limits, MetricsOptions, SignallingServer
from metered_realtime.server.engine.choice import Cluster, redis_engine
from metered_realtime.server.engine.contract import EngineListener, EngineUnavailable
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.server.engine.redis.stats import EngineStats
from metered_realtime.testing.virtual_engine import Schedule, VirtualEngine

from ...support.peers import eventually
from ...support.probe import Probe, dialled, key_query, welcomed
from ...support.rest_client import backend


class SlowEngine(VirtualEngine):
    """A virtual engine whose steps are done one after another by the event loop, or wait while it `is_held`."""

    def __init__(self) -> None:
        self.lanes: list[Hashable] = []
        self.is_held = False
        self.schedule = Schedule(self._begun)
        self.stats = EngineStats()
        super().__init__(MemoryStore(), self.schedule)

    def hold(self, is_held: bool) -> None:
        self.is_held = is_held
        if not is_held:
            lanes, self.lanes = self.lanes, []
            for lane in lanes:
                self._begun(lane)

    def _begun(self, lane: Hashable) -> None:
        if self.is_held:
            self.lanes.append(lane)
        else:
            asyncio.get_running_loop().call_soon(self.schedule.advance, lane)


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
async def server(engine: SlowEngine) -> AsyncIterator[SignallingServer]:
    async with SignallingServer(engine=engine, node_id="n1", metrics=MetricsOptions(port=0)) as running:
        yield running


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


class TestAway:
    async def test_requests_are_answered_with_backend_error_and_nothing_else_changes(
        self, server: SignallingServer, engine: SlowEngine
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.join("c")
            await bob.join("c")
            assert (await ann.get())["joined"] == [{"peerId": "bob"}]
            engine.failure = "unavailable"
            for request in ({"type": "publish", "data": 1}, {"type": "subscribe"}):
                kind = request.pop("type")
                answer = await bob.ask(str(kind), channel="d", **request)
                assert (answer["code"], answer["requestId"]) == ("backend_error", "r")
            assert (await bob.ask("send", to="eve", data=1))["code"] == "backend_error"
            assert (await bob.ask("ping"))["type"] == "pong"
            assert (await bob.ask("send", to="ann", data="local"))["type"] == "ack"
            assert await ann.get() == {"type": "direct", "from": "bob", "data": "local"}
            assert (await bob.ask("unsubscribe", channel="c"))["type"] == "ack"
            assert (await bob.ask("refresh", token=server.mint_token("bob")))["type"] == "ack"
            engine.failure = None
            server._app._node.health(True)  # type: ignore[union-attr]
            assert (await ann.get())["left"] == [{"peerId": "bob"}], "as soon as the others can be told"
            assert (await bob.ask("publish", channel="c", data=2))["type"] == "ack"
            assert (await ann.get())["data"] == 2

    async def test_new_clients_are_asked_to_come_again(self, server: SignallingServer, engine: SlowEngine) -> None:
        engine.failure = "unavailable"
        async with dialled(server) as probe:
            assert await probe.ending() == (1013, "backend error")
        engine.failure = None
        async with dialled(server) as probe:
            assert (await probe.get())["type"] == "welcome"

    async def test_a_backend_hears_that_it_has_to_ask_again(self, server: SignallingServer, engine: SlowEngine) -> None:
        engine.failure = "unavailable"
        async with backend(server) as rest:
            for method, path, body in (
                ("GET", "/channels/c/peers", None),
                ("POST", "/channels/c/publish", {"data": 1}),
                ("DELETE", "/peers/ann", None),
                ("GET", "/usage", None),
            ):
                answer = await rest.ask(method, path, body)
                assert answer.error == (503, "backend_error")
                assert answer.headers["Retry-After"] == "1"
            assert (await rest.ask("POST", "/tokens", {"peerId": "ann"})).status == 200

    async def test_a_node_alone_is_healthy_and_not_ready_and_metrics_tell(
        self, server: SignallingServer, engine: SlowEngine
    ) -> None:
        engine.stats.requests["join", "ok"] = 3
        engine.stats.note_round_trip(0.002)
        assert await fetch(f"{server.http_url}/readyz") == (200, "ready\n")
        engine.failure = "unavailable"
        assert await fetch(f"{server.http_url}/readyz") == (503, "the other nodes cannot be reached\n")
        assert (await fetch(f"{server.http_url}/healthz"))[0] == 200
        assert server.metrics_url is not None
        lines = (await fetch(server.metrics_url))[1].splitlines()
        for line in (
            "metered_realtime_engine_up 0.0",
            'metered_realtime_engine_requests_total{kind="join",outcome="ok"} 3.0',
            'metered_realtime_engine_round_trip_seconds_bucket{le="0.0025"} 1.0',
            'metered_realtime_engine_round_trip_seconds_bucket{le="+Inf"} 1.0',
            "metered_realtime_engine_lost_messages_total 0.0",
        ):
            assert line in lines

    async def test_a_server_of_its_own_tells_how_much_it_keeps(self) -> None:
        async with SignallingServer(metrics=MetricsOptions(port=0)) as alone, welcomed(alone, "ann") as ann:
            await ann.join("c")
            await ann.ask("publish", channel="c", data="x" * 1_000)
            assert alone.metrics_url is not None
            lines = (await fetch(alone.metrics_url))[1].splitlines()
        assert "metered_realtime_engine_up 1.0" in lines
        (kept,) = [line for line in lines if line.startswith("metered_realtime_history_bytes ")]
        assert 1_000 < float(kept.split()[1]) < 3_000


class TestSlow:
    async def test_nothing_is_read_or_answered_before_the_welcome(
        self, server: SignallingServer, engine: SlowEngine
    ) -> None:
        engine.hold(True)
        async with dialled(server) as probe:
            await probe.socket.send("no JSON")
            await probe.put("ping", requestId="early")
            assert await probe_is_silent(server, probe)
            engine.hold(False)
            assert [(await probe.get())["type"] for _ in range(3)] == ["welcome", "error", "pong"]

    async def test_a_client_that_is_gone_before_its_welcome_leaves_nothing(self, engine: SlowEngine) -> None:
        async with SignallingServer(engine=engine, limits=Limits(return_time=0.01)) as server:
            engine.hold(True)
            async with dialled(server, key_query(server)) as probe:
                probe.socket.transport.abort()
            engine.hold(False)
            await eventually(lambda: server.endings == {"connection lost": 1})
            await eventually(lambda: not engine._inner._store.app("run").links)

    async def test_a_direct_waits_for_the_snapshot_of_its_receiver(
        self, server: SignallingServer, engine: SlowEngine
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.put("subscribe", channel="c", requestId="s")
            await ann.ask("send", to="bob", data=1)
            assert [(await bob.get())["type"] for _ in range(3)] == ["ack", "presence", "direct"]


async def probe_is_silent(server: SignallingServer, probe: Probe) -> bool:
    """Return whether a client has been sent nothing by the time that the server has answered another request."""
    assert (await fetch(f"{server.http_url}/healthz"))[0] == 200
    reading = asyncio.ensure_future(probe.socket.recv())
    await asyncio.wait([reading], timeout=0)
    is_silent = not reading.done()
    reading.cancel()
    await asyncio.wait([reading])
    return is_silent


class NobodyAnswers(SlowEngine):
    async def start(self, node_id: str, listener: EngineListener) -> None:
        raise EngineUnavailable("Redis does not answer")


async def test_a_server_whose_engine_does_not_answer_does_not_start() -> None:
    server = SignallingServer(engine=NobodyAnswers())
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await server.start()
    with pytest.raises(aiohttp.ClientConnectionError):
        await fetch(server.http_url)


@pytest.mark.parametrize("options", [{"redis": ()}, {"redis": ("redis://x",), "node_id": "a b"}])
def test_a_cluster_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(redis|node_id) must"):
        Cluster(**options)


def test_a_cluster_hides_its_urls() -> None:
    assert "pass" not in repr(Cluster(redis=("redis://:pass@host",)))


def test_a_missing_redis_py_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "redis" or ".engine.redis." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValueError, match=r"metered-realtime-mesh\[redis\]"):
        redis_engine(["redis://127.0.0.1"], NoopLogger())
