"""The WebSocket endpoint, on real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from metered_realtime.server import App, Limits, PublishableKey, SecretKey, SignallingServer, mint_token, outbox
from tests.support.patience import PATIENCE

from ..support.probe import Probe, dialled, key_query, welcomed


class Log:
    """A logger that records its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(f"{msg} {ctx}")

    info = warning = error = debug


class TestHandshake:
    async def test_the_handshake_welcomes_a_key_first_of_all(self, server: SignallingServer) -> None:
        async with dialled(server) as probe:
            welcome = await probe.get()
        assert welcome["type"] == "welcome"
        assert welcome["expiresAt"] is None
        assert abs(welcome["serverTime"] - time.time()) < 5
        assert welcome["maxMessageSize"] == 65_536
        assert "metadata" not in welcome

    async def test_the_handshake_welcomes_a_token_with_its_id_expiry_and_metadata(
        self, server: SignallingServer
    ) -> None:
        token = server.mint_token("ann", expires_in=60, metadata={"m": 1})
        async with dialled(server, f"token={token}") as probe:
            welcome = await probe.get()
        assert welcome["peerId"] == "ann"
        assert abs(welcome["expiresAt"] - time.time() - 60) < 5
        assert welcome["metadata"] == {"m": 1}

    async def test_the_handshake_takes_a_token_with_everything_at_its_cap(self, server: SignallingServer) -> None:
        claims: dict[str, Any] = {
            "metadata": {"x": "y" * 8_184},
            "peer_metadata": {"x": "y" * 4_088},
            "channels": [f"{number:0>256}" for number in range(100)],
        }
        async with welcomed(server, "x" * 128, **claims):
            pass

    @pytest.mark.parametrize("query", ["", "key=pk_live_wrong", "token=wrong", "key=", "other=1"])
    async def test_the_handshake_refuses_by_close_code_after_the_upgrade(
        self, server: SignallingServer, query: str
    ) -> None:
        async with dialled(server, query) as probe:
            assert (await probe.ending())[0] == 4001

    async def test_the_handshake_refuses_both_credentials_at_once(self, server: SignallingServer) -> None:
        async with dialled(server, f"{key_query(server)}&token={server.mint_token('ann')}") as probe:
            assert (await probe.ending())[0] == 4001

    async def test_the_handshake_refuses_an_expired_token_with_4002(self, server: SignallingServer) -> None:
        token = mint_token(
            secret_id=server.secret_id, secret=server.secret, peer_id="ann", expires_in=60, now=time.time() - 120
        )
        async with dialled(server, f"token={token}") as probe:
            assert (await probe.ending())[0] == 4002

    async def test_the_handshake_refuses_a_token_without_a_channel_with_4003(self, server: SignallingServer) -> None:
        async with dialled(server, f"token={server.mint_token('ann', channels=[])}") as probe:
            assert (await probe.ending())[0] == 4003

    async def test_the_handshake_answers_too_many_attempts_with_429_before_the_upgrade(self) -> None:
        async with (
            SignallingServer(limits=Limits(connects_per_address=2)) as server,
            aiohttp.ClientSession() as session,
        ):
            for _ in range(2):
                async with dialled(server, "key=pk_live_wrong") as probe:
                    await probe.ending()
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"{server.url}/v1?{key_query(server)}")
            assert caught.value.status == 429
            assert caught.value.headers is not None
            assert 1 <= int(caught.value.headers["Retry-After"]) <= 60

    async def test_the_handshake_does_not_compress(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            assert probe.socket.protocol.extensions == []

    async def test_the_handshake_never_logs_a_credential(self) -> None:
        log = Log()
        async with SignallingServer(logger=log) as server:
            token = server.mint_token("ann")
            for query in (f"token={token}", key_query(server)):
                async with dialled(server, query) as probe:
                    await probe.get()
                    await probe.put("nonsense")
                    await probe.socket.send(b"binary")
                    await probe.ending()
            for query in ("token=wrong", f"token={token[:-3]}"):
                async with dialled(server, query) as probe:
                    await probe.ending()
        text = "\n".join(log.lines)
        assert "connection refused" in text
        assert not any(secret in text for secret in (token, server.api_key, server.secret))

    async def test_the_handshake_of_a_key_with_origins_looks_at_the_origin(self) -> None:
        app = App("web", (PublishableKey(key="pk_live_web", allowed_origins=("https://app.example",)),))
        async with SignallingServer(apps=[app]) as server:
            async with dialled(server, "key=pk_live_web", origin="https://app.example") as probe:
                assert (await probe.get())["type"] == "welcome"
            async with dialled(server, "key=pk_live_web", origin="https://evil.example") as probe:
                assert (await probe.ending())[0] == 4001


class TestRouting:
    async def test_the_server_follows_the_worked_exchange(self, server: SignallingServer) -> None:
        async with welcomed(server, "bob", peer_metadata={"role": "host"}) as bob, welcomed(server, "ann") as ann:
            assert (await bob.join("room/7"))["joined"] == []
            assert (await ann.join("room/7"))["joined"] == [{"peerId": "bob", "metadata": {"role": "host"}}]
            assert (await bob.get())["joined"] == [{"peerId": "ann"}]
            assert await ann.ask("publish", channel="room/7", data={"n": 1}) == {"type": "ack", "requestId": "r"}
            assert await bob.get() == {"type": "message", "channel": "room/7", "from": "ann", "data": {"n": 1}}
            assert await ann.ask("send", to="bob", data=[1, 2]) == {"type": "ack", "requestId": "r"}
            assert await bob.get() == {"type": "direct", "from": "ann", "data": [1, 2]}
            await ann.put("ping")
            assert await ann.get() == {"type": "pong"}
            await ann.socket.close()
            assert await bob.get() == {
                "type": "presence",
                "channel": "room/7",
                "joined": [],
                "left": [{"peerId": "ann"}],
            }

    async def test_the_server_lets_the_key_of_the_run_do_everything(self, server: SignallingServer) -> None:
        async with welcomed(server) as ann, welcomed(server, "bob") as bob:
            assert (await ann.join("any/where"))["joined"] == []
            assert (await ann.ask("publish", channel="else/where", data=1))["type"] == "ack"
            assert (await ann.ask("send", to="bob", data=1))["type"] == "ack"
            assert (await bob.get())["type"] == "direct"

    async def test_the_server_keeps_the_order_of_directs_from_one_to_another(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            for number in range(150):
                await ann.put("send", to="bob", data=number)
            assert [(await bob.get())["data"] for _ in range(150)] == list(range(150))

    async def test_the_server_tells_the_others_when_a_socket_is_cut(self, server: SignallingServer) -> None:
        async with welcomed(server, "bob") as bob, welcomed(server, "ann") as ann:
            await bob.join("c")
            await ann.join("c")
            await bob.get()
            ann.socket.transport.abort()
            assert (await bob.get())["left"] == [{"peerId": "ann"}]

    async def test_the_server_keeps_apps_apart(self) -> None:
        secret = "sk_secret_" + "x" * 40
        other = App("other", secret_keys=(SecretKey(id="sk_id_other", secret=secret),))
        stranger = mint_token(secret_id="sk_id_other", secret=secret, peer_id="ann")
        async with (
            SignallingServer(apps=[other]) as server,
            welcomed(server, "bob") as bob,
            dialled(server, f"token={stranger}") as eve,
        ):
            await bob.join("c")
            await eve.get()
            assert (await eve.join("c"))["joined"] == []
            assert (await eve.ask("send", to="bob", data=1))["code"] == "peer_not_found"
            await eve.ask("publish", channel="c", data="secret")
            assert await bob.ask("publish", channel="d", data=1) == {"type": "ack", "requestId": "r"}

    async def test_the_server_forwards_every_kind_of_text(self, server: SignallingServer) -> None:
        data: dict[str, Any] = {"ü": "日本語 🎉", "nested": [None, True, 1e-9, {"": []}]}
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.put("send", to="bob", data=data)
            assert (await bob.get())["data"] == data

    async def test_the_server_names_ice_servers_in_the_welcome(self) -> None:
        async with SignallingServer(ice_servers=["stun:stun.example"]) as server, dialled(server) as probe:
            assert (await probe.get())["metadata"] == {"iceServers": [{"urls": "stun:stun.example"}]}


class TestAbuse:
    @pytest.mark.parametrize(
        ("text", "code", "echoes"),
        [
            ("{", "malformed_message", False),
            ("[]", "malformed_message", False),
            ('"x"', "malformed_message", False),
            ('{"type":7,"requestId":"r"}', "malformed_message", False),
            ('{"type":"publish","channel":"c","data":1,"requestId":""}', "malformed_message", False),
            ('{"type":"dance","requestId":"r"}', "unknown_type", True),
            ('{"type":"publish","channel":"c","requestId":"r"}', "missing_data", True),
            ('{"type":"publish","data":1,"requestId":"r"}', "invalid_channel", True),
            ('{"type":"send","data":1,"requestId":"r"}', "invalid_peer_id", True),
            ("[" * 30_000, "malformed_message", False),
        ],
        ids=lambda value: value[:30] if isinstance(value, str) else None,
    )
    async def test_abuse_of_the_form_is_an_error_and_the_connection_stays(
        self, server: SignallingServer, text: str, code: str, echoes: bool
    ) -> None:
        async with welcomed(server) as probe:
            await probe.socket.send(text)
            error = await probe.get()
            assert (error["type"], error["code"], error.get("requestId")) == ("error", code, "r" if echoes else None)
            await probe.put("ping")
            assert (await probe.get())["type"] == "pong"

    async def test_abuse_of_the_form_ten_times_closes_with_1008(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            for _ in range(10):
                await probe.socket.send("nonsense")
            for _ in range(10):
                assert (await probe.get())["code"] == "malformed_message"
            assert (await probe.ending())[0] == 1008

    async def test_abuse_by_a_binary_frame_closes_with_1008(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            await probe.socket.send(b'{"type":"ping"}')
            assert (await probe.ending())[0] == 1008

    async def test_abuse_by_text_that_is_not_utf8_closes_with_1007(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            await probe.socket.send(b'{"type":"publish","channel":"c","data":"\xff"}', text=True)
            assert (await probe.ending())[0] == 1007

    async def test_abuse_by_a_frame_over_the_limit_closes_with_1009(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            envelope = len('{"type":"send","to":"bob","data":""}')
            await ann.put("send", to="bob", data="x" * 65_534)
            assert len((await bob.get())["data"]) == 65_534
            await ann.socket.send(_direct("x" * (66_560 - envelope)))
            await bob.get()
            await ann.socket.send(_direct("x" * (66_561 - envelope)))
            assert (await ann.ending())[0] == 1009

    async def test_abuse_by_a_much_larger_frame_closes_with_1009_too(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            await probe.socket.send(_direct("x" * 200_000))
            assert (await probe.ending())[0] == 1009

    async def test_abuse_of_the_rate_closes_with_4011_but_pings_are_free(self) -> None:
        limits = Limits(frame_burst=5, frames_per_second=0.01)
        async with SignallingServer(limits=limits) as server, welcomed(server) as probe:
            for _ in range(20):
                await probe.put("ping")
            for _ in range(20):
                assert (await probe.get())["type"] == "pong"
            for _ in range(6):
                await probe.put("unsubscribe", channel="c", requestId="r")
            for _ in range(5):
                assert (await probe.get())["type"] == "ack"
            assert (await probe.ending())[0] == 4011

    async def test_abuse_of_the_rate_shows_its_code_even_to_a_client_that_goes_on_sending(
        self, server: SignallingServer
    ) -> None:
        async with welcomed(server) as probe:
            with pytest.raises(ConnectionClosed):
                await flood(probe)
            assert (await probe.ending())[0] == 4011

    async def test_abuse_stops_being_heard_at_once(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.socket.send(b"binary")
            await ann.put("send", to="bob", data="after")
            await ann.ending()
            await bob.put("ping")
            assert (await bob.get())["type"] == "pong"


class TestLiveness:
    @pytest.fixture
    async def hasty(self) -> AsyncIterator[SignallingServer]:
        async with SignallingServer(limits=Limits(ping_interval=1.1, pong_timeout=1.0)) as server:
            yield server

    async def test_the_server_keeps_a_client_that_answers_pings(self) -> None:
        limits = Limits(ping_interval=1.1, pong_timeout=1.0)
        async with SignallingServer(limits=limits) as server, welcomed(server) as probe:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(probe.socket.recv(), 3.0)
            assert probe.socket.state.name == "OPEN"

    async def test_the_server_drops_a_client_that_falls_silent_and_tells_the_others(
        self, hasty: SignallingServer
    ) -> None:
        async with welcomed(hasty, "bob") as bob, welcomed(hasty, "ann") as ann:
            await bob.join("c")
            await ann.join("c")
            await bob.get()
            ann.socket.transport.pause_reading()  # it no longer receives pings
            async with asyncio.timeout(PATIENCE):
                assert (await bob.get())["left"] == [{"peerId": "ann"}]
            ann.socket.transport.abort()

    async def test_the_server_answers_pings_of_the_client(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            await (await probe.socket.ping(b"payload"))

    @pytest.mark.alone
    async def test_the_server_closes_shortly_before_the_token_expires(self, server: SignallingServer) -> None:
        async with dialled(server, f"token={server.mint_token('ann', expires_in=2)}") as probe:
            expires_at = (await probe.get())["expiresAt"]
            assert (await probe.ending())[0] == 4002
            assert 0 < expires_at - time.time() < 0.5

    async def test_the_server_gives_a_token_let_in_late_the_rest_of_the_leeway(self, server: SignallingServer) -> None:
        token = mint_token(
            secret_id=server.secret_id, secret=server.secret, peer_id="ann", expires_in=1, now=time.time() - 4
        )
        async with dialled(server, f"token={token}") as probe:
            await probe.get()
            assert (await probe.ask("subscribe", channel="c"))["type"] == "ack"
            assert (await probe.ending())[0] == 4002


class TestJoinedWrites:
    async def test_messages_that_arrive_together_are_written_together_in_order(
        self, server: SignallingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await bob.join("c")
            written: list[bytes] = []
            os_write = os.write
            monkeypatch.setattr(outbox.os, "write", lambda fd, data: written.append(data) or os_write(fd, data))
            publications = [
                json.dumps({"type": "publish", "channel": "c", "data": number}).encode() for number in range(6)
            ]
            ann.socket.transport.write(b"".join(bytes([0x81, 0x80 | len(it)]) + bytes(4) + it for it in publications))
            assert [(await bob.get())["data"] for _ in publications] == list(range(6))
            monkeypatch.undo()
        counts = [count for data in written if (count := data.count(b'"type":"message"'))]
        assert sum(counts) == 6
        assert len(counts) <= 2, "the first at once, the others at the end of the turn"


class TestSlowClients:
    async def test_slow_clients_are_dropped_when_their_outbox_is_full_and_nobody_else_notices(self) -> None:
        log = Log()
        limits = Limits(outbox_size=100_000, frame_burst=10_000, frames_per_second=10_000.0, return_time=0.01)
        async with SignallingServer(limits=limits, logger=log) as server, welcomed(server, "ann") as ann:
            await ann.join("c")
            async with welcomed(server, "bob") as bob, slow_client(server) as slow:
                await bob.join("c")
                await ann.get()
                await slow.join("c")
                await ann.get()
                slow.socket.transport.pause_reading()
                frame = await publish_until_left(ann)
                assert frame["left"] == [{"peerId": "slow"}]
                received = 0
                await ann.put("send", to="bob", data="end")
                while (await bob.get())["type"] != "direct":
                    received += 1
                assert received > 1
                slow.socket.transport.abort()
        assert any("outbox full" in line for line in log.lines)


def _direct(data: str) -> str:
    return json.dumps({"type": "send", "to": "bob", "data": data}, separators=(",", ":"))


async def flood(probe: Probe) -> None:
    """Publish without a pause until the connection ends."""
    while True:
        await probe.put("publish", channel="c", data="x" * 1_000)


async def publish_until_left(ann: Probe) -> dict[str, Any]:
    """Publish large messages, with short pauses, until a peer leaves."""
    for _ in range(1_000):
        frame = await ann.ask("publish", channel="c", data="x" * 60_000)
        if frame["type"] == "presence":
            return frame
    raise AssertionError("nobody was dropped")


@asynccontextmanager
async def slow_client(server: SignallingServer) -> AsyncIterator[Probe]:
    """Connect with a small receive buffer, so that the kernel buffers little."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    small.connect(("127.0.0.1", server.port))
    async with dialled(server, f"token={server.mint_token('slow')}", sock=small, max_queue=1) as probe:
        await probe.get()
        yield probe
