"""What clients notice when a node or Redis fails, with real processes.

The scenarios wait for leases to end, so all of them run at a time.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from metered_realtime import ReconnectOptions
from metered_realtime.errors import SignallingError
from metered_realtime.events import Direct, Message, Presence, Resubscribed
from metered_realtime.server import mint_token
from metered_realtime.signalling import SignallingClient
from tests.support.patience import PATIENCE
from tests.support.programs import Diary
from tests.support.redis.server import needs_redis

from .processes import Balancer, Cluster, Program

OUTAGE = 20.0
"""Seconds that a process stands still: twice what the lease of a node is."""

LOOK = 0.1
"""Seconds between two attempts, where nothing tells that a server is ready."""

OFTEN = ReconnectOptions(initial_delay=0.1, max_delay=0.5, max_attempts=10_000)


def at(port: int) -> str:
    return f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def member(cluster: Cluster, name: str, port: int) -> AsyncIterator[tuple[SignallingClient, Diary]]:
    """Bring a client into the room. Its diary has the snapshot."""

    def token() -> str:
        return mint_token(secret_id=cluster.secret_id, secret=cluster.secret, peer_id=name)

    client = SignallingClient(url=at(port), token_provider=token, reconnect=OFTEN)
    diary = Diary(client)
    try:
        await client.connect()
        await client.subscribe("room")
        await diary.wait_for(Presence)
        yield client, diary
    finally:
        await client.close()


def told(diary: Diary) -> list[str]:
    """Return who joined and left, in order, after the first snapshot."""
    return [
        f"{sign}{peer.peer_id}"
        for event in diary.of(Presence)[1:]
        for sign, peers in (("+", event.joined), ("-", event.left))
        for peer in peers
    ]


async def until_told(diary: Diary, expected: list[str]) -> None:
    count = 1
    while len(told(diary)) < len(expected):
        count = len(diary.of(Presence)) + 1
        await diary.wait_for(Presence, count)
    assert told(diary) == expected


async def roster(cluster: Cluster, port: int) -> set[str]:
    """Return who a newcomer finds."""
    async with member(cluster, "newcomer", port) as (_, diary):
        return {peer.peer_id for peer in diary.of(Presence)[0].joined} - {"newcomer"}


async def is_ready(node: Program) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{node.port}/readyz") as answer:
        return answer.status == 200


async def until_ready(node: Program) -> None:
    while not await is_ready(node):  # noqa: ASYNC110 - another process
        await asyncio.sleep(LOOK)


async def publish_until_taken(client: SignallingClient, data: str) -> None:
    while True:
        try:
            return await client.publish("room", data)
        except SignallingError:
            await asyncio.sleep(LOOK)


async def node_is_killed() -> None:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(2))
        first, second = cluster.nodes
        balancer = Balancer([first.port, second.port])  # the first connection goes to the second node
        await balancer.start()
        stack.push_async_callback(balancer.stop)
        ann, of_ann = await stack.enter_async_context(member(cluster, "ann", first.port))
        _, of_bob = await stack.enter_async_context(member(cluster, "bob", balancer.port))
        await stack.enter_async_context(member(cluster, "cid", second.port))
        await until_told(of_ann, ["+bob", "+cid"])
        await second.end()
        for number in range(10):
            await ann.publish("room", number)
        await ann.send("bob", "direct")
        await of_bob.wait_for(Message, 10)
        await of_bob.wait_for(Direct)
        await of_bob.wait_for(Resubscribed)
        assert [it.data for it in of_bob.of(Message)] == list(range(10))
        await until_told(of_ann, ["+bob", "+cid", "-cid"])
        assert await roster(cluster, first.port) == {"ann", "bob"}


async def nodes_restart_by_turns() -> None:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(2))
        port = cluster.balancer.port
        members = [await stack.enter_async_context(member(cluster, name, port)) for name in ("ann", "bob")]
        (ann, of_ann), (_, of_bob) = members
        await until_told(of_ann, ["+bob"])
        for node in cluster.nodes:
            await node.end(signal.SIGTERM)
            await node.start()
        await publish_until_taken(ann, "again")
        while "again" not in [it.data for it in of_bob.of(Message)]:
            await of_bob.wait_for(Message, len(of_bob.of(Message)) + 1)
        assert [it for it in told(of_ann) + told(of_bob) if it.startswith("-")] == []


async def node_stands_still() -> None:
    async with (
        Cluster(2) as cluster,
        member(cluster, "ann", cluster.nodes[0].port) as (ann, of_ann),
        member(cluster, "bob", cluster.nodes[1].port) as (_, of_bob),
    ):
        await until_told(of_ann, ["+bob"])
        cluster.nodes[1].send(signal.SIGSTOP)
        try:
            await asyncio.gather(until_told(of_ann, ["+bob", "-bob"]), asyncio.sleep(OUTAGE))
        finally:
            cluster.nodes[1].send(signal.SIGCONT)
        await until_told(of_ann, ["+bob", "-bob", "+bob"])
        await ann.publish("room", "again")
        while "again" not in [it.data for it in of_bob.of(Message)]:
            await of_bob.wait_for(Message, len(of_bob.of(Message)) + 1)
        assert await roster(cluster, cluster.nodes[0].port) == {"ann", "bob"}


async def redis_stands_still() -> None:
    async with (
        Cluster(2) as cluster,
        member(cluster, "ann", cluster.nodes[0].port) as (ann, of_ann),
        member(cluster, "bob", cluster.nodes[0].port) as (_, of_bob),
        member(cluster, "cid", cluster.nodes[1].port) as (_, of_cid),
    ):
        await until_told(of_ann, ["+bob", "+cid"])
        assert await is_ready(cluster.nodes[0])
        cluster.redis.send(signal.SIGSTOP)
        try:
            with pytest.raises(SignallingError) as refused:
                await ann.publish("room", "refused")
            assert getattr(refused.value, "code", None) == "backend_error"
            assert not await is_ready(cluster.nodes[0])
            await ann.send("bob", "local")
            assert (await of_bob.wait_for(Direct)).data == "local"
            await asyncio.sleep(OUTAGE)
        finally:
            cluster.redis.send(signal.SIGCONT)
        await until_ready(cluster.nodes[0])
        await publish_until_taken(ann, "again")
        while "again" not in [it.data for it in of_cid.of(Message)]:
            await of_cid.wait_for(Message, len(of_cid.of(Message)) + 1)
        assert told(of_ann) == ["+bob", "+cid"]


async def redis_forgets(*, restarts: bool, stores: bool) -> None:
    async with (
        Cluster(2, stores=stores) as cluster,
        member(cluster, "ann", cluster.nodes[0].port) as (ann, of_ann),
        member(cluster, "bob", cluster.nodes[1].port) as (_, of_bob),
    ):
        await until_told(of_ann, ["+bob"])
        if restarts:
            await cluster.redis.end()
            await cluster.redis.start()
        else:
            await cluster.redis_command("flushall")
        await asyncio.sleep(OUTAGE)  # a wrong leave would come with the end of the lease
        await publish_until_taken(ann, "again")
        while "again" not in [it.data for it in of_bob.of(Message)]:
            await of_bob.wait_for(Message, len(of_bob.of(Message)) + 1)
        assert told(of_ann) == ["+bob"]
        assert await roster(cluster, cluster.nodes[0].port) == {"ann", "bob"}


SCENARIOS = {
    "node killed": node_is_killed,
    "nodes restarted": nodes_restart_by_turns,
    "node stopped": node_stands_still,
    "Redis stopped": redis_stands_still,
    "Redis restarted without storage": lambda: redis_forgets(restarts=True, stores=False),
    "Redis restarted with storage": lambda: redis_forgets(restarts=True, stores=True),
    "Redis emptied": lambda: redis_forgets(restarts=False, stores=False),
}


@needs_redis
async def test_faults_lose_no_message_and_tell_no_wrong_leave() -> None:
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*(it() for it in SCENARIOS.values()), return_exceptions=True)
    failures = {name: it for name, it in zip(SCENARIOS, outcomes, strict=True) if it is not None}
    assert not failures
