"""What a `RedisEngine` makes of failures of a real Redis, and of the way to it.

The verdicts are about what is heard and answered, never about how long it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from metered_realtime.server.engine.contract import EngineError, EngineLimits, EngineUnavailable
from metered_realtime.server.engine.redis.timings import DEFAULTS
from metered_realtime.testing.engine_world import ListeningNode, listening, message
from tests.support.redis.proxy import BadPath
from tests.support.redis.server import RedisProcess, needs_redis, needs_sentinel, short_directory, watched_by_sentinel

from .redis_world import SHORT, RedisWorld

pytestmark = needs_redis

HASTY = replace(SHORT, request=0.8, node=1.5)
"""For tests in which Redis does not answer: nothing else in them waits for it."""


@pytest.fixture
def world(own_redis: RedisProcess, namespace: str) -> RedisWorld:
    return RedisWorld([own_redis.url], namespace, timings=HASTY)


async def meet(one: ListeningNode, other: ListeningNode) -> None:
    """Let alice be at one node and bob at the other, in a room."""
    await one.enter("room", "alice", "c1", metadata='{"n":1}')
    await other.enter("room", "bob", "c2")
    await one.knows("room", 2)
    one.heard.clear()
    other.heard.clear()


async def is_down(node: ListeningNode) -> None:
    await node.until(lambda: node.health_told[-1:] == [False], "to be down")


async def is_up(node: ListeningNode) -> None:
    await node.until(lambda: node.health_told[-1:] == [True], "to be up")
    assert node.engine.is_up


async def has_recovered(node: ListeningNode, before: int = 0) -> None:
    """Wait until a node has lost Redis once more, and is back."""
    while node.engine.stats.connects < before + 2:
        await node.pause()


async def publish_until(node: ListeningNode, stop: asyncio.Event) -> list[int]:
    """Publish numbers, one after the other, and return those that have been accepted."""
    accepted, number = [], 0
    while not stop.is_set():
        number += 1
        try:
            await node.publish("room", message("alice", str(number)))
        except EngineError:
            await node.pause()
        else:
            accepted.append(number)
        await asyncio.sleep(0)
    return accepted


def numbers(node: ListeningNode) -> list[int]:
    return [int(data) for data in node.data_of("message") if data.isdigit()]


def changes(node: ListeningNode) -> list[tuple[object, ...]]:
    """Return what a node has heard of presence."""
    return [event for event in node.heard if event[0] in ("joined", "left")]


# Connections that end


async def test_a_killed_subscriber_misses_nothing_and_nobody_notices(
    world: RedisWorld, own_redis: RedisProcess
) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        stop = asyncio.Event()
        publishing = asyncio.ensure_future(publish_until(one, stop))
        for kills in range(1, 4):
            await other.hears_of("message", kills * 10)
            with own_redis.admin() as admin:
                assert admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 2
            await has_recovered(other, kills - 1)
        stop.set()
        accepted = await publishing
        await one.publish("room", message("alice", '"end"'))
        await other.hears_data(b'"end"')
        heard = numbers(other)
        assert heard == sorted(set(heard))
        assert set(accepted) <= set(heard)
        assert changes(one) == changes(other) == []
        assert [event for event in other.heard if event[0] == "lost"] == []
        assert one.health_told == other.health_told == [True]


async def test_killed_commands_are_repeated_or_reported(world: RedisWorld, own_redis: RedisProcess) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        await one.connect("carol", "c3")
        with own_redis.admin() as admin:
            skip = admin.execute_command("CLIENT", "ID")
            own_redis.freeze()
            try:
                joining = one.begin_join("room", "carol", "c3")
                publishing = [other.begin_publish("room", message("bob", str(number))) for number in range(3)]
                await other.pause()  # for the commands to be written
            finally:
                own_redis.thaw()
            for client in admin.client_list(_type="normal"):
                if int(client["id"]) != skip:
                    admin.execute_command("CLIENT", "KILL", "ID", client["id"])
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert all(outcome == 1 or outcome == 2 or type(outcome) is EngineError for outcome in outcomes)
        assert {member.peer_id for member in (await joining).members} == {"alice", "bob", "carol"}
        assert await other.roster("room") == {"alice": b'{"n":1}', "bob": None, "carol": None}
        await other.until(lambda: ("joined", "room", "carol", None) in other.heard)
        assert [event for event in other.heard if event[0] == "left"] == []


async def test_scripts_are_sent_again_in_order(world: RedisWorld, own_redis: RedisProcess) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        with own_redis.admin() as admin:
            admin.script_flush()
        pending = []
        for number in range(300):  # some are written before it is known that the script is not, some after
            pending.append(one.begin_publish("room", message("alice", str(number))))
            if number % 5 == 0:
                await asyncio.sleep(0)
        for each in pending:
            await each
        assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
        await other.hears_data(b"299")
        assert numbers(other) == list(range(300))
        assert one.engine.stats.connects == 1


async def test_what_overflows_the_subscriber_is_read_from_the_log(own_redis: RedisProcess, namespace: str) -> None:
    limits = EngineLimits(messages_per_log=50, bytes_per_log=10_000_000)
    world = RedisWorld([own_redis.url], namespace, limits, timings=HASTY)
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        with own_redis.admin() as admin:
            admin.config_set("client-output-buffer-limit", "pubsub 20000 0 0")  # less than one message
        big = '"' + "x" * 30_000 + '"'
        pending = [one.begin_publish("room", message("alice", big)) for _ in range(5)]
        for each in pending:
            await each
        await other.hears_of("message", 5)
        assert [event[3] for event in other.heard if event[0] == "message"] == list(range(1, 6))
        assert other.engine.stats.losses["subscriber closed"] > 0


# Redis is away


async def test_while_redis_hangs_requests_fail_and_presence_is_frozen(
    world: RedisWorld, own_redis: RedisProcess
) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        own_redis.freeze()
        try:
            with pytest.raises(EngineUnavailable):
                await one.join("other", "alice", "c1")
            await is_down(one)
            assert not one.engine.is_up
            # From now on requests have their outcome before they return.
            with pytest.raises(EngineUnavailable):
                one.begin_send("bob", message("alice", "1")).result()  # type: ignore[attr-defined]
            with pytest.raises(EngineUnavailable):
                await one.leave("room", "alice", "c1")
            with pytest.raises(EngineUnavailable):
                await one.connect("carol", "c3")
            await is_down(other)
        finally:
            own_redis.thaw()
        await is_up(one)
        await is_up(other)
        await other.until(lambda: ("left", "room", "alice", False) in other.heard)
        assert await other.has_peer("carol") is True
        assert await other.roster("room") == {"bob": None}
        assert await other.roster("other") == {}
        assert changes(other) == [("left", "room", "alice", False)]


async def test_nobody_is_gone_because_redis_was(world: RedisWorld, own_redis: RedisProcess) -> None:
    """Redis hangs for longer than nodes live, and each of them comes back."""
    async with listening(world, 3) as (one, other, third):
        await meet(one, other)
        own_redis.freeze()
        try:
            for node in (one, other, third):
                await is_down(node)
            await asyncio.sleep(HASTY.node)
        finally:
            own_redis.thaw()
        for node in (one, other, third):
            await is_up(node)
        await settled(third)
        assert await third.roster("room") == {"alice": b'{"n":1}', "bob": None}
        assert changes(one) == changes(other) == []
        await one.publish("room", message("alice", "1"))
        await other.hears_of("message", 1)


async def settled(node: ListeningNode) -> None:
    """Wait until a node has had the time to give others up."""
    await asyncio.sleep(HASTY.settling + 3 * HASTY.sweep)
    await node.roster("room")


@pytest.mark.parametrize("harm", ["flush", "restart"])
async def test_a_storage_that_is_lost_is_filled_again(world: RedisWorld, own_redis: RedisProcess, harm: str) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        first = (await one.join("room", "alice", "c1", metadata='{"n":1}')).position
        await one.publish("room", message("alice", "1"))
        await one.send("bob", message("alice", "2"))
        await other.hears_of("message", 1)
        await other.hears_of("direct", 1)
        await harm_storage(own_redis, harm)
        for node in (one, other):
            await has_recovered(node)
        while len(await one.roster("room")) < 2:
            await one.pause()
        await settled(one)
        assert changes(one) == changes(other) == []
        assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
        lost = [event[:2] + event[3:] for event in other.heard if "lost" in event[0]]
        assert sorted(lost) == [("directs lost", "bob", None), ("lost", "room", None)]
        other.heard.clear()
        second = await one.join("room", "alice", "c1", metadata='{"n":1}', since=first)
        assert second.position.epoch != first.epoch
        assert second.missed is not None
        assert second.missed.lost is None
        await one.publish("room", message("alice", "3"))
        await one.send("bob", message("alice", "4"))
        await other.until(lambda: len(other.heard) == 2)
        assert {event[3] for event in other.heard} == {1}


async def harm_storage(redis: RedisProcess, harm: str) -> None:
    if harm == "flush":
        with redis.admin() as admin:
            admin.flushall()
    else:
        redis.kill()
        await asyncio.to_thread(redis.start)


async def test_who_is_not_back_after_a_loss_has_left_after_a_while(world: RedisWorld, own_redis: RedisProcess) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        await other.engine.stop()
        await harm_storage(own_redis, "flush")
        await has_recovered(one)
        joined = await one.join("room", "alice", "c1", metadata='{"n":1}')
        assert {member.peer_id for member in joined.members} == {"alice", "bob"}
        await one.until(lambda: ("left", "room", "bob", False) in one.heard)
        assert changes(one) == [("left", "room", "bob", False)]


async def test_a_storage_that_has_lost_its_latest_writes_repeats_nothing(namespace: str) -> None:
    with short_directory() as name:
        redis = RedisProcess(Path(name), "--save", "", "--dbfilename", "dump.rdb")
        with redis:
            world = RedisWorld([redis.url], namespace, timings=HASTY)
            async with listening(world, 2) as (one, other):
                await meet(one, other)
                await one.publish("room", message("alice", "1"))
                with redis.admin() as admin:
                    admin.save()
                for number in range(2, 5):
                    await one.publish("room", message("alice", str(number)))
                await other.hears_data(b"4")
                redis.kill()
                await asyncio.to_thread(redis.start)
                for node in (one, other):
                    await has_recovered(node)
                await is_up(one)
                await one.publish("room", message("alice", "5"))
                await other.hears_data(b"5")
                assert numbers(other) == [1, 2, 3, 4, 5]
                await settled(one)
                assert changes(one) == changes(other) == []


# The way to Redis


@pytest.fixture
async def path(own_redis: RedisProcess) -> AsyncIterator[BadPath]:
    async with BadPath(own_redis.path) as path:
        yield path


async def add_far_node(world: RedisWorld, path: BadPath, name: str) -> ListeningNode:
    """Start a node behind the path."""
    node = ListeningNode(name)
    engine = world.new_engine([path.url])
    await engine.start(name, node)
    node.engine = engine
    return node


async def test_a_half_open_connection_is_noticed(world: RedisWorld, path: BadPath) -> None:
    async with listening(world, 1) as (one,):
        far = await add_far_node(world, path, "far")
        try:
            await meet(one, far)
            path.swallow()
            await is_down(far)
            await one.publish("room", message("alice", "1"))
            await is_up(far)
            await far.hears_of("message", 1)
            assert changes(one) == changes(far) == []
            assert far.engine.stats.losses.keys() <= {"silent", "timeout"}
        finally:
            await far.engine.stop()


async def test_a_node_that_is_cut_off_is_gone_for_others_and_returns(world: RedisWorld, path: BadPath) -> None:
    async with listening(world, 1) as (one,):
        far = await add_far_node(world, path, "far")
        try:
            await meet(one, far)
            path.cut()
            await one.until(lambda: ("left", "room", "bob", False) in one.heard)
            assert changes(far) == []
            await is_down(far)
            with pytest.raises(EngineUnavailable):
                await far.publish("room", message("bob", "0"))
            await one.publish("room", message("alice", "1"))
            path.mend()
            await is_up(far)
            await one.until(lambda: ("joined", "room", "bob", None) in one.heard)
            await far.hears_of("message", 1)
            assert changes(far) == []
            assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
            assert await one.has_peer("bob") is True
        finally:
            await far.engine.stop()


async def test_nobody_is_given_up_before_all_could_come_back(
    own_redis: RedisProcess, namespace: str, path: BadPath
) -> None:
    world = RedisWorld([own_redis.url], namespace, timings=replace(HASTY, settling=60.0))
    async with listening(world, 1) as (one,):
        far = await add_far_node(world, path, "far")
        try:
            await meet(one, far)
            path.cut()
            own_redis.freeze()
            await is_down(one)
            await asyncio.sleep(HASTY.node)  # the far node's lease of life has ended when Redis goes on
            own_redis.thaw()
            await is_up(one)
            await asyncio.sleep(5 * HASTY.sweep)
            path.mend()
            await has_recovered(far)
            assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
            await far.publish("room", message("bob", "1"))
            await one.hears_data(b"1")
            assert changes(one) == changes(far) == []
        finally:
            await far.engine.stop()


async def test_a_node_that_was_swept_while_it_stood_still_enters_all_again(
    world: RedisWorld, own_redis: RedisProcess
) -> None:
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        shard = other.engine._follower.shards[0]
        with own_redis.admin() as admin:
            # As if another node had begun to sweep it, and could not end. Its next heartbeat tells it.
            admin.zrem(f"{world.namespace}:{{nodes}}:alive", shard.node)
            admin.zadd(f"{world.namespace}:{{nodes}}:sweeping", {shard.node: 1})
            await has_recovered(other)
            while admin.zcard(f"{world.namespace}:{{nodes}}:sweeping"):
                await one.pause()
        assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
        assert other.engine.stats.losses.keys() == {"swept"}
        assert changes(other) == []
        await one.publish("room", message("alice", "1"))
        await other.hears_of("message", 1)


# Nothing is left


async def test_every_key_has_an_expiry_from_the_start(own_redis: RedisProcess, namespace: str) -> None:
    world = RedisWorld([own_redis.url], namespace, timings=DEFAULTS)
    async with listening(world, 2) as (one, other):
        await meet(one, other)
        await one.connect("carol", "c3", limit=10)
        await one.enter("silent", "carol", "c3")
        await one.publish("empty", message("alice", "1"))
        await one.send("bob", message("alice", "1"))
        await one.lease(1_700_000_400, 10, 100)
        await one.revoke_key("pk")
        await one.leave("room", "alice", "c1")
        with own_redis.admin() as admin:
            expiries = {key: admin.pttl(key) for key in admin.scan_iter()}
        assert len(expiries) > 15
        assert [key for key, expiry in expiries.items() if expiry <= 0] == []


async def test_all_keys_expire(own_redis: RedisProcess, namespace: str) -> None:
    times = replace(SHORT, node=2.2, refresh=0.2, expiry=1.0, usage=1.0, revocation=1.0)
    world = RedisWorld([own_redis.url], namespace, EngineLimits(retention=0.5), timings=times)
    with own_redis.admin() as admin:
        async with listening(world, 2) as (one, other):
            await meet(one, other)
            await one.connect("carol", "c3", limit=10)
            await one.publish("room", message("alice", "1"))
            await one.publish("empty", message("alice", "1"))
            await one.send("bob", message("alice", "1"))
            await one.lease(1_700_000_400, 10, 100)
            await one.revoke_key("pk")
            await one.leave("room", "alice", "c1")
            # What is in use stays for longer than it would without its node.
            await asyncio.sleep(times.expiry * 3)
            assert await one.roster("room") == {"bob": None}
            assert await one.has_peer("carol") is True
        while await asyncio.to_thread(admin.dbsize):
            await one.pause()


# Another primary


@needs_sentinel
async def test_a_failover_loses_no_peer(namespace: str) -> None:
    with short_directory() as name, watched_by_sentinel(Path(name)) as (primary, url):
        world = RedisWorld([url], namespace, timings=HASTY)
        async with listening(world, 2) as (one, other):
            await meet(one, other)
            await one.publish("room", message("alice", "1"))
            await other.hears_data(b"1")
            primary.kill()
            for node in (one, other):
                await has_recovered(node)
            while True:
                try:
                    await one.publish("room", message("alice", "2"))
                    break
                except EngineError:
                    await one.pause()
            await other.hears_data(b"2")
            await settled(one)
            assert changes(one) == changes(other) == []
            assert await other.roster("room") == {"alice": b'{"n":1}', "bob": None}
            assert numbers(other) == [1, 2]
