"""The hub's routing, presence and refusals, without sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from metered_realtime.core.wire.frames import Ping, Publish, Subscribe
from metered_realtime.server.hub import Hub, Identity
from metered_realtime.server.limits import Limits
from metered_realtime.server.rights import ACTIONS, Grant

from ..support.probe import EVERYTHING, NOW, Guest, lone_hub


@pytest.fixture
def hub() -> Hub:
    return lone_hub()


def joined(channel: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"type": "presence", "channel": channel, "joined": list(entries), "left": []}


def left(channel: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"type": "presence", "channel": channel, "joined": [], "left": list(entries)}


def error_code(frames: list[dict[str, Any]]) -> str:
    (frame,) = frames
    assert frame["type"] == "error"
    return str(frame["code"])


class TestWelcome:
    def test_the_welcome_comes_first_with_an_explicit_null_for_a_connection_that_does_not_expire(
        self, hub: Hub
    ) -> None:
        welcome = Guest(hub, "ann").welcome
        assert welcome == {
            "type": "welcome",
            "peerId": "ann",
            "expiresAt": None,
            "serverTime": int(NOW),
            "maxMessageSize": 65536,
        }

    def test_the_welcome_carries_expiry_and_metadata(self, hub: Hub) -> None:
        frames: list[bytes] = []
        hub.connect(Identity("ann", EVERYTHING, expires_at=5, metadata={"a": 1}), frames.append, NOW)
        assert b'"expiresAt":5' in frames[0]
        assert b'"metadata":{"a":1}' in frames[0]


class TestSubscribe:
    def test_subscribing_acks_then_sends_the_snapshot_and_only_then_tells_the_others(self) -> None:
        order: list[tuple[str, bytes]] = []
        hub = lone_hub()
        ann, bob = (hub.connect(Identity(name, EVERYTHING), _note(order, name), NOW) for name in ("ann", "bob"))
        hub.handle(ann, _subscribe("c"))
        order.clear()
        hub.handle(bob, _subscribe("c"))
        assert [(who, _kind(frame)) for who, frame in order] == [
            ("bob", "ack"),
            ("bob", "presence"),
            ("ann", "presence"),
        ]

    def test_the_snapshot_lists_the_others_with_their_metadata(self, hub: Hub) -> None:
        Guest(hub, "ann", metadata={"role": "host"}).subscribe("c")
        Guest(hub, "bob").subscribe("c")
        eve = Guest(hub, "eve")
        eve.subscribe("c", "r")
        ack, snapshot = eve.take()
        assert ack == {"type": "ack", "requestId": "r"}
        assert snapshot == joined("c", {"peerId": "ann", "metadata": {"role": "host"}}, {"peerId": "bob"})

    def test_subscribing_sends_an_empty_snapshot_when_nobody_is_there(self, hub: Hub) -> None:
        ann = Guest(hub, "ann")
        ann.subscribe("c")
        assert ann.take() == [joined("c")]

    def test_subscribing_again_sends_the_snapshot_again_and_tells_nobody(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        ann.subscribe("c")
        bob.subscribe("c")
        ann.take()
        bob.take()
        bob.subscribe("c", "again")
        assert bob.take() == [{"type": "ack", "requestId": "again"}, joined("c", {"peerId": "ann"})]
        assert ann.take() == []

    def test_subscribing_again_changes_whether_sender_metadata_is_wanted(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann", metadata={"n": 1}), Guest(hub, "bob")
        bob.subscribe("c", wants_metadata=True)
        bob.subscribe("c")
        bob.take()
        ann.publish("c", 1)
        assert "fromMetadata" not in bob.take()[0]

    def test_subscribing_refuses_the_channel_over_the_limit_but_not_one_held_already(self) -> None:
        hub = lone_hub(Limits(channels_per_connection=2))
        ann = Guest(hub, "ann")
        for channel in ("a", "b*"):
            ann.subscribe(channel)
        ann.take()
        ann.subscribe("c", "r")
        assert error_code(ann.take()) == "channel_limit_exceeded"
        ann.subscribe("a", "r")
        assert ann.take()[0]["type"] == "ack"

    def test_a_snapshot_too_large_for_a_frame_names_all_peers_without_metadata(self, hub: Hub) -> None:
        blind = Grant(ACTIONS - {"presence"}, ("**",))
        for number in range(300):
            Guest(hub, f"p{number}", blind, metadata={"x": "y" * 4000}).subscribe("c")
        eve = Guest(hub, "eve")
        eve.subscribe("c")
        (snapshot,) = eve.take()
        assert len(snapshot["joined"]) == 300
        assert all(entry.keys() == {"peerId"} for entry in snapshot["joined"])


class TestPresence:
    def test_unsubscribing_is_acked_and_announced_even_twice(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob", metadata={"m": 1})
        ann.subscribe("c")
        bob.subscribe("c")
        ann.take()
        bob.take()
        bob.unsubscribe("c", "1")
        bob.unsubscribe("c", "2")
        assert bob.take() == [{"type": "ack", "requestId": "1"}, {"type": "ack", "requestId": "2"}]
        assert ann.take() == [left("c", {"peerId": "bob", "metadata": {"m": 1}})]

    def test_several_connections_of_one_peer_join_once_and_leave_once(self, hub: Hub) -> None:
        ann = Guest(hub, "ann")
        ann.subscribe("c")
        first, second = Guest(hub, "bob"), Guest(hub, "bob")
        ann.take()
        first.subscribe("c")
        second.subscribe("c")
        assert ann.take() == [joined("c", {"peerId": "bob"})]
        first.leave()
        assert ann.take() == []
        second.leave()
        assert ann.take() == [left("c", {"peerId": "bob"})]

    def test_metadata_is_that_of_the_most_recent_connection(self, hub: Hub) -> None:
        old, new = Guest(hub, "bob", metadata={"v": 1}), Guest(hub, "bob", metadata={"v": 2})
        new.subscribe("c")
        old.subscribe("c")
        ann = Guest(hub, "ann")
        ann.subscribe("c")
        assert ann.take() == [joined("c", {"peerId": "bob", "metadata": {"v": 2}})]

    def test_a_peer_without_the_right_is_seen_but_sees_nobody(self, hub: Hub) -> None:
        ann, blind = Guest(hub, "ann"), Guest(hub, "blind", Grant(ACTIONS - {"presence"}, ("**",)))
        ann.subscribe("c")
        ann.take()
        blind.subscribe("c", "r")
        assert blind.take() == [{"type": "ack", "requestId": "r"}]
        assert ann.take() == [joined("c", {"peerId": "blind"})]
        ann.leave()
        assert blind.take() == []

    def test_a_disconnect_leaves_no_trace(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        for channel in ("a", "b", "x/*"):
            ann.subscribe(channel)
        bob.subscribe("a")
        bob.take()
        ann.leave()
        ann.leave()
        assert bob.take() == [left("a", {"peerId": "ann"})]
        bob.leave()
        assert is_empty(hub)


class TestPublish:
    def test_a_publish_reaches_every_other_subscriber_but_no_connection_of_the_publisher(self, hub: Hub) -> None:
        ann, twin, bob, eve = (Guest(hub, name) for name in ("ann", "ann", "bob", "eve"))
        for guest in (ann, twin, bob):
            guest.subscribe("c")
        for guest in (ann, twin, bob):
            guest.take()
        ann.publish("c", {"n": 1}, "r")
        assert ann.take() == [{"type": "ack", "requestId": "r"}]
        assert bob.take() == [{"type": "message", "channel": "c", "from": "ann", "data": {"n": 1}}]
        assert twin.take() == eve.take() == []

    def test_a_publish_needs_no_subscription(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        bob.subscribe("c")
        bob.take()
        ann.publish("c")
        assert bob.take() == [{"type": "message", "channel": "c", "from": "ann", "data": None}]

    def test_a_publish_adds_metadata_for_those_who_asked(self, hub: Hub) -> None:
        ann, plain, rich = Guest(hub, "ann", metadata={"n": 1}), Guest(hub, "plain"), Guest(hub, "rich")
        plain.subscribe("c")
        rich.subscribe("c", wants_metadata=True)
        plain.take()
        rich.take()
        ann.publish("c", 1)
        assert "fromMetadata" not in plain.take()[0]
        assert rich.take()[0]["fromMetadata"] == {"n": 1}

    def test_a_publish_encodes_one_frame_for_all_and_forwards_the_payload_as_it_came(self) -> None:
        sealed: list[bytes] = []

        def seal(frame: bytes) -> bytes:
            sealed.append(frame)
            return frame

        hub = lone_hub(seal=seal)
        ann, *others = (Guest(hub, name) for name in ("ann", "b", "c", "d"))
        for other in others:
            other.subscribe("c")
        for other in others:
            other.take()
        sealed.clear()
        payload = b'{ "odd" :  [1.0, 1e2, "\\u0041"] }'
        hub.handle(ann.subscriber, Publish("c", Raw(payload)))
        assert len(sealed) == 1
        assert payload in sealed[0]
        assert all(other.raw == [sealed[0]] and other.raw[0] is sealed[0] for other in others)


class TestSend:
    def test_a_direct_message_reaches_every_connection_of_the_target_with_the_senders_metadata(self, hub: Hub) -> None:
        ann, first, second = Guest(hub, "ann", metadata={"n": 1}), Guest(hub, "bob"), Guest(hub, "bob")
        ann.send("bob", [1, 2], "r")
        expected = {"type": "direct", "from": "ann", "data": [1, 2], "fromMetadata": {"n": 1}}
        assert first.take() == second.take() == [expected]
        assert ann.take() == [{"type": "ack", "requestId": "r"}]

    def test_a_direct_message_to_nobody_is_an_error(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        bob.leave()
        ann.send("bob", 1, "r")
        assert error_code(ann.take()) == "peer_not_found"

    def test_a_direct_message_ignores_the_scope_of_channels(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann", Grant(ACTIONS, ("only/this",))), Guest(hub, "bob")
        ann.send("bob", 1)
        assert bob.take() == [{"type": "direct", "from": "ann", "data": 1}]


class TestPatterns:
    def test_patterns_receive_messages_of_every_matching_channel_under_its_concrete_name(self, hub: Hub) -> None:
        backend, device = Guest(hub, "backend"), Guest(hub, "device")
        backend.subscribe("devices/*/events", "r")
        assert backend.take() == [{"type": "ack", "requestId": "r"}]
        device.publish("devices/7/events", 1)
        device.publish("devices/7/8/events", 2)
        assert [(frame["channel"], frame["data"]) for frame in backend.take()] == [("devices/7/events", 1)]

    def test_patterns_and_exact_subscriptions_deliver_once(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann", metadata={"n": 1}), Guest(hub, "bob")
        bob.subscribe("a/x")
        bob.subscribe("a/*", wants_metadata=True)
        bob.subscribe("**")
        bob.take()
        ann.publish("a/x", 1)
        (message,) = bob.take()
        assert message["fromMetadata"] == {"n": 1}

    def test_patterns_are_seen_by_nobody_and_end_with_unsubscribe(self, hub: Hub) -> None:
        ann, bob = Guest(hub, "ann"), Guest(hub, "bob")
        ann.subscribe("c")
        ann.take()
        bob.subscribe("*")
        bob.unsubscribe("*")
        bob.take()
        ann.publish("c", 1)
        assert ann.take() == bob.take() == []

    @pytest.mark.parametrize(
        ("key", "token", "asked", "granted"),
        [
            ("a/**", None, "a/*", True),
            ("a/*", None, "a/**", False),
            ("a/*", None, "*/b", False),
            ("**", ("a/*",), "a/*", True),
            ("**", ("a/*",), "**", False),
        ],
    )
    def test_patterns_are_granted_when_the_key_and_the_token_cover_them(
        self, hub: Hub, key: str, token: tuple[str, ...] | None, asked: str, granted: bool
    ) -> None:
        ann = Guest(hub, "ann", Grant(ACTIONS, (key,), None, token))
        ann.subscribe(asked, "r")
        assert (ann.take()[0]["type"] == "ack") is granted

    def test_patterns_with_an_escaped_star_are_ordinary_names(self, hub: Hub) -> None:
        ann = Guest(hub, "ann")
        ann.subscribe(r"a\*")
        assert ann.take() == [joined(r"a\*")]


class TestRefusals:
    @pytest.mark.parametrize("action", ["publish", "subscribe", "send"])
    def test_an_action_that_is_not_granted_is_refused(self, hub: Hub, action: str) -> None:
        ann = Guest(hub, "ann", Grant(ACTIONS - {action}, ("**",)))
        getattr(ann, action)("bob", request_id="r")
        assert error_code(ann.take()) == "action_not_permitted"

    def test_an_action_that_the_token_leaves_out_is_refused(self, hub: Hub) -> None:
        ann = Guest(hub, "ann", Grant(ACTIONS, ("**",), frozenset({"subscribe"})))
        ann.publish("c", request_id="r")
        assert error_code(ann.take()) == "action_not_permitted"

    @pytest.mark.parametrize("name", ["_metered/x", "_INTERNAL/x", "_System/"])
    def test_reserved_channels_are_refused_whatever_the_pattern(self, hub: Hub, name: str) -> None:
        ann = Guest(hub, "ann")
        ann.subscribe(name)
        assert error_code(ann.take()) == "channel_reserved"
        ann.publish(name)
        assert error_code(ann.take()) == "channel_reserved"

    def test_channels_out_of_the_scope_of_key_or_token_are_refused(self, hub: Hub) -> None:
        ann = Guest(hub, "ann", Grant(ACTIONS, ("a/*",), None, ("*/x",)))
        for channel, frames in (("a/x", 0), ("a/y", 1), ("b/x", 1)):
            ann.publish(channel)
            assert len(ann.take()) == frames

    def test_an_action_is_checked_before_the_name_and_the_name_before_the_scope(self, hub: Hub) -> None:
        narrow = Guest(hub, "ann", Grant(frozenset({"publish"}), ("a",)))
        narrow.subscribe("_metered/x")
        assert error_code(narrow.take()) == "action_not_permitted"
        narrow.publish("_metered/x")
        assert error_code(narrow.take()) == "channel_reserved"

    def test_refusals_echo_the_request_id_if_there_is_one(self, hub: Hub) -> None:
        ann = Guest(hub, "ann")
        ann.send("bob", 1, "r7")
        ann.send("bob", 1)
        with_id, without_id = ann.take()
        assert with_id["requestId"] == "r7"
        assert "requestId" not in without_id


def test_ping_is_answered_by_pong_with_its_request_id(hub: Hub) -> None:
    ann = Guest(hub, "ann")
    hub.handle(ann.subscriber, Ping("p"))
    hub.handle(ann.subscriber, Ping())
    assert ann.take() == [{"type": "pong", "requestId": "p"}, {"type": "pong"}]


def is_empty(hub: Hub) -> bool:
    return not (hub._peers or hub._channels or hub._patterns)


def _subscribe(channel: str) -> Any:
    return Subscribe(channel, False, "r")


def _kind(frame: bytes) -> str:
    return str(json.loads(frame)["type"])


def _note(order: list[tuple[str, bytes]], name: str) -> Any:
    return lambda frame: order.append((name, frame))
