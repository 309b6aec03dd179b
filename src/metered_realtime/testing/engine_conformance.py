"""What every engine has to do, as tests. An engine that passes them all can stand in for any other.

    class TestMyEngine(EngineConformance):
        @pytest.fixture
        async def world(self):
            world = MyWorld(LIMITS)
            yield world
            await world.close()

The class needs pytest with pytest-asyncio in its auto mode, or a fixture and a mark of your own. Each case gets a world
of its own. `EngineCounts` in `engine_counts` has the rest of the cases: limits, counts, control and patterns.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence

from msgspec import Raw

from ..server.engine.contract import MAX_EPOCH, EngineLimits, Entry, JoinResult, Position
from .engine_world import EngineWorld, ListeningNode, listening, message

LIMITS = EngineLimits(messages_per_log=20, bytes_per_log=4_000)
"""The limits that a world of these tests has to have."""

RANDOM_RUNS = 5
RANDOM_STEPS = 120


class EngineConformance:
    """Connections, directs, channels and messages, and the order of them all."""

    # --- connections and directs

    async def test_a_connected_peer_is_found_at_every_node(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            assert await one.has_peer("alice") is False
            result = await one.connect("alice", "c1")
            assert result.missed is None
            assert result.position.offset == 0
            assert 0 < len(result.position.epoch) <= MAX_EPOCH
            assert result.position.epoch.replace("-", "").replace("_", "").isalnum()
            assert await other.has_peer("alice") is True
            await one.connect("alice", "c2")
            await one.disconnect("alice", "c1")
            assert await other.has_peer("alice") is True
            await one.disconnect("alice", "c2")
            assert await other.has_peer("alice") is False

    async def test_a_direct_reaches_each_node_of_its_peer_once(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (one, two, three):
            epoch = (await one.connect("alice", "c1")).position.epoch
            await two.connect("alice", "c2")
            await two.connect("alice", "c3")
            await three.connect("bob", "c4")
            assert await three.send("alice", message("bob", '"hi"')) is True
            expected = [("direct", "alice", epoch, 1, "bob", b'"hi"', None)]
            await one.hears(expected)
            await two.hears(expected)
            assert await one.send("bob", message("alice", "2")) is True
            await three.hears([("direct", "bob", await three.epoch_of("bob"), 1, "alice", b"2", None)])

    async def test_a_direct_to_nobody_is_refused(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            assert await one.send("alice", message("bob", "1")) is False
            await other.connect("alice", "c1")
            await other.disconnect("alice", "c1")
            assert await one.send("alice", message("bob", "1")) is False
            assert one.heard == other.heard == []

    async def test_directs_of_one_sender_arrive_in_the_order_of_the_requests(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await other.connect("alice", "c1")
            pending = [one.begin_send("alice", message("bob", str(number))) for number in range(200)]
            assert all([await each for each in pending])
            await other.hears_of("direct", 200)
            assert [(event[3], event[5]) for event in other.heard] == [
                (number + 1, str(number).encode()) for number in range(200)
            ]

    async def test_who_comes_back_gets_the_directs_after_its_position(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            start = (await one.connect("alice", "c1")).position
            for number in range(4):
                await other.send("alice", message("bob", str(number), metadata='{"a":1}' if number else None))
            result = await other.connect("alice", "c2", since=Position(start.epoch, 1))
            assert result.missed is not None
            assert result.position == Position(start.epoch, 4)
            assert result.missed.lost == 0
            found = [
                (stored.offset, bytes(stored.envelope.data), _bytes(stored.envelope.metadata))
                for stored in result.missed.messages
            ]
            assert found == [(2, b"1", b'{"a":1}'), (3, b"2", b'{"a":1}'), (4, b"3", b'{"a":1}')]
            await other.send("alice", message("bob", '"new"'))
            await other.hears([("direct", "alice", start.epoch, 5, "bob", b'"new"', None)])

    async def test_directs_beyond_the_bounds_are_counted_as_lost(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            start = (await one.connect("alice", "c1")).position
            for number in range(LIMITS.messages_per_log + 3):
                await other.send("alice", message("bob", str(number)))
            missed = (await other.connect("alice", "c2", since=start)).missed
            assert missed is not None
            assert missed.lost == 3
            assert [stored.offset for stored in missed.messages] == list(range(4, LIMITS.messages_per_log + 4))

    async def test_of_a_position_in_another_count_nobody_knows_what_is_lost(self, world: EngineWorld) -> None:
        async with listening(world, 1) as (node,):
            start = (await node.connect("alice", "c1")).position
            await node.send("alice", message("bob", "1"))
            other_count = (await node.connect("alice", "c2", since=Position("another", 1))).missed
            assert other_count is not None
            assert other_count.lost is None
            assert [stored.offset for stored in other_count.messages] == [1]
            beyond = (await node.connect("alice", "c3", since=Position(start.epoch, 7))).missed
            assert beyond is not None
            assert (beyond.lost, beyond.messages) == (None, ())

    async def test_directs_to_a_peer_between_two_connections_have_one_count(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            start = (await one.connect("alice", "c1")).position
            await other.send("alice", message("bob", "1"))
            await one.disconnect("alice", "c1")
            result = await other.connect("alice", "c2", since=start)
            assert result.missed is not None
            assert result.missed.lost == 0
            assert [bytes(stored.envelope.data) for stored in result.missed.messages] == [b"1"]

    async def test_apps_share_nothing(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.connect("alice", "c1", app="a")
            await one.join("room", "alice", "c1", app="a")
            await other.connect("alice", "c2", app="a/b")
            await other.join("room", "alice", "c2", app="a/b")
            assert await other.publish("room", message("bob", "1"), app="a/b") == 1
            await other.hears_of("message", 1)
            assert await one.has_peer("alice", app="b") is False
            await one.publish("room", message("bob", "2"), app="a")
            await one.hears_of("message", 1)
            assert one.data_of("message") == [b"2"]
            assert other.data_of("message") == [b"1"]

    # --- presence

    async def test_a_join_has_all_members_and_the_others_hear_of_it(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.connect("alice", "c1", metadata='{"n":1}')
            await other.connect("bob", "c2")
            first = await one.join("room", "alice", "c1", metadata='{"n":1}')
            assert (_members(first), first.is_first, first.missed) == ({"alice": b'{"n":1}'}, True, None)
            second = await other.join("room", "bob", "c2")
            assert (_members(second), second.is_first) == ({"alice": b'{"n":1}', "bob": None}, False)
            assert second.position == first.position
            await one.hears([("joined", "room", "bob", None)])
            assert await one.roster("room") == {"alice": b'{"n":1}', "bob": None}
            assert await other.roster("empty") == {}

    async def test_presence_is_per_peer(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (watcher, one, other):
            await watcher.enter("room", "watcher", "c0")
            await one.enter("room", "alice", "c1")
            await other.enter("room", "alice", "c2")
            await watcher.hears([("joined", "room", "alice", None)])
            assert await one.leave("room", "alice", "c1") is False
            assert await watcher.roster("room") == {"watcher": None, "alice": None}
            assert await other.leave("room", "alice", "c2", expelled=True) is False
            await watcher.hears([("joined", "room", "alice", None), ("left", "room", "alice", True)])
            assert await watcher.leave("room", "watcher", "c0") is True

    async def test_changed_metadata_is_told_as_joined(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.enter("room", "alice", "c1")
            await other.enter("room", "bob", "c2")
            await one.hears([("joined", "room", "bob", None)])
            result = await other.join("room", "bob", "c2", metadata='{"b":2}')
            assert _members(result) == {"alice": None, "bob": b'{"b":2}'}
            await other.join("room", "bob", "c2", metadata='{"b":2}')
            await other.publish("room", message("bob", "1"))
            await one.hears_of("message", 1)
            assert one.heard[:2] == [("joined", "room", "bob", None), ("joined", "room", "bob", b'{"b":2}')]
            assert len(one.heard) == 3

    async def test_json_null_is_not_the_lack_of_metadata(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.enter("room", "alice", "c1")
            await other.enter("room", "bob", "c2", metadata="null")
            await other.publish("room", message("bob", "null", metadata="null"))
            await one.hears_of("message", 1)
            assert one.heard[0] == ("joined", "room", "bob", b"null")
            assert one.heard[1][5:] == (b"null", b"null")

    async def test_entries_that_nobody_knows_change_nothing(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.enter("room", "alice", "c1")
            await other.leave("room", "bob", "c9")
            await other.disconnect("bob", "c9")
            stranger = await other.join("room", "bob", "c9")
            assert "alice" in _members(stranger)
            assert await other.roster("room") == {"alice": None}
            await one.publish("room", message("x", "1"))
            await one.hears_of("message", 1)
            assert len(one.heard) == 1

    async def test_names_may_have_any_characters(self, world: EngineWorld) -> None:
        channel, peer = "a/{b}:*?[é]\\ %", "p {x}/*"
        async with listening(world, 2) as (one, other):
            await one.enter(channel, peer, "c1", metadata='"ü"')
            await other.enter(channel, "bob", "c2")
            assert await other.publish(channel, message("bob", '"ä\\u0000"')) == 1
            assert await other.send(peer, message("bob", "1")) is True
            await one.hears_of("message", 1)
            await one.hears_of("direct", 1)
            assert one.heard[0] == ("joined", channel, "bob", None)
            assert one.data_of("message") == ['"ä\\u0000"'.encode()]
            assert await other.roster(channel) == {peer: '"ü"'.encode(), "bob": None}

    async def test_the_entries_of_a_node_that_is_gone_end(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (one, other, third):
            await one.enter("room", "alice", "c1")
            await other.enter("room", "alice", "c2")
            await other.enter("room", "bob", "c3")
            await other.enter("elsewhere", "carol", "c4")
            await one.hears([("joined", "room", "bob", None)])
            await world.kill(other.engine)
            await one.hears([("joined", "room", "bob", None), ("left", "room", "bob", False)])
            while await third.has_peer("carol"):
                await third.pause()
            assert await third.roster("room") == {"alice": None}
            assert await third.roster("elsewhere") == {}
            assert await third.has_peer("bob") is False

    # --- messages

    async def test_a_message_reaches_every_node_of_its_channel_once(self, world: EngineWorld) -> None:
        async with listening(world, 3) as (one, two, three):
            epoch = (await one.enter("room", "alice", "c1")).position.epoch
            await two.enter("room", "bob", "c2")
            await two.enter("room", "carol", "c3")
            await three.connect("dave", "c4")
            assert await two.publish("room", message("bob", '{"x":1}', metadata='"m"')) == 2
            assert await three.publish("room", message("dave", "2")) == 3
            expected = [
                ("message", "room", epoch, 1, "bob", b'{"x":1}', b'"m"'),
                ("message", "room", epoch, 2, "dave", b"2", None),
            ]
            await one.hears([("joined", "room", "bob", None), ("joined", "room", "carol", None), *expected])
            await two.hears_of("message", 2)
            assert [event for event in two.heard if event[0] == "message"] == expected
            assert three.heard == []

    async def test_messages_of_one_sender_have_offsets_in_the_order_of_the_requests(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await other.enter("room", "alice", "c1")
            pending = [one.begin_publish("room", message("bob", str(number))) for number in range(300)]
            assert [await each for each in pending] == [1] * 300
            await other.hears_of("message", 300)
            assert [(event[3], event[5]) for event in other.heard] == [
                (number + 1, str(number).encode()) for number in range(300)
            ]

    async def test_a_channel_left_is_heard_no_more(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            await one.enter("room", "alice", "c1")
            await one.enter("other", "alice", "c1")
            await one.leave("room", "alice", "c1")
            assert await other.publish("room", message("bob", "1")) == 0
            await other.publish("other", message("bob", "2"))
            await one.hears_of("message", 1)
            assert one.data_of("message") == [b"2"]

    async def test_who_returns_to_a_channel_gets_what_it_missed(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            start = (await one.enter("room", "alice", "c1")).position
            await other.enter("room", "bob", "c2")
            for number in range(3):
                await other.publish("room", message("bob", str(number)))
            back = await other.join("room", "bob", "c2", since=start._replace(offset=1))
            assert back.missed is not None
            assert back.position == Position(start.epoch, 3)
            assert back.missed.lost == 0
            assert [(each.offset, bytes(each.envelope.data)) for each in back.missed.messages] == [(2, b"1"), (3, b"2")]

    async def test_bounds_of_number_and_bytes_drop_the_oldest(self, world: EngineWorld) -> None:
        async with listening(world, 1) as (node,):
            start = (await node.enter("room", "alice", "c1")).position
            for number in range(LIMITS.messages_per_log + 2):
                await node.publish("room", message("bob", str(number)))
            missed = (await node.join("room", "alice", "c1", since=start)).missed
            assert missed is not None
            assert (missed.lost, len(missed.messages)) == (2, LIMITS.messages_per_log)
            big = '"' + "x" * (LIMITS.bytes_per_log // 2) + '"'
            for _ in range(2):
                await node.publish("room", message("bob", big))
            missed = (await node.join("room", "alice", "c1", since=start)).missed
            assert missed is not None
            assert [len(bytes(each.envelope.data)) for each in missed.messages] == [len(big)]
            assert missed.lost == LIMITS.messages_per_log + 3

    async def test_a_channel_keeps_its_count_while_nobody_is_there(self, world: EngineWorld) -> None:
        async with listening(world, 2) as (one, other):
            start = (await one.enter("room", "alice", "c1")).position
            await one.leave("room", "alice", "c1")
            await other.publish("room", message("bob", "1"))
            back = await one.join("room", "alice", "c1", since=start)
            assert back.missed is not None
            assert back.missed.lost == 0
            assert [bytes(each.envelope.data) for each in back.missed.messages] == [b"1"]

    # --- order

    async def test_nodes_hear_of_a_channel_in_one_order(self, world: EngineWorld) -> None:
        for seed in range(RANDOM_RUNS):
            await _run_at_random(world, seed)

    async def test_every_result_of_a_join_is_exact(self, world: EngineWorld) -> None:
        """A node without an entry joins while others publish: nothing is missing after its result."""
        async with listening(world, 2) as (one, other):
            await one.enter("room", "alice", "c1")
            await other.connect("bob", "c2")
            offset = 0
            for turn in range(20):
                pending = [one.begin_publish("room", message("alice", str(number))) for number in range(5)]
                joining = other.begin_join("room", "bob", "c2")
                pending += [one.begin_publish("room", message("alice", str(number))) for number in range(5, 10)]
                result = await joining
                for each in pending:
                    await each
                offset += 10
                await other.hears_offset(offset, result.position.offset)
                heard = [event[3] for event in other.heard if event[0] == "message"]
                assert heard == list(range(result.position.offset + 1, offset + 1)), turn
                await other.leave("room", "bob", "c2")
                other.heard.clear()


async def _run_at_random(world: EngineWorld, seed: int) -> None:
    """Let connections come, go and publish without waiting, and compare what the nodes have heard."""
    chance, room = random.Random(seed), f"room-{seed}"
    async with listening(world, 3, prefix=f"run{seed}-") as nodes:
        for node in nodes:
            await node.enter(room, f"anchor-{node.name}", f"anchor-{node.name}")
        for node in nodes:
            await node.knows(room, len(nodes))
        connections = [(node, f"peer{number}", f"{node.name}-{number}") for node in nodes for number in range(4)]
        for node, peer, connection in connections:
            await node.connect(peer, connection)
        for node in nodes:
            node.heard.clear()
        there: set[str] = set()
        pending: list[Awaitable[object]] = []
        for step in range(RANDOM_STEPS):
            node, peer, connection = chance.choice(connections)
            if chance.random() < 0.4:
                pending.append(node.begin_publish(room, message(peer, str(step))))
            elif connection in there:
                there.discard(connection)
                pending.append(node.begin_leave(room, peer, connection))
            else:
                there.add(connection)
                pending.append(node.begin_join(room, peer, connection))
            if chance.random() < 0.1:
                await pending[-1]
        for each in pending:
            await each
        await nodes[0].publish(room, message("end", '"end"'))
        for node in nodes:
            await node.hears_data(b'"end"')
        anchors = {f"anchor-{node.name}" for node in nodes}
        stories = [_story(node, room, anchors) for node in nodes]
        assert stories[0] == stories[1] == stories[2], f"seed {seed}"
        final = set(_present(stories[0], anchors))
        assert set(await nodes[0].roster(room)) == final, f"seed {seed}"


def _story(node: ListeningNode, room: str, members: set[str]) -> list[tuple[object, ...]]:
    """Return what a node has heard of a channel, and check that each outcome fits where it stands.

    The joiner's own node may hear `joined` after the result or not, and so with `left`: both are the same story.
    """
    story: list[tuple[object, ...]] = []
    present, offset = set(members), 0
    for event in node.heard:
        kind = event[0]
        if kind == "message":
            assert event[3] == offset + 1
            offset = event[3]
            story.append(("message", offset, event[5]))
        elif kind == "join result":
            _, peer, result = event
            assert isinstance(result, JoinResult)
            if peer not in present:
                story.append(("joined", peer))
                present.add(peer)
            assert {member.peer_id for member in result.members} == present
            assert result.position.offset == offset
        elif kind == "joined" and event[2] not in present:
            story.append(("joined", event[2]))
            present.add(event[2])
        elif kind == "left" and event[2] in present:
            story.append(("left", event[2]))
            present.discard(event[2])
    return story


def _present(story: Sequence[tuple[object, ...]], members: set[str]) -> set[object]:
    present: set[object] = set(members)
    for event in story:
        if event[0] == "joined":
            present.add(event[1])
        elif event[0] == "left":
            present.discard(event[1])
    return present


def _members(result: JoinResult) -> dict[str, bytes | None]:
    return {member.peer_id: _bytes(member.metadata) for member in result.members}


def _bytes(value: Raw | None) -> bytes | None:
    return None if value is None else bytes(value)


__all__ = ["LIMITS", "EngineConformance", "EngineWorld", "Entry"]
