"""The guarantees of the hub hold for any frames in any order."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from metered_realtime.core.wire.patterns import is_pattern
from metered_realtime.server.frame_intake import FrameIntake
from metered_realtime.server.hub import Identity
from metered_realtime.server.limits import Limits
from metered_realtime.server.rights import ACTIONS, Grant

from ..support.probe import Guest, lone_hub

PEERS = ("ann", "bob", "eve")
CHANNELS = ("a", "a/x", "a/y", "b", "_metered/x", "a/*", "**", "", "x" * 300, "\x07", "é")
GRANTS = (
    Grant(ACTIONS, ("**",)),
    Grant(ACTIONS - {"presence"}, ("**",)),
    Grant(ACTIONS - {"send"}, ("a/*", "b")),
    Grant(ACTIONS, ("**",), frozenset({"subscribe", "presence"}), ("a/**",)),
)

channels = st.sampled_from(CHANNELS)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
well_formed = st.one_of(
    st.fixed_dictionaries({"type": st.just("subscribe"), "channel": channels, "includeSenderMetadata": st.booleans()}),
    st.fixed_dictionaries({"type": st.just("unsubscribe"), "channel": channels}),
    st.fixed_dictionaries({"type": st.just("publish"), "channel": channels, "data": anything}),
    st.fixed_dictionaries({"type": st.just("send"), "to": st.sampled_from((*PEERS, "nobody", "")), "data": anything}),
    st.fixed_dictionaries({"type": st.just("ping")}),
)
ill_formed = st.dictionaries(
    st.sampled_from(("type", "channel", "to", "data", "includeSenderMetadata", "other")),
    anything | st.sampled_from(("subscribe", "publish", "send", "ping", "dance", "a")),
)


class HubMachine(RuleBasedStateMachine):
    """Drives a hub with valid and invalid frames, and checks each client's view of the world."""

    guests = Bundle("guests")

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(channels_per_connection=4, frames_per_second=1e9, frame_burst=10**9)
        self.hub = lone_hub(limits)
        self.limits = limits
        self.live: dict[Guest, FrameIntake] = {}
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.rosters: dict[Guest, dict[str, set[str]]] = {}
        self.sent = 0

    @rule(target=guests, peer_id=st.sampled_from(PEERS), grant=st.sampled_from(GRANTS), tagged=st.booleans())
    def connect(self, peer_id: str, grant: Grant, tagged: bool) -> Guest:
        guest = Guest(self.hub, peer_id, grant, {"name": peer_id} if tagged else None)
        self.live[guest] = FrameIntake(self.hub, guest.subscriber, self.limits, 0.0)
        self.rosters[guest] = {}
        return guest

    @rule(guest=consumes(guests))
    def disconnect(self, guest: Guest) -> None:
        guest.leave()
        assert guest.take() == []
        del self.live[guest], self.rosters[guest]
        self.observe()

    @rule(target=guests, old=consumes(guests), grant=st.sampled_from(GRANTS))
    def resume(self, old: Guest, grant: Grant) -> Guest:
        names = old.subscriber.places | {it for it in old.subscriber.subscriptions if not is_pattern(it)}
        keeps_all = len(names) <= 4 and grant.permits("subscribe") and all(map(grant.reaches, names))
        heir = Guest(self.hub, old.peer_id, grant, replaced=[old])
        self.live[heir] = FrameIntake(self.hub, heir.subscriber, self.limits, 0.0)
        self.rosters[heir] = {}
        del self.live[old], self.rosters[old]
        assert not (keeps_all and any(guest.frames for guest in self.live))
        old.leave()
        assert old.take() == []
        self.observe()
        return heir

    @rule(guest=guests)
    def release(self, guest: Guest) -> None:
        self.hub.release(guest.subscriber)
        assert not guest.subscriber.places
        self.observe()

    @rule(guest=guests, frame=well_formed | ill_formed, with_id=st.booleans())
    def frame(self, guest: Guest, frame: dict[str, Any], with_id: bool) -> None:
        self.sent += 1
        request_id = f"{self.sent}"
        if with_id:
            self.asked[request_id] += 1
            frame = {**frame, "requestId": request_id}
        if frame.get("type") == "unsubscribe":
            self.rosters[guest].pop(frame["channel"], None)
        self.live[guest].handle_frame(json.dumps(frame).encode(), now=float(self.sent) * 100)
        if with_id and not isinstance(frame.get("type"), str):  # malformed: the id is not echoed
            self.answered[request_id] += 1
        self.observe()

    @rule(guest=guests, grant=st.sampled_from(GRANTS), with_id=st.booleans())
    def refresh(self, guest: Guest, grant: Grant, with_id: bool) -> None:
        self.sent += 1
        request_id = f"{self.sent}" if with_id else None
        self.asked.update([request_id] if request_id else [])
        self.hub.refresh(guest.subscriber, Identity(guest.peer_id, grant), request_id)
        for channel in tuple(self.rosters[guest]):
            if channel not in guest.subscriber.subscriptions or not grant.permits("presence"):
                del self.rosters[guest][channel]  # an error said so, or presence has ended
        self.observe()

    @rule(guest=guests, text=st.binary(max_size=12))
    def noise(self, guest: Guest, text: bytes) -> None:
        self.sent += 1
        self.live[guest].handle_frame(text, now=float(self.sent) * 100)
        self.observe()

    def observe(self) -> None:
        """Let all clients process their frames."""
        for guest in self.live:
            for frame in guest.take():
                assert frame["type"] in ("ack", "error", "presence", "message", "direct", "pong")
                if frame["type"] in ("ack", "error", "pong") and "requestId" in frame:
                    self.answered[frame["requestId"]] += 1
                elif frame["type"] == "presence":
                    self.note_presence(guest, frame)
                elif frame["type"] == "message":
                    assert frame["from"] != guest.peer_id

    def note_presence(self, guest: Guest, frame: dict[str, Any]) -> None:
        roster = self.rosters[guest]
        arriving = {entry["peerId"] for entry in frame["joined"]}
        leaving = {entry["peerId"] for entry in frame["left"]}
        assert guest.peer_id not in arriving | leaving
        known = roster.get(frame["channel"])
        if known is None or (not leaving and arriving >= known and arriving & known):
            roster[frame["channel"]] = arriving  # a snapshot: the first, or after a repeated subscribe
            assert not leaving
        else:
            assert not arriving & known
            assert leaving <= known
            roster[frame["channel"]] = (known | arriving) - leaving

    @invariant()
    def every_request_is_answered_exactly_once(self) -> None:
        assert self.answered == self.asked

    @invariant()
    def what_a_client_knows_is_what_is(self) -> None:
        for guest, roster in self.rosters.items():
            for channel, known in roster.items():
                channel = self.hub._channels[channel]
                assert known == set(channel.peers) - {guest.peer_id}

    @invariant()
    def nothing_outlives_its_connection(self) -> None:
        subscribers = {guest.subscriber for guest in self.live}
        assert {one for many in self.hub._peers.values() for one in many} == subscribers
        for name, channel in self.hub._channels.items():
            assert channel.peers
            present = {one for many in channel.peers.values() for one in many}
            assert set(channel.subscribers) == {one for one in present if name in one.subscriptions}
            assert present - set(channel.subscribers) == {one for one in subscribers if name in one.places}
            assert present <= subscribers
        assert all(len(one.subscriptions) <= 4 and len(one.places) <= 4 for one in subscribers)
        assert not any(one.subscriptions & one.places for one in subscribers)

    @invariant()
    def every_subscription_is_granted(self) -> None:
        for guest in self.live:
            grant = guest.subscriber.grant
            for name in guest.subscriber.subscriptions:
                assert grant.permits("subscribe")
                assert (grant.covers if is_pattern(name) else grant.reaches)(name)

    def teardown(self) -> None:
        for guest in self.live:
            guest.leave()
        assert not any((self.hub._peers, self.hub._channels, self.hub._patterns))


TestHub = HubMachine.TestCase
TestHub.settings = settings(max_examples=60, stateful_step_count=40)
