"""The frames that other clients of the protocol rely on, on a bare WebSocket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from metered_realtime.core.wire.frames import ENVELOPE_ALLOWANCE, MAX_MESSAGE_SIZE
from metered_realtime.server import SignallingServer
from metered_realtime.server.keys import App, PublishableKey, new_publishable_key
from metered_realtime.server.limits import Limits
from tests.support.probe import Probe, dialled, key_query, welcomed
from tests.support.rest_client import backend


def ack(request_id: str = "r") -> dict[str, Any]:
    return {"type": "ack", "requestId": request_id}


async def quiet(probe: Probe) -> bool:
    """Return whether no frame waits for a client: the next one answers its ping."""
    return await probe.ask("ping") == {"type": "pong", "requestId": "r"}


class TestWelcome:
    """The first frame of every connection."""

    async def test_the_welcome_with_a_key_has_an_explicit_null_expiry_and_a_fresh_id(
        self, server: SignallingServer
    ) -> None:
        ids = set()
        for _ in range(2):
            async with dialled(server) as probe:
                welcome = await probe.get()
                assert welcome["type"] == "welcome"
                assert welcome["expiresAt"] is None
                assert isinstance(welcome["serverTime"], int)
                assert welcome["maxMessageSize"] == MAX_MESSAGE_SIZE
                ids.add(welcome["peerId"])
        assert len(ids) == 2

    async def test_the_welcome_with_a_token_has_its_subject_expiry_and_metadata(self, server: SignallingServer) -> None:
        token = server.mint_token("ann", expires_in=60, metadata={"team": "red"}, peer_metadata={"seen": "by all"})
        async with dialled(server, f"token={token}") as probe:
            welcome = await probe.get()
            assert (welcome["peerId"], welcome["metadata"]) == ("ann", {"team": "red"})
            assert 58 <= welcome["expiresAt"] - welcome["serverTime"] <= 60

    @pytest.mark.parametrize("query", ["", "key={key}&token={token}", "key={key}&key={key}", "key=", "token="])
    async def test_the_welcome_is_not_sent_unless_there_is_exactly_one_credential(
        self, server: SignallingServer, query: str
    ) -> None:
        key, token = key_query(server).removeprefix("key="), server.mint_token("ann")
        async with dialled(server, query.format(key=key, token=token)) as probe:
            assert (await probe.ending())[0] == 4001


class TestSubscribe:
    """The acknowledgement, the snapshot, then the deltas."""

    async def test_subscribe_is_answered_by_ack_snapshot_and_deltas_in_this_order(
        self, server: SignallingServer
    ) -> None:
        async with welcomed(server, "ann", peer_metadata={"n": 1}) as ann, welcomed(server, "bob") as bob:
            await ann.join("a")
            await bob.put("subscribe", channel="a", requestId="s")
            snapshot = {"type": "presence", "channel": "a", "joined": [{"peerId": "ann", "metadata": {"n": 1}}]}
            assert [await bob.get(), await bob.get()] == [ack("s"), snapshot | {"left": []}]
            delta = {"type": "presence", "channel": "a", "joined": [{"peerId": "bob"}], "left": []}
            assert await ann.get() == delta
            await bob.ask("unsubscribe", channel="a")
            assert await ann.get() == delta | {"joined": [], "left": [{"peerId": "bob"}]}

    async def test_subscribe_of_an_empty_channel_has_a_snapshot_with_both_arrays(
        self, server: SignallingServer
    ) -> None:
        async with welcomed(server, "ann") as ann:
            assert await ann.join("a") == {"type": "presence", "channel": "a", "joined": [], "left": []}

    async def test_subscribe_again_brings_the_snapshot_again_and_tells_nobody(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.join("a")
            await bob.join("a")
            await ann.get()
            assert (await bob.join("a"))["joined"] == [{"peerId": "ann"}]
            assert await quiet(ann)

    async def test_subscribe_without_presence_gets_no_presence_but_is_seen(self, server: SignallingServer) -> None:
        async with (
            welcomed(server, "ann") as ann,
            welcomed(server, "spy", permissions=["subscribe"]) as spy,
        ):
            await ann.join("a")
            assert await spy.ask("subscribe", channel="a") == ack()
            assert (await ann.get())["joined"] == [{"peerId": "spy"}]
            assert await quiet(spy)

    async def test_subscribe_to_a_pattern_brings_concrete_names_and_no_presence(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            assert await ann.ask("subscribe", channel="devices/*/events") == ack()
            await bob.ask("publish", channel="devices/7/events", data=1)
            message = {"type": "message", "channel": "devices/7/events", "from": "bob", "data": 1}
            assert await ann.get() == message
            await bob.join("devices/8/events")
            assert await quiet(ann)

    async def test_subscribe_of_two_connections_of_a_peer_is_one_presence(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.join("a")
            async with welcomed(server, "bob") as first:
                await first.join("a")
                assert (await ann.get())["joined"] == [{"peerId": "bob"}]
                async with welcomed(server, "bob") as second:
                    await second.join("a")
                assert await quiet(ann)
            assert (await ann.get())["left"] == [{"peerId": "bob"}]


class TestMessages:
    """Publications and direct messages."""

    async def test_messages_go_to_everybody_but_the_sender(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.join("a")
            await bob.join("a")
            await ann.get()
            assert await ann.ask("publish", channel="a", data={"n": [1, None, "ö"]}) == ack()
            assert await bob.get() == {"type": "message", "channel": "a", "from": "ann", "data": {"n": [1, None, "ö"]}}
            assert await quiet(ann)

    async def test_messages_need_no_subscription_of_the_sender(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("a")
            await ann.ask("publish", channel="a", data=None)
            assert await bob.get() == {"type": "message", "channel": "a", "from": "ann", "data": None}

    async def test_messages_carry_metadata_to_those_who_ask_and_directs_always(self, server: SignallingServer) -> None:
        async with (
            welcomed(server, "ann", peer_metadata={"n": 1}) as ann,
            welcomed(server, "bob") as bob,
        ):
            await bob.join("plain")
            await bob.join("rich", includeSenderMetadata=True)
            await ann.ask("publish", channel="plain", data=1)
            await ann.ask("publish", channel="rich", data=2)
            await ann.ask("send", to="bob", data=3)
            got = [await bob.get() for _ in range(3)]
            assert [frame.get("fromMetadata") for frame in got] == [None, {"n": 1}, {"n": 1}]

    async def test_messages_to_a_peer_reach_all_its_connections_in_the_order_of_sending(
        self, server: SignallingServer
    ) -> None:
        async with (
            welcomed(server, "ann") as ann,
            welcomed(server, "bob") as first,
            welcomed(server, "bob") as second,
        ):
            for n in range(100):
                await ann.put("send", to="bob", data=n)
            for bob in (first, second):
                assert [(await bob.get())["data"] for _ in range(100)] == list(range(100))

    async def test_messages_are_sent_on_byte_for_byte(self, server: SignallingServer) -> None:
        data = '{"b":1.50e3,"a":"\\u00e9", "b":2}'  # numbers, escapes, spaces and double keys as they came
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.socket.send('{"type":"send","to":"bob","data":' + data + "}")
            assert await bob.socket.recv() == '{"type":"direct","from":"ann","data":' + data + "}"

    async def test_messages_of_text_that_was_cut_within_a_character_are_sent_on(self, server: SignallingServer) -> None:
        """As `JSON.stringify` writes it in a browser, `json.dumps` in a program."""
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            assert await ann.ask("send", to="bob", data="so \ud83d") == ack()
            assert await bob.get() == {"type": "direct", "from": "ann", "data": "so \ufffd"}


class TestRequests:
    """Answers, and the request ids that they echo."""

    @pytest.mark.parametrize("request_id", ["r", "x" * 128, "ö \u2028"])
    async def test_requests_are_answered_with_their_id(self, server: SignallingServer, request_id: str) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.put("unsubscribe", channel="never subscribed", requestId=request_id)
            assert await ann.get() == ack(request_id)
            await ann.put("send", to="nobody", data=1, requestId=request_id)
            assert (await ann.get())["requestId"] == request_id
            await ann.put("ping", requestId=request_id)
            assert await ann.get() == {"type": "pong", "requestId": request_id}

    async def test_requests_without_an_id_get_no_ack_but_errors_and_pongs(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.put("unsubscribe", channel="a")
            await ann.put("publish", channel="a", data=1)
            await ann.put("ping")
            assert await ann.get() == {"type": "pong"}
            await ann.put("send", to="nobody", data=1)
            error = await ann.get()
            assert (error["code"], "requestId" in error) == ("peer_not_found", False)

    async def test_requests_may_have_fields_that_nobody_knows(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            assert await ann.ask("publish", channel="a", data=1, ttl=5, hint={"deep": []}) == ack()


class TestOddFrames:
    """Frames of unusual or almost valid JSON."""

    async def test_the_last_of_two_equal_keys_counts(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.socket.send('{"type":"dance","type":"ping","requestId":"a","requestId":"b"}')
            assert await ann.get() == {"type": "pong", "requestId": "b"}

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "01", "'x'", "1e", '"\\ud8"', "[1,]"])
    async def test_payloads_that_are_no_json_are_malformed(self, server: SignallingServer, text: str) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.socket.send('{"type":"publish","channel":"a","data":' + text + ',"requestId":"r"}')
            assert (await ann.get())["code"] == "malformed_message"
            assert await quiet(ann)

    @pytest.mark.parametrize(("depth", "code"), [(100, "peer_not_found"), (10_000, "malformed_message")])
    async def test_nesting_has_a_bound_and_costs_no_connection(
        self, server: SignallingServer, depth: int, code: str
    ) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.socket.send('{"type":"send","to":"nobody","data":' + "[" * depth + "]" * depth + "}")
            assert (await ann.get())["code"] == code
            assert await quiet(ann)

    async def test_text_that_is_no_utf8_closes_with_1007(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.socket.send(b'{"type":"ping","x":"\xff"}', text=True)
            assert (await ann.ending())[0] == 1007


class TestLimits:
    """Each limit, at its value and just beyond."""

    async def test_a_payload_at_the_cap_passes_with_the_longest_envelope(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "b" * 128) as bob:
            payload = "x" * (MAX_MESSAGE_SIZE - 2)
            assert await ann.ask("send", to="b" * 128, data=payload) == ack()
            assert (await bob.get())["data"] == payload

    async def test_a_frame_over_cap_and_envelope_closes_with_1009(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            frame = '{"type":"ping"}'.ljust(MAX_MESSAGE_SIZE + ENVELOPE_ALLOWANCE)
            await ann.socket.send(frame)
            assert await ann.get() == {"type": "pong"}
            await ann.socket.send(frame + " ")
            assert (await ann.ending())[0] == 1009

    async def test_100_channels_are_allowed_and_one_again(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            for n in range(100):
                await ann.join(f"c{n}")
            assert (await ann.ask("subscribe", channel="c100"))["code"] == "channel_limit_exceeded"
            await ann.join("c0")
            assert await ann.ask("unsubscribe", channel="c0") == ack()
            await ann.join("c100")

    async def test_channel_names_have_up_to_256_bytes(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.join("ö" * 128)
            assert (await ann.ask("subscribe", channel="ö" * 128 + "x"))["code"] == "invalid_channel"

    async def test_request_ids_have_up_to_128_characters(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.put("ping", requestId="x" * 129)
            error = await ann.get()
            assert (error["code"], "requestId" in error) == ("malformed_message", False)

    async def test_peer_ids_have_up_to_128_characters(self, server: SignallingServer) -> None:
        async with welcomed(server, "x" * 128) as ann:
            assert (await ann.ask("send", to="x" * 129, data=1))["code"] == "invalid_peer_id"

    async def test_metadata_has_up_to_8_kb_and_peer_metadata_4(self, server: SignallingServer) -> None:
        fields = {"metadata": {"m": "x" * (8_192 - 8)}, "peer_metadata": {"m": "x" * (4_096 - 8)}}
        async with welcomed(server, "ann", **fields) as ann:
            assert await quiet(ann)

    async def test_a_burst_of_200_frames_passes_and_pings_are_free(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            for n in range(300):
                await ann.put("ping", requestId=str(n))
            for _ in range(190):
                await ann.put("unsubscribe", channel="a")
            for n in range(300):
                assert (await ann.get())["requestId"] == str(n)
            assert await quiet(ann)

    async def test_beyond_the_rate_4011_and_a_fresh_bucket_with_the_next_connection(
        self, server: SignallingServer
    ) -> None:
        for _ in range(2):
            async with welcomed(server, "ann") as ann:
                try:
                    for _ in range(400):
                        await ann.put("unsubscribe", channel="a")
                except ConnectionClosed:
                    pass
                assert (await ann.ending())[0] == 4011

    async def test_60_connects_of_an_address_within_a_minute(self, server: SignallingServer) -> None:
        host, port = "127.0.0.1", server.port
        answers = []
        for _ in range(61):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /v1?key=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            answers.append((await reader.readline()).split()[1])
            writer.close()
            await writer.wait_closed()
        assert answers.count(b"429") == 1
        assert answers[-1] == b"429"

    async def test_rest_bodies_have_up_to_32_kb(self, server: SignallingServer) -> None:
        async with backend(server) as control:
            body = {"data": "x" * (32_768 - len('{"data": ""}'))}
            assert (await control.ask("POST", "/channels/a/publish", body)).status == 200
            body["data"] += "x"
            assert (await control.ask("POST", "/channels/a/publish", body)).error == (413, "invalid_request")

    def test_apps_have_up_to_50_keys(self) -> None:
        keys = tuple(PublishableKey(key=new_publishable_key()) for _ in range(51))
        App("a", keys[:50])
        with pytest.raises(ValueError, match="50"):
            App("a", keys)

    async def test_a_reader_that_stops_is_dropped_and_nobody_else_notices(self) -> None:
        limits = Limits(frames_per_second=100_000, frame_burst=100_000, outbox_size=200_000, return_time=0.01)
        async with (
            SignallingServer(limits=limits) as server,
            welcomed(server, "ann") as ann,
            welcomed(server, "bob") as bob,
            welcomed(server, "stuck", permissions=["subscribe"]) as stuck,
        ):
            for probe in (bob, stuck):
                await probe.put("subscribe", channel="a")
            await bob.get()
            stuck.socket.transport.pause_reading()
            left = None
            for n in range(400):
                await ann.put("publish", channel="a", data="x" * 60_000, requestId=str(n))
                assert await ann.get() == ack(str(n))
                frame = await bob.get()
                if frame["type"] == "presence":
                    left = frame["left"] or left
                if left:
                    break
            assert left == [{"peerId": "stuck"}]
            stuck.socket.transport.resume_reading()
