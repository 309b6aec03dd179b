"""The order in which a node hears of a channel, whatever comes first, comes late or does not come at all."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from metered_realtime.server.engine.contract import Envelope, Member, MissedMessages, Position, Stored
from metered_realtime.server.engine.redis.items import Item
from metered_realtime.server.engine.redis.replica import (
    MAX_HELD,
    DeliverStored,
    Effect,
    Lost,
    Pass,
    PlacedReply,
    Replica,
    Reply,
    Snapshot,
    Tell,
)

NEVER = 1e9


def envelope(number: int) -> Envelope:
    return Envelope("x", Raw(str(number).encode()))


def msg(seq: int, offset: int, *, epoch: str = "e") -> Item:
    return Item("m", "app", "room", epoch, seq, offset, "other", 0, envelope(offset))


def presence(
    seq: int,
    offset: int = 0,
    came: str = "",
    went: str = "",
    *,
    node: str = "other",
    request: int = 0,
    epoch: str = "e",
) -> Item:
    content = (tuple(Member(peer) for peer in came), tuple(Member(peer) for peer in went))
    return Item("p", "app", "room", epoch, seq, offset, node, request, content)


def mark(seq: int, request: int, *, offset: int = 0, epoch: str = "e") -> Item:
    return Item("c", "app", "room", epoch, seq, offset, "n", request, ())


def snapshot(
    seq: int, offset: int, members: str, *, epoch: str = "e", missed: tuple[int, ...] = (), lost: int | None = 0
) -> Snapshot:
    messages = tuple(Stored(number, envelope(number)) for number in missed)
    return Snapshot(epoch, seq, offset, {peer: Member(peer) for peer in members}, MissedMessages(messages, lost))


def live(members: str = "a", seq: int = 1, offset: int = 0) -> Replica:
    """Return a replica that knows who is there."""
    replica = Replica("n")
    assert replica.restore(snapshot(seq, offset, members), NEVER) == []
    return replica


def told(effects: list[Effect]) -> list[object]:
    """Return effects in short: numbers of messages, who came and went, requests, what is lost."""
    short: list[object] = []
    for effect in effects:
        match effect:
            case DeliverStored():
                short.append(effect.stored.offset)
            case Tell():
                came = "".join(member.peer_id for member in effect.joined)
                short.append((came, "".join(member.peer_id for member in effect.left)))
            case PlacedReply():
                short.append(f"#{effect.request} {''.join(member.peer_id for member in effect.members)}")
            case Lost():
                short.append(f"lost {effect.count} before {effect.position.offset}")
            case Pass():
                short.append(effect.item.kind)
    return short


def test_a_first_join_begins_with_its_own_item_whichever_of_the_two_comes_first() -> None:
    for reply_first in (True, False):
        replica = Replica("n")
        replica.expect(7)
        reply = Reply("value", snapshot(5, 3, "ab"), jump=True)
        own = presence(5, 3, "b", node="n", request=7)
        effects = replica.hear(msg(2, 1))  # of an earlier stay
        if reply_first:
            effects += replica.reply(7, reply) + replica.hear(own) + replica.hear(msg(6, 4))
        else:
            effects += replica.hear(own) + replica.hear(msg(6, 4)) + replica.reply(7, reply)
        assert told(effects) == ["#7 ab", ("b", ""), 4]
        assert replica.position == Position("e", 4)


def test_a_join_waits_for_its_place_among_what_others_do() -> None:
    replica = live("a")
    replica.expect(1)
    assert told(replica.reply(1, Reply())) == []
    assert told(replica.hear(msg(2, 1))) == [1]
    assert told(replica.hear(presence(3, 1, "b", node="n", request=1))) == ["#1 ab", ("b", "")]


def test_what_follows_an_own_item_waits_for_its_reply() -> None:
    replica = live("a")
    replica.expect(1)
    assert told(replica.hear(mark(1, 1))) == []
    assert told(replica.hear(msg(2, 1))) == []
    assert told(replica.reply(1, Reply())) == ["#1 a", 1]


def test_a_request_that_failed_holds_up_nothing() -> None:
    replica = live("a")
    replica.expect(1)
    replica.hear(mark(1, 1))
    replica.hear(msg(2, 1))
    assert told(replica.forget(1)) == [1]


def test_a_leave_that_was_the_last_of_the_node_is_not_told_to_it() -> None:
    replica = live("ab")
    replica.expect(1)
    replica.reply(1, Reply(True, stays=False))
    assert told(replica.hear(presence(2, went="a", node="n", request=1))) == ["#1 b"]


def test_what_is_not_next_is_held_until_the_state_has_been_read() -> None:
    replica = live("a")
    assert told(replica.hear(msg(3, 2))) == []
    assert replica.is_behind
    assert told(replica.hear(msg(5, 3))) == []
    effects = replica.restore(snapshot(4, 2, "abc", missed=(1, 2)), NEVER)
    assert told(effects) == [("bc", ""), 1, 2, 3]
    assert not replica.is_behind


def test_what_is_known_already_is_dropped() -> None:
    replica = live("a", seq=4, offset=2)
    assert told(replica.hear(msg(3, 1)) + replica.hear(msg(4, 2)) + replica.hear(msg(5, 3))) == [3]


def test_lost_messages_are_told_before_anything_newer() -> None:
    replica = live("ab", seq=1)
    replica.hear(msg(9, 8))
    effects = replica.restore(snapshot(9, 8, "a", missed=(6, 7, 8), lost=5), NEVER)
    assert told(effects) == ["lost 5 before 5", 6, 7, 8, ("", "b")]


def test_an_own_request_has_its_place_in_a_state_that_was_read() -> None:
    replica = live("a")
    replica.expect(1)
    replica.hear(msg(3, 2))
    replica.hear(presence(4, 2, "b", node="n", request=1))
    replica.reply(1, Reply())
    assert told(replica.restore(snapshot(5, 3, "ab", missed=(1, 2, 3)), NEVER)) == [("b", ""), 1, 2, 3, "#1 ab"]


def test_another_epoch_keeps_those_who_have_to_come_again() -> None:
    replica = live("abc", seq=7, offset=4)
    replica.hear(msg(1, 1, epoch="f"))
    assert replica.is_behind
    effects = replica.restore(snapshot(2, 1, "ad", epoch="f", missed=(1,), lost=None), 10.0)
    assert told(effects) == ["lost None before 0", ("d", ""), 1]
    assert told(replica.hear(presence(3, 1, "b", epoch="f"))) == []  # is back, and nobody heard that it was away
    replica.expect(1)
    replica.reply(1, Reply())
    assert told(replica.hear(mark(3, 1, epoch="f"))) == ["#1 abcd"]
    assert told(replica.settle(9.9)) == []
    assert told(replica.settle(10.0)) == [("", "c")]
    assert told(replica.hear(presence(4, 1, "c", epoch="f"))) == [("c", "")]


def test_items_of_a_former_epoch_are_over() -> None:
    replica = live("a", seq=7, offset=4)
    replica.restore(snapshot(1, 0, "a", epoch="f", lost=None), NEVER)
    assert told(replica.hear(msg(8, 5)) + replica.hear(msg(2, 1, epoch="f"))) == [1]
    assert not replica.is_behind


def test_after_a_loss_open_requests_are_returned_and_old_items_ignored() -> None:
    replica = live("a")
    replica.expect(1)
    replica.expect(2)
    replica.reply(1, Reply())
    assert replica.lose("n2") == [1, 2]
    assert replica.is_behind
    assert told(replica.hear(mark(1, 1))) == []
    assert told(replica.restore(snapshot(2, 1, "a", missed=(1,)), NEVER)) == [1]


def test_a_join_of_a_node_that_had_left_begins_anew() -> None:
    replica = live("a", seq=1)
    replica.expect(1)
    replica.expect(2)
    replica.reply(1, Reply(True, stays=False))
    replica.reply(2, Reply("value", snapshot(9, 5, "xb"), jump=True))
    effects = replica.hear(presence(2, went="a", node="n", request=1))
    effects += replica.hear(presence(9, 5, "b", node="n", request=2))
    assert told(effects) == ["#1 ", "#2 xb", ("b", "")]


def test_copies_for_patterns_are_delivered_only_while_nothing_else_brings_them() -> None:
    replica = Replica("n")
    assert told(replica.hear(msg(1, 1), by_pattern=True)) == [1]
    replica.expect(1)
    own = presence(2, 1, "a", node="n", request=1)
    effects = replica.hear(own) + replica.hear(msg(3, 2)) + replica.hear(msg(3, 2), by_pattern=True)
    effects += replica.reply(1, Reply(None, snapshot(2, 1, "a"), jump=True))
    assert told(effects) == ["#1 a", ("a", ""), 2]
    replica.expect(2)
    effects = replica.hear(presence(4, 2, went="a", node="n", request=2))
    effects += replica.hear(msg(5, 3), by_pattern=True)
    effects += replica.reply(2, Reply(True, stays=False))
    assert told(effects) == ["#2 ", 3]


def test_what_is_held_is_bounded() -> None:
    replica = live("a")
    for number in range(MAX_HELD + 10):
        replica.hear(msg(3 + number, 2 + number))
    assert told(replica.restore(snapshot(2, 1, "a", missed=(1,)), NEVER))[0] == 1
    assert replica.is_behind


class FakeRedis:
    """What scripts do to one channel, and what a node hears of it. The node's connection may be lost at any time."""

    def __init__(self) -> None:
        self.epoch, self.seq, self.offset = "e0", 0, 0
        self.members: set[str] = {"a"}
        self.log: list[int] = []
        self.history: list[object] = []
        self.inbox: list[Item] = []

    def publish(self) -> None:
        self.seq, self.offset = self.seq + 1, self.offset + 1
        self.log.append(self.offset)
        self.history.append(self.offset)
        self.inbox.append(msg(self.seq, self.offset, epoch=self.epoch))

    def change(self, peer: str) -> None:
        self.seq += 1
        came, went = (peer, "") if peer not in self.members else ("", peer)
        self.members ^= {peer}
        self.history.append((came, went))
        self.inbox.append(presence(self.seq, self.offset, came, went, epoch=self.epoch))

    def read(self, replica: Replica) -> Snapshot:
        if replica.epoch != self.epoch:
            missed, lost = tuple(self.log), None
        else:
            missed, lost = tuple(number for number in self.log if number > replica.offset), 0
        return snapshot(
            self.seq, self.offset, "".join(sorted(self.members)), epoch=self.epoch, missed=missed, lost=lost
        )


@given(st.integers(0, 2**32))
def test_every_message_comes_once_and_in_order_whatever_is_lost(seed: int) -> None:
    chance, redis, replica = random.Random(seed), FakeRedis(), Replica("n")
    replica.restore(redis.read(replica), NEVER)
    effects: list[Effect] = []
    reading: Snapshot | None = None
    known = {"a"}
    for _ in range(80):
        action = chance.choice(("publish", "publish", "change", "hear", "hear", "hear", "lose", "read", "answer"))
        if action == "publish":
            redis.publish()
        elif action == "change":
            redis.change(chance.choice("bcd"))
        elif action == "hear" and redis.inbox:
            effects += replica.hear(redis.inbox.pop(0))
        elif action == "lose" and chance.random() < 0.2:
            del redis.inbox[: chance.randint(0, len(redis.inbox))]
        elif action == "read" and replica.is_behind and reading is None:
            reading = redis.read(replica)
        elif action == "answer" and reading is not None:
            effects += replica.restore(reading, NEVER)
            reading = None
    redis.publish()
    for item in redis.inbox:
        effects += replica.hear(item)
    if replica.is_behind:
        effects += replica.restore(redis.read(replica), NEVER)
    assert [each for each in told(effects) if isinstance(each, int)] == redis.log
    for each in told(effects):
        if isinstance(each, tuple):
            known = (known | set(each[0])) - set(each[1])
    assert known == redis.members == set(replica.members)


def test_a_mailbox_needs_no_members() -> None:
    replica = Replica("n")
    replica.expect(1)
    own = Item("q", "app", "bob", "e", 4, 4, "n", 1, ())
    direct = Item("d", "app", "bob", "e", 5, 5, "other", 0, envelope(5))
    effects = replica.hear(own) + replica.hear(direct) + replica.reply(1, Reply("x", Snapshot("e", 4, 4), jump=True))
    assert told(effects) == ["#1 ", 5]
