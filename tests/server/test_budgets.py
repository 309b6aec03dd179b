"""Limits on the cost of a client: bytes, pings, snapshots, deliveries and patterns, without sockets."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from msgspec import Raw

from metered_realtime.core.wire.frames import FrameError, Ping, Refresh, decode_client_frame
from metered_realtime.core.wire.patterns import MAX_WILDCARDS
from metered_realtime.core.wire.surrogates import MAX_LONE_HALVES
from metered_realtime.server.engine.contract import EngineError, Envelope
from metered_realtime.server.frame_intake import Close, FrameIntake
from metered_realtime.server.hub import Hub, Identity
from metered_realtime.server.limits import Limits
from metered_realtime.server.rights import ACTIONS, Grant
from metered_realtime.server.routing import PatternTable

from ..support.probe import EVERYTHING, Guest, lone_hub

BLIND = Grant(ACTIONS - {"presence"}, ("**",))
"""Rights of members without presence, so that many can be created quickly."""

JUNK = "[" + ",".join(["[]"] * 20_000) + "]"
SDP_SIZE = 40_000


class Client:
    """A guest whose frames are checked like those of a connection."""

    def __init__(self, hub: Hub, peer_id: str, limits: Limits | None = None, **options: Any) -> None:
        self.guest = Guest(hub, peer_id, **options)
        self.intake = FrameIntake(hub, self.guest.subscriber, limits or Limits(), 0.0)

    def put(self, now: float = 0.0, /, **fields: Any) -> Close | Refresh | None:
        return self.intake.handle_frame(json.dumps(fields, separators=(",", ":")).encode(), now)

    def puts(self, count: int, now: float = 0.0, /, **fields: Any) -> int:
        """Send a frame `count` times. Return how many were accepted before a close."""
        for number in range(count):
            if self.put(now, **fields) is not None:
                return number
        return count


@pytest.fixture
def hub() -> Hub:
    return lone_hub()


def filled(hub: Hub, channel: str, members: int, metadata_size: int = 0, grant: Grant = BLIND) -> list[Guest]:
    metadata = {"x": "y" * metadata_size} if metadata_size else None
    guests = [Guest(hub, f"{channel}-{number}", grant, metadata) for number in range(members)]
    for guest in guests:
        guest.subscribe(channel)
        guest.take()
    return guests


class TestFieldsThatAFrameDoesNotUse:
    @pytest.mark.parametrize("field", ["channel", "to", "data", "token", "includeSenderMetadata", "other"])
    def test_unused_fields_are_not_decoded(self, field: str) -> None:
        text = f'{{"type":"ping","{field}":{JUNK}}}'.encode()
        tracemalloc.start()
        try:
            assert decode_client_frame(text) == Ping()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(text)  # 20,000 lists have 1.2 MB

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (f'{{"type":{JUNK}}}', "malformed_message"),
            (f'{{"type":"ping","requestId":{JUNK}}}', "malformed_message"),
            (f'{{"type":"subscribe","channel":{JUNK}}}', "invalid_channel"),
            (f'{{"type":"send","to":{JUNK},"data":1}}', "invalid_peer_id"),
            (f'{{"type":"subscribe","channel":"c","includeSenderMetadata":{JUNK}}}', "malformed_message"),
            (f'{{"type":"refresh","token":{JUNK}}}', "malformed_message"),
        ],
        ids=lambda value: value[:30],
    )
    def test_fields_of_another_type_are_not_decoded_either(self, text: str, code: str) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(FrameError) as caught:
                decode_client_frame(text)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert caught.value.code == code
        assert peak < 3 * len(text)

    def test_a_name_may_have_a_replacement_character_and_no_lone_half(self) -> None:
        frame = decode_client_frame('{"type":"subscribe","channel":"a\ufffd"}')
        assert getattr(frame, "channel", None) == "a\ufffd"
        with pytest.raises(FrameError, match="JSON"):
            decode_client_frame(r'{"type":"send","to":"\ud83d","data":1}')

    def test_lone_halves_are_mended_in_a_bounded_number(self) -> None:
        frame = r'{"type":"send","to":"ann","data":"%s"}'
        decode_client_frame(frame % (r"\ud83d" * MAX_LONE_HALVES))
        with pytest.raises(FrameError):
            decode_client_frame(frame % (r"\ud83d" * (MAX_LONE_HALVES + 1)))


class TestBytes:
    def test_bytes_are_enough_for_descriptions_at_the_rate_of_frames(self, hub: Hub) -> None:
        ann, _ = Client(hub, "ann"), Guest(hub, "bob")
        offer = {"type": "send", "to": "bob", "data": "x" * SDP_SIZE, "requestId": "r"}
        assert ann.puts(200, **offer) == 200
        for tick in range(1, 1_001):
            assert ann.put(tick / 99, **offer) is None

    def test_bytes_are_enough_for_an_offer_with_candidates_to_each_of_a_full_channel(self, hub: Hub) -> None:
        ann, _ = Client(hub, "ann"), Guest(hub, "bob")
        for tick in range(255 * 20):
            size = SDP_SIZE if tick % 20 == 0 else 200
            assert ann.put(tick / 99, type="send", to="bob", data="x" * size) is None

    def test_bytes_beyond_the_bucket_end_the_connection_before_the_frame_is_decoded(self, hub: Hub) -> None:
        ann, bob = Client(hub, "ann"), Guest(hub, "bob")
        taken = ann.puts(200, type="send", to="bob", data="x" * 65_000)
        assert 100 < taken < 130
        assert len(bob.take()) == taken
        assert ann.intake.handle_frame(b"nonsense" * 8_000, 0.0) == Close(4011, "byte rate exceeded")
        assert ann.guest.frames == []

    def test_bytes_count_for_pings_and_malformed_frames_too(self, hub: Hub) -> None:
        pinging, raving = Client(hub, "ann"), Client(hub, "bob", Limits(malformed_frames=1_000))
        assert pinging.puts(200, type="ping", data="x" * 65_000) < 130
        outcomes = [raving.intake.handle_frame(b"[" * 65_000, 0.0) for _ in range(200)]
        assert Close(4011, "byte rate exceeded") in outcomes[:130]

    def test_bytes_grow_with_the_rate_of_frames(self) -> None:
        limits = Limits(frames_per_second=1_000.0, frame_burst=2_000, bytes_per_frame=1_000)
        assert (limits.bytes_per_second, limits.byte_burst) == (1_000_000, 2_000_000)
        assert Limits(frame_burst=1, bytes_per_frame=1).byte_burst == limits.max_frame_size


class TestPings:
    def test_pings_have_a_bucket_of_their_own(self, hub: Hub) -> None:
        ann = Client(hub, "ann")
        assert ann.puts(500, type="ping") == 500
        assert ann.puts(200, type="unsubscribe", channel="c") == 200
        assert ann.put(type="ping") == Close(4011, "ping rate exceeded")

    def test_pings_are_free_again_after_a_while(self, hub: Hub) -> None:
        ann = Client(hub, "ann", Limits(ping_burst=1, pings_per_second=1.0))
        assert ann.put(type="ping") is None
        assert ann.put(1.0, type="ping") is None
        assert ann.put(1.5, type="ping") is not None

    def test_pings_of_websocket_itself_count_too(self, hub: Hub) -> None:
        ann = Client(hub, "ann", Limits(ping_burst=2, pings_per_second=0.001))
        assert ann.put(type="ping") is None
        assert ann.intake.count_control_frame(0.0) is None
        assert ann.intake.count_control_frame(0.0) == Close(4011, "ping rate exceeded")


class TestSnapshots:
    def test_snapshots_of_a_first_subscription_are_free_however_large(self, hub: Hub) -> None:
        members = [Guest(hub, f"m{number}", BLIND, {"x": "y" * 4_000}) for number in range(60)]
        for guest in members:
            for channel in range(100):
                guest.subscribe(f"c{channel}")
        ann = Client(hub, "ann")
        for channel in range(100):
            assert ann.put(type="subscribe", channel=f"c{channel}", requestId="r") is None
        assert sum(map(len, ann.guest.raw)) > 2 * Limits().byte_burst

    @pytest.mark.parametrize("way", [["subscribe"], ["unsubscribe", "subscribe"]], ids=["again", "leaving first"])
    def test_snapshots_of_another_one_are_paid_for(self, hub: Hub, way: list[str]) -> None:
        filled(hub, "c", 230, 4_000)
        ann, closed = Client(hub, "ann"), None
        ann.put(type="subscribe", channel="c")
        size = len(ann.guest.raw[-1])
        assert size > 900_000
        ann.guest.take()
        for kind in way * 50:
            closed = closed or ann.put(type=kind, channel="c")
        assert closed == Close(4011, "byte rate exceeded")
        assert len(ann.guest.raw) <= Limits().byte_burst // size + 1

    def test_snapshots_may_be_asked_for_again_now_and_then(self, hub: Hub) -> None:
        filled(hub, "c", 230, 4_000)
        ann = Client(hub, "ann")
        for second in range(60):
            assert ann.put(float(second), type="subscribe", channel="c") is None

    def test_snapshots_beyond_as_many_channels_as_one_may_hold_are_paid_for(self) -> None:
        hub = lone_hub(Limits(channels_per_connection=2))
        filled(hub, "c", 10, 4_000)
        ann = Client(hub, "ann")
        for channel in ("a", "b"):
            ann.put(type="subscribe", channel=channel)
            ann.put(type="unsubscribe", channel=channel)
        ann.guest.subscriber.collect_charges()
        ann.put(type="subscribe", channel="c")
        assert ann.guest.subscriber.charges > 40_000

    def test_snapshots_of_a_refresh_are_paid_for(self, hub: Hub) -> None:
        filled(hub, "c", 230, 4_000)
        ann = Client(hub, "ann")
        ann.put(type="subscribe", channel="c")
        for grant in (BLIND, EVERYTHING):
            hub.refresh(ann.guest.subscriber, Identity("ann", grant), "r")
        assert ann.guest.subscriber.charges > 900_000

    def test_snapshots_that_are_too_large_are_never_written_with_metadata(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        from metered_realtime.server.hub import writer as module

        encode = module.encode
        monkeypatch.setattr(module, "encode", lambda frame: sizes.append(len(encoded := encode(frame))) or encoded)
        filled(hub, "c", 600, 4_000)
        Guest(hub, "ann").subscribe("c")
        assert max(sizes) < 1_048_576  # 600 times 4 KB are 2.4 MB


class TestDeliveries:
    def test_deliveries_of_small_messages_to_256_members_go_at_the_rate_of_frames(self, hub: Hub) -> None:
        filled(hub, "c", 256)
        ann = Client(hub, "ann")
        assert ann.puts(200, type="publish", channel="c", data="x" * 200) == 200
        for tick in range(1, 301):
            assert ann.put(tick / 99, type="publish", channel="c", data="x" * 200) is None

    def test_deliveries_of_large_messages_to_many_are_bounded(self, hub: Hub) -> None:
        members = filled(hub, "c", 256)
        ann = Client(hub, "ann")
        taken = ann.puts(100, type="publish", channel="c", data="x" * 65_000)
        assert 10 < taken < 20  # 256 times 65 KB are 16 MB
        assert len(members[0].raw) == taken

    def test_deliveries_of_presence_are_bounded(self) -> None:
        limits = Limits(frames_per_second=1e6, frame_burst=10**6, bytes_per_frame=1)  # of bytes alone, 1 MB
        hub = lone_hub(limits)
        members = filled(hub, "c", 100, grant=EVERYTHING)
        ann = Client(hub, "ann", limits)
        for guest in members:
            guest.take()
        for _ in range(1_000):
            if ann.put(type="subscribe", channel="c") or ann.put(type="unsubscribe", channel="c"):
                break
        assert len(members[0].raw) < 300

    def test_deliveries_to_many_connections_of_one_peer_are_paid_for(self, hub: Hub) -> None:
        for _ in range(100):
            Guest(hub, "bob")
        ann = Client(hub, "ann")
        ann.put(type="send", to="bob", data=1)
        assert ann.guest.subscriber.charges >= 6_336

    def test_deliveries_of_a_backend_are_not_counted(self, hub: Hub) -> None:
        guests = filled(hub, "c", 2)
        outcomes: list[int | EngineError] = []
        hub.publish("c", Envelope("system", Raw(b"1")), outcomes.append)
        assert outcomes == [2]
        assert guests[0].subscriber.charges == 0


class TestPatterns:
    def error(self, client: Client, pattern: str) -> str | None:
        client.guest.take()
        assert client.put(type="subscribe", channel=pattern, requestId="r") is None
        return client.guest.frames[0].get("code")

    def test_patterns_have_a_bounded_number_of_wildcards(self, hub: Hub) -> None:
        ann = Client(hub, "ann")
        assert self.error(ann, "*a" * MAX_WILDCARDS) is None
        assert self.error(ann, "*a" * MAX_WILDCARDS + "*") == "invalid_channel"
        assert self.error(ann, "a\\*" * 50) is None  # no wildcards

    def test_patterns_are_bounded_per_connection(self) -> None:
        ann = Client(lone_hub(Limits(patterns_per_connection=2)), "ann")
        assert [self.error(ann, name) for name in ("a*", "b*", "c", "d*")] == [
            None,
            None,
            None,
            "channel_limit_exceeded",
        ]
        assert self.error(ann, "a*") is None
        ann.put(type="unsubscribe", channel="a*")
        assert self.error(ann, "d*") is None

    def test_patterns_are_bounded_per_app_which_shares_equal_ones(self) -> None:
        hub = lone_hub(Limits(patterns_per_app=2))
        ann, bob = Client(hub, "ann"), Client(hub, "bob")
        assert [self.error(ann, name) for name in ("a*", "b*", "c*")] == [None, None, "channel_limit_exceeded"]
        assert [self.error(bob, name) for name in ("a*", "c*")] == [None, "channel_limit_exceeded"]
        ann.guest.leave()
        assert self.error(bob, "c*") is None

    def test_patterns_cost_who_subscribes_to_them(self, hub: Hub) -> None:
        ann = Client(hub, "ann")
        taken = ann.puts(200, type="subscribe", channel="a*")
        assert 100 < taken < 150

    def test_patterns_are_compared_only_with_names_that_begin_like_them(self, hub: Hub) -> None:
        table, guest = PatternTable(), Guest(hub, "ann").subscriber
        for number in range(200):
            table.add(f"user/{number}/**", guest, False)
        table.add("**/log", guest, False)
        assert table.comparisons("user/7/x") == 2
        assert table.comparisons("other") == 1
        assert table.receivers("user/7/x", {}) == {guest: False}
        assert table.comparisons("user/7/x") == 0  # remembered
        assert table.receivers("other", {}) == {}
        for number in range(200):
            table.remove(f"user/{number}/**", guest)
        assert (table.comparisons("user/7/x"), len(table)) == (1, 1)

    def test_patterns_cost_who_publishes_under_a_new_name(self, hub: Hub) -> None:
        ann = Client(hub, "ann")
        for number in range(10):
            Client(hub, f"p{number}").put(type="subscribe", channel=f"*{number}")
        ann.put(type="publish", channel="x", data=1)
        first = ann.guest.subscriber.collect_charges()
        ann.put(type="publish", channel="x", data=1)
        assert (first, ann.guest.subscriber.charges) == (5_120, 0)


class TestStopping:
    def test_while_stopping_no_presence_is_sent(self, hub: Hub) -> None:
        ann, bob, eve = (Guest(hub, name) for name in ("ann", "bob", "eve"))
        for guest in (ann, bob, eve):
            guest.subscribe("c")
        for guest in (ann, bob, eve):
            guest.take()
        hub.fall_silent()
        bob.leave()
        eve.unsubscribe("c")
        assert ann.take() == []
