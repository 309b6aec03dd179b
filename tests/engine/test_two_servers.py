"""Two servers on one engine: what clients see of each other does not depend on where they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import quote

import pytest

from metered_realtime.server import App, Limits, Plan, PublishableKey, SecretKey, SignallingServer, mint_token
from metered_realtime.server.app import RETRY_SPREAD_MS
from metered_realtime.server.engine.contract import Engine
from metered_realtime.server.engine.memory import MemoryEngine
from metered_realtime.server.engine.memory_store import MemoryStore
from metered_realtime.server.engine.redis.engine import RedisEngine
from metered_realtime.server.rights import ACTIONS
from metered_realtime.server.tenant import Tenant
from tests.support.patience import PATIENCE
from tests.support.peers import eventually
from tests.support.probe import Probe, dialled
from tests.support.redis.server import needs_redis
from tests.support.rest_client import backend

KEY, SECRET_ID, SECRET = "pk_live_nodes", "sk_id_nodes", "sk_secret_" + "n" * 40
BEARER = f"{SECRET_ID}:{SECRET}"


def an_app(plan: Plan | None = None, **options: Any) -> App:
    key = PublishableKey(key=KEY, actions=ACTIONS, **options)
    return App("app", (key,), (SecretKey(id=SECRET_ID, secret=SECRET),), plan or Plan())


Nodes: TypeAlias = Callable[..., AbstractAsyncContextManager[list[SignallingServer]]]


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def nodes(request: pytest.FixtureRequest, namespace: str) -> Nodes:
    """Return what runs servers that share one memory, or one Redis."""
    new_engine: Callable[[], Engine]
    if request.param == "memory":
        new_engine = partial(MemoryEngine, MemoryStore())
    else:
        new_engine = partial(RedisEngine, [request.getfixturevalue("shared_redis").url], namespace=namespace)

    @asynccontextmanager
    async def run(count: int = 2, plan: Plan | None = None, **limits: Any) -> AsyncIterator[list[SignallingServer]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    SignallingServer(
                        apps=[an_app(plan)],
                        run_keys=False,
                        engine=new_engine(),
                        node_id=f"n{number}",
                        limits=Limits(**limits),
                    )
                )
                for number in range(count)
            ]

    return run


@asynccontextmanager
async def client(server: SignallingServer, peer_id: str, query: str = "", **claims: Any) -> AsyncIterator[Probe]:
    """Connect with a token and return the client after its welcome, which is its `welcome`."""
    token = mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id=peer_id, **claims)
    async with dialled(server, f"token={token}{query}") as probe:
        probe.welcome = await probe.get()  # type: ignore[attr-defined]
        assert probe.welcome["type"] == "welcome"  # type: ignore[attr-defined]
        yield probe


def resuming(welcome: dict[str, Any], query: str = "") -> str:
    return f"key={KEY}&resume={quote(welcome['resumeToken'], safe='')}{query}"


def tenant_named(server: SignallingServer, app: str) -> Tenant:
    assert server._app is not None
    return server._app._tenants[app]


def presence(channel: str, joined: tuple[str, ...] = (), left: tuple[str, ...] = ()) -> dict[str, Any]:
    entries = {"joined": [{"peerId": name} for name in joined], "left": [{"peerId": name} for name in left]}
    return {"type": "presence", "channel": channel, **entries}


async def is_quiet(probe: Probe) -> bool:
    """Return whether a client has been sent nothing: a pong follows whatever there is."""
    return await probe.ask("ping") == {"type": "pong", "requestId": "r"}


class TestChannels:
    async def test_a_newcomer_has_its_snapshot_before_anybody_at_another_node_hears_of_it(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), client(one, "ann") as ann, client(other, "bob") as bob:
            assert await ann.join("c") == presence("c")
            assert await bob.join("c") == presence("c", joined=("ann",))
            assert await ann.get() == presence("c", joined=("bob",))
            await ann.put("send", to="bob", data="offer")
            assert await bob.get() == {"type": "direct", "from": "ann", "data": "offer"}

    async def test_messages_reach_all_nodes_once_and_in_order(self, nodes: Nodes) -> None:
        async with (
            nodes(3) as (one, two, three),
            client(one, "ann") as ann,
            client(two, "bob") as bob,
            client(three, "eve") as eve,
        ):
            for probe in (bob, eve):
                await probe.put("subscribe", channel="c")
            await eve.get()
            for number in range(20):
                assert (await ann.ask("publish", channel="c", data=number))["type"] == "ack"
            for probe in (bob, eve):
                data: list[int] = []
                while len(data) < 20:
                    frame = await probe.get()
                    data += [frame["data"]] if frame["type"] == "message" else []
                assert data == list(range(20))
                assert await is_quiet(probe)

    async def test_a_pattern_hears_what_is_published_at_another_node(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), client(one, "ann") as ann, client(other, "bob") as bob:
            assert (await bob.ask("subscribe", channel="a/*"))["type"] == "ack"
            await ann.ask("publish", channel="a/x", data=1)
            assert await bob.get() == {"type": "message", "channel": "a/x", "from": "ann", "data": 1}

    async def test_a_peer_at_two_nodes_is_one_and_leaves_with_its_last_connection(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), client(one, "ann") as ann:
            await ann.join("c")
            async with client(other, "bob") as second:
                async with client(one, "bob") as first:
                    await first.join("c")
                    assert await ann.get() == presence("c", joined=("bob",))
                    await second.join("c")
                assert await is_quiet(ann)
            assert await ann.get() == presence("c", left=("bob",))

    async def test_a_direct_to_nobody_at_any_node_is_refused(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), client(one, "ann") as ann:
            async with client(other, "bob"):
                assert (await ann.ask("send", to="bob", data=1))["type"] == "ack"
            async with asyncio.timeout(PATIENCE):
                while (answer := await ann.ask("send", to="bob", data=1))["type"] == "ack":
                    pass
            assert answer["code"] == "peer_not_found"


class TestComingBack:
    @pytest.mark.parametrize("politely", [False, True])
    async def test_a_client_that_was_lost_comes_back_at_another_node_and_was_never_gone(
        self, nodes: Nodes, politely: bool
    ) -> None:
        """With a close frame the client says goodbye, and is gone at once."""
        async with nodes() as (one, other), client(other, "bob") as bob:
            async with dialled(one, f"key={KEY}&recover=1") as old:
                welcome = await old.get()
                ann = welcome["peerId"]
                ack = await old.ask("subscribe", channel="c", recover=True)
                await old.get()
                await bob.join("c")
                assert await old.get() == presence("c", joined=("bob",))
                if politely:
                    await old.socket.close()
                    assert await bob.get() == presence("c", left=(ann,))
                    return
                old.socket.transport.abort()
            for number in range(3):
                assert (await bob.ask("publish", channel="c", data=number))["type"] == "ack"
                assert (await bob.ask("send", to=ann, data=-number))["type"] == "ack", "it is kept, not refused"
            position = f"&recover={welcome['epoch']}:{welcome['offset']}"
            async with dialled(other, resuming(welcome, position)) as new:
                again = await new.get()
                assert (again["peerId"], again["offset"]) == (ann, welcome["offset"] + 3)
                directs = [await new.get() for _ in range(3)]
                assert [(frame["data"], frame["offset"]) for frame in directs] == [(0, 1), (-1, 2), (-2, 3)]
                answer = await new.ask("subscribe", channel="c", recover=True, epoch=ack["epoch"], offset=ack["offset"])
                assert (answer["epoch"], answer["offset"]) == (ack["epoch"], ack["offset"] + 3)
                assert await new.get() == presence("c", joined=("bob",))
                missed = [await new.get() for _ in range(3)]
                assert [(frame["data"], frame["offset"]) for frame in missed] == [(0, 1), (1, 2), (2, 3)]
                await bob.put("publish", channel="c", data="live")
                assert (await new.get())["offset"] == 4
                assert await is_quiet(bob)

    async def test_a_client_that_is_not_back_in_time_has_left(self, nodes: Nodes) -> None:
        async with nodes(return_time=0.05) as (one, other), client(other, "bob") as bob:
            async with client(one, "ann") as ann:
                await ann.join("c")
                await bob.join("c")
                ann.socket.transport.abort()
                assert await bob.get() == presence("c", left=("ann",))
            assert (await bob.ask("send", to="ann", data=1))["code"] == "peer_not_found"

    async def test_places_that_are_over_at_one_node_end_nothing_at_the_next(self, nodes: Nodes) -> None:
        async with nodes(return_time=0.05) as (one, other), client(other, "bob") as bob:
            async with dialled(one, f"key={KEY}") as old:
                welcome = await old.get()
                ann = welcome["peerId"]
                await old.join("c")
                await bob.join("c")
                async with dialled(other, resuming(welcome)) as new:
                    await new.get()
                    assert await new.join("c") == presence("c", joined=("bob",))
                    first = tenant_named(one, "app").hub
                    await eventually(lambda: not first._connections.lost and not first._channels)
                    await bob.ask("publish", channel="c", data=1)
                    assert (await new.get())["data"] == 1
                    assert await is_quiet(bob)
            assert await bob.get() == presence("c", left=(ann,))

    async def test_resuming_at_another_node_ends_the_connection_at_the_first(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), dialled(one, f"key={KEY}") as old:
            welcome = await old.get()
            async with dialled(other, resuming(welcome)) as new:
                assert (await new.get())["peerId"] == welcome["peerId"]
                assert await old.ending() == (4002, "resumed by another connection")

    async def test_a_node_that_stops_is_left_for_another_and_nobody_is_gone(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), client(other, "bob") as bob:
            async with dialled(one, f"key={KEY}&recover=1") as old:
                welcome = await old.get()
                ack = await old.ask("subscribe", channel="c", recover=True)
                await old.get()
                await bob.join("c")
                await old.get()
                await one.stop()
                goodbye = await old.get()
                low, high = RETRY_SPREAD_MS
                assert (goodbye["type"], low <= goodbye["retryAfterMs"] <= high) == ("going_away", True)
                assert (await old.ending())[0] == 1001
            await bob.ask("publish", channel="c", data="meanwhile")
            async with dialled(other, resuming(welcome, f"&recover={welcome['epoch']}:0")) as new:
                await new.get()
                await new.put("subscribe", channel="c", recover=True, epoch=ack["epoch"], offset=ack["offset"])
                assert await new.get() == presence("c", joined=("bob",))
                assert (await new.get())["data"] == "meanwhile"
                assert await is_quiet(bob)

    async def test_messages_beyond_the_bounds_are_told_as_lost(self, nodes: Nodes) -> None:
        async with nodes(recovered_bytes=1_000) as (one, other), client(other, "bob") as bob:
            async with client(one, "ann", "&recover=1") as ann:
                ack = await ann.ask("subscribe", channel="c", recover=True)
                ann.socket.transport.abort()
            for number in range(5):
                await bob.ask("publish", channel="c", data=str(number) * 300)
            async with client(other, "ann", "&recover=gone:7") as new:
                assert await new.get() == {
                    "type": "lost",
                    "epoch": new.welcome["epoch"],  # type: ignore[attr-defined]
                    "offset": 0,
                }
                await new.put("subscribe", channel="c", recover=True, epoch=ack["epoch"], offset=0)
                await new.get()
                lost, *missed = [await new.get() for _ in range(3)]
                assert lost == {"type": "lost", "channel": "c", "count": 3, "epoch": ack["epoch"], "offset": 3}
                assert [frame["offset"] for frame in missed] == [4, 5]


class TestControl:
    async def test_a_kick_reaches_every_node(self, nodes: Nodes) -> None:
        async with (
            nodes() as (one, other),
            client(one, "ann") as first,
            client(other, "ann") as second,
            backend(other, BEARER) as rest,
        ):
            answer = await rest.ask("DELETE", "/peers/ann")
            assert (answer.status, answer.body) == (200, {"peerId": "ann", "closed": 2})
            for probe in (first, second):
                assert (await probe.ending())[0] == 4020

    async def test_a_backend_sees_all_nodes_from_any(self, nodes: Nodes) -> None:
        async with (
            nodes() as (one, other),
            client(one, "ann") as ann,
            client(other, "bob") as bob,
            backend(one, BEARER) as rest,
        ):
            await ann.join("c")
            await bob.join("c")
            roster = await rest.ask("GET", "/channels/c/peers")
            assert roster.body == {"channel": "c", "peers": [{"peerId": "ann"}, {"peerId": "bob"}]}
            sent = await rest.ask("POST", "/channels/c/publish", {"data": 1})
            assert sent.body == {"channel": "c", "delivered": 2}
            assert (await bob.get())["data"] == 1
            refused = await rest.ask("POST", "/channels/c/publish", {"data": 1, "from": "bob"})
            assert refused.status == 400
            usage = (await rest.ask("GET", "/usage")).body
            assert (usage["concurrentNow"], usage["peakConcurrent"], usage["messagesUsed"]) == (2, 2, 1)

    async def test_the_limit_of_connections_counts_all_nodes(self, nodes: Nodes) -> None:
        async with nodes(plan=Plan(max_concurrent_connections=2)) as (one, other):
            async with client(one, "ann"), client(other, "bob") as bob:
                token = mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id="eve")
                async with dialled(one, f"token={token}") as refused:
                    assert await refused.ending() == (4010, "too many connections")
                assert one.endings["too many connections"] == 1
                await bob.socket.close()
            async with client(one, "eve"):
                pass

    async def test_the_quota_of_messages_counts_all_nodes(self, nodes: Nodes) -> None:
        async with (
            nodes(plan=Plan(max_messages_per_period=3)) as (one, other),
            client(one, "ann") as ann,
            client(other, "bob") as bob,
        ):
            answers = [await probe.ask("publish", channel="c", data=1) for _ in range(4) for probe in (ann, bob)]
            codes = [answer.get("code", "ok") for answer in answers]
            # Each node may have let one pass while it asked.
            assert 3 <= codes.count("ok") <= 5
            assert codes[-2:] == ["over_message_quota"] * 2

    async def test_a_key_that_is_revoked_at_one_node_is_of_no_use_at_any(self, nodes: Nodes) -> None:
        async with nodes() as (one, other), dialled(other, f"key={KEY}") as probe:
            await probe.get()
            assert one._app is not None
            one._app.reconfigure({"app": an_app(revoked=True)}, Limits(), one._page_key, ())
            assert await probe.ending() == (4001, "invalid credential")
            async with dialled(other, f"key={KEY}") as again:
                assert (await again.ending())[0] == 4001
