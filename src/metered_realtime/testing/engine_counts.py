"""The second half of `engine_conformance`: limits, replaced connections, control, patterns and counts."""

from __future__ import annotations

import asyncio

from ..server.engine.contract import OverConnectionLimit
from .engine_world import EngineWorld, ListeningNode, listening, message

PERIOD = 1_700_000_400
"""The start of a period, in unix seconds."""

ROUNDS = 60
"""Messages that are published while patterns change."""


class EngineCounts:
    """See `EngineConformance`."""

    # --- connections that end others, or are refused

    async def test_the_limit_of_connections_counts_all_nodes(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.connect("alice", "c1", limit=2)
            await other.connect("bob", "c2", limit=2)
            for node in (one, other):
                assert await is_refused(node, "carol", f"c3-{node.name}", limit=2)
            assert await one.has_peer("carol") is False
            await one.connect("carol", "c4", limit=3)
            await other.disconnect("bob", "c2")
            await other.connect("dave", "c5", limit=3)
            assert await is_refused(other, "eve", "c6", limit=3)
            await other.connect("eve", "c7")
            assert (await one.usage(PERIOD)).connections == 4

    async def test_connections_at_the_same_time_do_not_pass_the_limit(self, world: EngineWorld) -> None:
        async with listening(world, 3) as nodes:
            asked = (is_refused(nodes[number % 3], f"p{number}", f"c{number}", limit=5) for number in range(12))
            refused = await asyncio.gather(*asked)
            assert sum(refused) == 7
            assert (await nodes[0].usage(PERIOD)).connections == 5
            await nodes[0].connect("one more", "c-more", limit=6)

    async def test_who_resumes_replaces_its_connections_of_the_same_key(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (one, two, three):
            await one.connect("alice", "c1", key="k1", limit=3)
            await one.connect("alice", "c2", key="k2", limit=3)
            await two.connect("bob", "c3", key="k1", limit=3)
            result = await three.connect("alice", "c4", key="k1", resumes=True, limit=3)
            assert result.missed is None
            await one.hears([("replaced", "alice", "c4", "k1")])
            assert two.heard == []
            assert (await two.usage(PERIOD)).connections == 3
            await one.disconnect("alice", "c1")
            assert (await two.usage(PERIOD)).connections == 3
            await one.disconnect("alice", "c2")
            assert await one.has_peer("alice") is True
            await three.disconnect("alice", "c4")
            assert await one.has_peer("alice") is False
            assert (await two.usage(PERIOD)).connections == 1

    async def test_who_resumes_at_its_own_node_replaces_itself(self, world: EngineWorld) -> None:
        async with listening(world, 1) as (node,):
            await node.connect("alice", "c1", key="k", limit=1)
            assert await is_refused(node, "alice", "c2", key="other", resumes=True, limit=1)
            await node.connect("alice", "c3", key="k", resumes=True, limit=1)
            await node.hears([("replaced", "alice", "c3", "k")])
            assert (await node.usage(PERIOD)).connections == 1
            await node.disconnect("alice", "c1")
            assert await node.has_peer("alice") is True
            await node.send("alice", message("bob", "1"))
            await node.hears_of("direct", 1)

    # --- control

    async def test_a_kick_reaches_the_nodes_of_the_peer(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (one, two, three):
            await one.connect("alice", "c1")
            await two.connect("alice", "c2")
            await two.connect("alice", "c3")
            assert await three.kick_peer("alice") == 3
            await one.hears([("kick", "alice")])
            await two.hears([("kick", "alice")])
            assert await three.kick_peer("nobody") == 0

    async def test_a_revoked_key_is_told_to_all_and_remembered(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.revoke_key("pk_1")
            await one.hears([("revoke", "app", "pk_1")])
            await other.hears([("revoke", "app", "pk_1")])
            async with listening(world, 1, prefix="late") as (late,):
                assert late.heard == [("revoke", "app", "pk_1")]

    # --- patterns

    async def test_a_node_with_a_pattern_hears_what_matches(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await listen(one, other, "a/*")
            for channel in ("a/x", "a/x/y", "b/x", "a/z"):
                assert await other.publish(channel, message("bob", f'"{channel}"')) == 0
            await one.hears_data(b'"a/z"')
            assert [event[1] for event in one.heard if event[0] == "message"] == ["a/x", "a/z"]
            await unlisten(one, other, "a/*")
            one.heard.clear()
            await one.enter("end", "alice", "c1")
            await other.publish("a/x", message("bob", '"after"'))
            await other.publish("end", message("bob", '"end"'))
            await one.hears_data(b'"end"')
            assert one.data_of("message") == [b'"end"']

    async def test_patterns_and_entries_of_a_node_bring_each_message_once(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            for pattern in ("a/*", "**", "a/x*", "*/x"):
                await listen(one, other, pattern)
            await one.enter("a/x", "alice", "c1")
            for number in range(5):
                await other.publish("a/x", message("bob", str(number)))
            await one.hears_data(b"4")
            await one.leave("a/x", "alice", "c1")
            for number in range(5, 10):
                await other.publish("a/x", message("bob", str(number)))
            await one.hears_data(b"9")
            assert one.data_of("message") == [str(number).encode() for number in range(10)]

    async def test_a_pattern_misses_nothing_while_its_node_comes_and_goes(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await listen(one, other, "a/*")
            await one.connect("alice", "c1")
            pending = []
            for number in range(ROUNDS):
                pending.append(other.begin_publish("a/x", message("bob", str(number))))
                if number % 3 == 0:
                    change = one.begin_join if number % 2 == 0 else one.begin_leave
                    await change("a/x", "alice", "c1")
            for each in pending:
                await each
            await one.hears_data(str(ROUNDS - 1).encode())
            assert one.data_of("message") == [str(number).encode() for number in range(ROUNDS)]

    # --- counts

    async def test_messages_are_leased_below_the_limit(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            assert await one.lease(PERIOD, 60, 100) == 60
            assert await other.lease(PERIOD, 60, 100) == 40
            assert await one.lease(PERIOD, 60, 100) == 0
            one.engine.return_messages("app", PERIOD, 15)
            assert await one.lease(PERIOD, 60, 100) == 15
            assert await other.lease(PERIOD, 60, None) == 60
            assert (await other.usage(PERIOD)).messages == 160
            assert await other.lease(PERIOD + 3600, 60, 100) == 60
            assert (await one.usage(PERIOD + 3600)).messages == 60

    async def test_usage_has_the_peak_of_its_period(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            usage = await one.usage(PERIOD)
            assert (usage.connections, usage.peak_connections, usage.messages) == (0, 0, 0)
            for node, connection in ((one, "c1"), (other, "c2"), (other, "c3")):
                await node.connect("alice", connection)
            await other.disconnect("alice", "c3")
            usage = await one.usage(PERIOD)
            assert (usage.connections, usage.peak_connections) == (2, 3)
            usage = await one.usage(PERIOD + 3600)
            assert (usage.connections, usage.peak_connections, usage.messages) == (2, 2, 0)


async def is_refused(
    node: ListeningNode, peer: str, connection: str, *, limit: int, key: str = "", resumes: bool = False
) -> bool:
    """Connect, and return whether the limit of connections forbids it."""
    try:
        await node.connect(peer, connection, limit=limit, key=key, resumes=resumes)
    except OverConnectionLimit:
        return True
    return False


async def listen(node: ListeningNode, other: ListeningNode, pattern: str) -> None:
    """Let a node listen to a pattern, and wait until it does so."""
    node.engine.listen("app", pattern)
    await _until_heard(node, other, pattern.replace("*", "probe"), expected=True)


async def unlisten(node: ListeningNode, other: ListeningNode, pattern: str) -> None:
    """Let a node listen no more, and wait until that is so."""
    node.engine.unlisten("app", pattern)
    await _until_heard(node, other, pattern.replace("*", "probe"), expected=False)


async def _until_heard(node: ListeningNode, other: ListeningNode, channel: str, *, expected: bool) -> None:
    """Publish until a node hears it, or not. Another channel tells when it would have."""
    await node.enter("marks", f"marker-{node.name}", f"marker-{node.name}")
    mark = 0
    while True:
        mark += 1
        before = len(node.heard)
        await other.publish(channel, message("probe", '"probe"'))
        await other.publish("marks", message("probe", f'"mark {mark}"'))
        await node.hears_data(f'"mark {mark}"'.encode())
        heard = any(event[0] == "message" and event[1] == channel for event in node.heard[before:])
        if heard is expected:
            node.heard.clear()
            return
        await node.pause()
