"""What a client that comes back is sent, what others see of it meanwhile, and when a connection counts as lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from metered_realtime.core.wire.frames import Subscribe, decode_client_frame, encode_payload
from metered_realtime.server.client_socket import ABNORMAL, BY_CLIENT, Ending, _may_come_back
from metered_realtime.server.engine.contract import Entry, Envelope, Member, MissedMessages, Position, Stored
from metered_realtime.server.hub import Hub, Identity, Recovery
from metered_realtime.server.hub.identity import parse_recovery
from metered_realtime.server.hub.recovery import replay
from metered_realtime.server.limits import Limits
from metered_realtime.server.plan import Meter, Plan

from ...support.probe import EVERYTHING, NOW, Guest, lone_hub, roster_of

Frames = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["1"], Recovery()),
        (["e:0"], Recovery(Position("e", 0))),
        (["a-b_c:12"], Recovery(Position("a-b_c", 12))),
        (["1", "1"], None),
        ([""], None),
        (["0"], None),
        (["e:"], None),
        ([":1"], None),
        (["e:-1"], None),
        (["e:1:2"], None),
        (["e:１"], None),
        (["e:" + "9" * 5_000], None),
        (["e" * 33 + ":1"], None),
    ],
)
def test_the_parameter_is_a_wish_or_a_position_and_ignored_otherwise(
    values: list[str], expected: Recovery | None
) -> None:
    assert parse_recovery(values) == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9))), st.integers(0, 40), st.none() | st.integers(0, 5))
def test_the_newest_messages_that_fit_are_sent_and_the_others_are_counted(
    sent: list[tuple[str, int]], budget: int, lost: int | None
) -> None:
    stored = tuple(Stored(10 + number, Envelope(who, Raw(b"1" * size))) for number, (who, size) in enumerate(sent))
    end = Position("e", 9 + len(sent))
    again = replay(MissedMessages(stored, lost), end, "a", budget, lambda it: bytes(it.envelope.data))
    theirs = [size for who, size in sent if who == "b"]
    kept = len(again.frames)
    assert [len(frame) for frame in again.frames] == theirs[len(theirs) - kept :]
    assert again.size == sum(theirs[len(theirs) - kept :]) <= budget
    assert kept == len(theirs) or again.size + theirs[-kept - 1] > budget
    assert again.lost == (None if lost is None else lost + len(theirs) - kept)
    offsets = [it.offset for it in stored if it.envelope.sender == "b"][len(theirs) - kept :]
    assert not offsets or again.position.offset < offsets[0]
    assert kept < len(theirs) or again.position.offset == (9 if sent else end.offset)


class Returning:
    """A client of a lone hub that recovers, by a token of its own."""

    def __init__(self, hub: Hub, peer_id: str, since: Position | None = None, **options: Any) -> None:
        self.frames: Frames = []
        self.closed: list[tuple[int, str]] = []
        self.hub = hub
        self.subscriber = hub.connect(
            Identity(peer_id, EVERYTHING, key="k", **options),
            lambda raw: self.frames.append(json.loads(raw)),
            NOW,
            close=lambda code, reason: self.closed.append((code, reason)),
            recovery=Recovery(since),
        )

    def subscribe(self, channel: str, position: Position | None = None) -> None:
        epoch, offset = position if position is not None else (None, None)
        self.hub.handle(self.subscriber, Subscribe(channel, False, "r", True, epoch, offset))

    def take(self) -> Frames:
        frames, self.frames = self.frames, []
        return frames


class TestFrames:
    def test_only_those_who_ask_see_positions(self) -> None:
        hub = lone_hub()
        plain, asks, bob = Guest(hub, "plain"), Returning(hub, "asks"), Guest(hub, "bob")
        (welcome,) = asks.take()
        assert (welcome["epoch"], welcome["offset"]) == ("run-4", 0)
        assert "epoch" not in plain.welcome
        plain.subscribe("c", "r")
        asks.subscribe("c")
        ack = asks.take()[0]
        assert ack == {"type": "ack", "requestId": "r", "epoch": ack["epoch"], "offset": 0}
        assert plain.take()[0] == {"type": "ack", "requestId": "r"}
        bob.publish("c", 1)
        bob.send("plain", 2)
        bob.send("asks", 3)
        assert plain.take() == [
            {"type": "message", "channel": "c", "from": "bob", "data": 1},
            {"type": "direct", "from": "bob", "data": 2},
        ]
        assert asks.take() == [
            {"type": "message", "channel": "c", "from": "bob", "data": 1, "offset": 1},
            {"type": "direct", "from": "bob", "data": 3, "offset": 1},
        ]

    def test_patterns_have_no_positions(self) -> None:
        hub = lone_hub()
        ann, bob = Returning(hub, "ann"), Guest(hub, "bob")
        ann.take()
        ann.subscribe("a/*")
        assert ann.take() == [{"type": "ack", "requestId": "r"}]
        bob.publish("a/x", 1)
        assert ann.take() == [{"type": "message", "channel": "a/x", "from": "bob", "data": 1}]

    def test_what_was_missed_follows_the_snapshot_without_own_messages_and_is_paid_for(self) -> None:
        hub = lone_hub()
        bob, twin = Guest(hub, "bob"), Guest(hub, "ann")
        bob.subscribe("c")
        watcher = Returning(hub, "watcher")
        watcher.subscribe("c")
        epoch = watcher.take()[1]["epoch"]
        hub.disconnect(watcher.subscriber)
        for number in range(3):
            (bob if number != 1 else twin).publish("c", str(number) * 50_000)
        bob.take()
        ann = Returning(hub, "ann")
        ann.take()
        ann.subscribe("c", Position(epoch, 0))
        ack, snapshot, *missed = ann.take()
        assert (ack["offset"], snapshot["type"]) == (3, "presence")
        assert [(frame["offset"], frame["data"][0]) for frame in missed] == [(1, "0"), (3, "2")]
        assert 100_000 < ann.subscriber.charges < 101_000  # the snapshot itself is free
        assert bob.take()[-1]["joined"] == [{"peerId": "ann"}]

    def test_lost_messages_are_told_with_where_the_client_is_then(self) -> None:
        hub = lone_hub(Limits(recovered_bytes=250))
        ann, bob = Returning(hub, "ann"), Guest(hub, "bob")
        welcome = ann.take()[0]
        hub.lose(ann.subscriber)
        for number in range(4):
            bob.send("ann", str(number) * 60)
        back = Returning(hub, "ann", Position(welcome["epoch"], 0))
        _, lost, *missed = back.take()
        assert lost == {"type": "lost", "epoch": welcome["epoch"], "offset": 2, "count": 2}
        assert [frame["offset"] for frame in missed] == [3, 4]

    def test_what_the_engine_has_lost_is_told_to_those_who_know_positions(self) -> None:
        hub = lone_hub()
        ann, old = Returning(hub, "ann"), Guest(hub, "old")
        ann.subscribe("c")
        old.subscribe("c")
        ann.take()
        old.take()
        hub.messages_lost("app", "c", Position("e", 7), 3)
        hub.directs_lost("app", "ann", Position("f", 2), None)
        hub.directs_lost("app", "old", Position("f", 2), None)
        assert ann.take() == [
            {"type": "lost", "channel": "c", "epoch": "e", "offset": 7, "count": 3},
            {"type": "lost", "epoch": "f", "offset": 2},
        ]
        assert old.take() == []

    @pytest.mark.parametrize("head", [b'"type":"publish","channel":"c"', b'"type":"send","to":"bob"'])
    def test_a_kept_message_is_a_copy_and_no_part_of_its_frame(self, head: bytes) -> None:
        hub = lone_hub()
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        bob.subscribe("c")
        bob.take()
        text = b"{" + head + b',"data":1,"junk":"' + b"x" * 60_000 + b'"}'
        held = sys.getrefcount(text)
        hub.handle(ann.subscriber, decode_client_frame(text))
        assert bob.take()[0]["data"] == 1
        assert sys.getrefcount(text) == held


class TestPlaces:
    """Of connections that were lost without a goodbye."""

    def setup_method(self) -> None:
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.changes: list[tuple[str, str, str]] = []
        note: Callable[..., None] = lambda *change: self.changes.append(change)  # noqa: E731
        self.hub = lone_hub(on_change=note, later=lambda *timer: self.timers.append(timer))
        self.bob = Guest(self.hub, "bob")
        self.ann = Returning(self.hub, "ann")
        self.bob.subscribe("c")
        self.ann.subscribe("c")
        self.bob.take()
        self.changes.clear()

    def test_they_are_kept_for_the_return_time_and_then_told(self) -> None:
        self.hub.lose(self.ann.subscriber)
        assert (self.bob.take(), self.hub.peer_count, roster_of(self.hub, "c")) == ([], 1, ["bob", "ann"])
        self.bob.send("ann", 1, "r")
        assert self.bob.take() == [{"type": "ack", "requestId": "r"}]
        ((seconds, timer),) = self.timers
        assert seconds == Limits().return_time
        timer()
        assert self.bob.take()[0]["left"] == [{"peerId": "ann"}]
        assert self.changes == [("left", "c", "ann")]
        self.bob.send("ann", 1, "r")
        assert self.bob.take()[0]["code"] == "peer_not_found"
        assert not self.hub._connections.lost

    def test_they_are_taken_by_a_connection_that_resumes(self) -> None:
        self.hub.lose(self.ann.subscriber)
        heir = Returning(self.hub, "ann", resumes=True)
        assert heir.subscriber.places == {"c"}
        for _, timer in self.timers[:1]:
            timer()
        assert self.bob.take() == []
        heir.subscribe("c")
        for _, timer in self.timers:
            timer()
        assert (self.bob.take(), self.changes) == ([], [])
        self.hub.disconnect(heir.subscriber)
        assert self.bob.take()[0]["left"] == [{"peerId": "ann"}]

    def test_a_client_that_comes_back_by_a_token_was_not_gone_either(self) -> None:
        self.hub.lose(self.ann.subscriber)
        back = Returning(self.hub, "ann")
        back.subscribe("c")
        self.timers[0][1]()
        assert (self.bob.take(), roster_of(self.hub, "c")) == ([], ["bob", "ann"])

    def test_they_are_no_reason_to_refuse_the_peer_that_comes_back_for_them(self) -> None:
        hub = lone_hub(meter=Meter(Plan(max_concurrent_connections=2)))
        Guest(hub, "bob")
        lost = Returning(hub, "ann")
        hub.lose(lost.subscriber)
        assert Returning(hub, "eve").closed == [(4010, "too many connections")]
        assert Returning(hub, "ann").closed == []

    @pytest.mark.parametrize("how", ["kick", "revoke"])
    def test_they_end_at_once_when_the_peer_must_not_return(self, how: str) -> None:
        self.hub.lose(self.ann.subscriber)
        if how == "kick":
            self.hub.kick("app", "ann")
        else:
            self.hub.revoke("app", "k")
        assert self.bob.take()[0]["left"] == [{"peerId": "ann", "expelled": True}]

    def test_a_connection_that_resumes_elsewhere_takes_nothing_from_here_before_its_time(self) -> None:
        self.hub.replaced("app", Entry("ann", "elsewhere", None, "k"))
        assert self.ann.closed == [(4002, "resumed by another connection")]
        self.hub.disconnect(self.ann.subscriber)  # as its socket does when it has been closed
        assert (self.bob.take(), roster_of(self.hub, "c")) == ([], ["bob", "ann"])

    def test_they_are_left_to_the_engine_when_the_node_stops(self) -> None:
        self.hub.fall_silent()
        self.hub.lose(self.ann.subscriber)
        assert self.timers == []
        assert roster_of(self.hub, "c") == ["bob", "ann"]

    def test_nobody_hears_twice_of_a_peer_that_has_changed_its_metadata(self) -> None:
        self.hub.presence("app", "c", (Member("ann", encode_payload({"new": 1})),), ())
        assert self.bob.take() == []
        self.hub.presence("app", "c", (Member("eve"), Member("ann"), Member("bob")), (Member("nobody"),))
        assert self.bob.take() == [
            {"type": "presence", "channel": "c", "joined": [{"peerId": "eve"}], "left": []},
        ]

    def test_presence_of_several_leaves_out_whom_it_is_told_to(self) -> None:
        self.hub.presence("app", "c", (Member("eve"), Member("zoe")), (Member("bob"),))
        assert self.bob.take()[-1] == {
            "type": "presence",
            "channel": "c",
            "joined": [{"peerId": "eve"}, {"peerId": "zoe"}],
            "left": [],
        }


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(ABNORMAL, "connection lost"), True),
        (Ending(ABNORMAL, "no pong"), True),
        (Ending(ABNORMAL, "outbox full"), True),
        (Ending(1001, "going away"), True),
        (Ending(4002, "token expired"), True),
        (Ending(1011, "internal error"), True),
        (Ending(4000, BY_CLIENT), True),
        (Ending(1000, BY_CLIENT), False),
        (Ending(1001, BY_CLIENT), False),
        (Ending(1005, BY_CLIENT), False),
        (Ending(4001, "invalid credential"), False),
        (Ending(4020, "disconnected by the backend"), False),
        (Ending(4011, "message rate exceeded"), False),
        (Ending(1008, "too many malformed frames"), False),
        (Ending(1009, "frame too large"), False),
    ],
)
def test_a_goodbye_is_a_close_of_the_client_or_one_that_is_its_fault(ending: Ending, expected: bool) -> None:
    assert _may_come_back(ending) is expected
