"""Starting and stopping the server, and its properties."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from metered_realtime.server import SignallingServer
from tests.support.patience import takes_less_than

from ..support.probe import dialled, welcomed


class TestStart:
    async def test_starting_takes_a_free_port_and_knows_its_urls(self, server: SignallingServer) -> None:
        assert server.port > 0
        assert server.url == f"ws://127.0.0.1:{server.port}"
        assert server.http_url == f"http://127.0.0.1:{server.port}"

    async def test_starting_makes_keys_for_the_run(self, server: SignallingServer) -> None:
        assert server.api_key.startswith("pk_live_")
        assert len(server.api_key) == 48
        assert server.secret_id.startswith("sk_id_")
        assert server.secret.startswith("sk_secret_")
        assert server.secret not in repr(server)
        assert server.api_key not in repr(server)

    async def test_starting_uses_the_keys_it_is_given(self) -> None:
        secret = "sk_secret_" + "s" * 40
        async with SignallingServer(api_key="pk_live_mine", secret_id="sk_id_mine", secret=secret) as server:
            assert (server.api_key, server.secret_id, server.secret) == ("pk_live_mine", "sk_id_mine", secret)
            async with welcomed(server), welcomed(server, "ann"):
                pass

    async def test_starting_on_a_port_in_use_raises_an_error_that_names_the_address(
        self, server: SignallingServer
    ) -> None:
        second = SignallingServer(port=server.port)
        with pytest.raises(OSError, match=f"127.0.0.1 port {server.port}") as caught:
            await second.start()
        assert caught.value.errno == errno.EADDRINUSE
        await second.stop()

    async def test_starting_twice_does_nothing(self, server: SignallingServer) -> None:
        port = server.port
        await server.start()
        assert server.port == port

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"port": 70_000}, "70000"),
            ({"port": -1}, "-1"),
            ({"api_key": "nonsense"}, "'nonsense'"),
            ({"secret_id": "sk_id_x"}, "both or neither"),
            ({"secret_id": "nonsense", "secret": "sk_secret_" + "x" * 40}, "'nonsense'"),
            ({"secret_id": "", "secret": ""}, "secret_id"),
            ({"ice_servers": ["http://x"]}, "'http://x'"),
        ],
    )
    def test_starting_needs_good_arguments_and_names_bad_ones(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            SignallingServer(**options)

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("0.0.0.0", "ws://127.0.0.1:7"),
            ("::", "ws://[::1]:7"),
            ("::1", "ws://[::1]:7"),
            ("a.example", "ws://a.example:7"),
        ],
    )
    def test_starting_gives_a_url_that_can_be_connected_to(self, host: str, url: str) -> None:
        assert SignallingServer(host, 7).url == url

    async def test_a_server_on_loopback_is_reached_by_name_too(self, server: SignallingServer) -> None:
        _, writer = await asyncio.open_connection("localhost", server.port)
        writer.close()
        await writer.wait_closed()


class TestStop:
    async def test_stopping_says_going_away_and_closes_with_1001(self, server: SignallingServer) -> None:
        async with welcomed(server) as one, welcomed(server) as two:
            stopping = asyncio.create_task(server.stop())
            for probe in (one, two):
                assert await probe.get() == {"type": "going_away", "retryAfterMs": 1000}
                assert (await probe.ending())[0] == 1001
            await stopping

    async def test_stopping_sends_no_presence(self, server: SignallingServer) -> None:
        async with AsyncExitStack() as stack:
            probes = [await stack.enter_async_context(welcomed(server, f"p{number}")) for number in range(8)]
            for index, probe in enumerate(probes):
                await probe.join("c")
                for other in probes[:index]:
                    assert (await other.get())["joined"] == [{"peerId": f"p{index}"}]
            stopping = asyncio.create_task(server.stop())
            for probe in probes:
                assert await probe.get() == {"type": "going_away", "retryAfterMs": 1000}
                with pytest.raises(ConnectionClosed) as caught:
                    await probe.socket.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1001
            await stopping

    async def test_stopping_does_not_wait_for_clients_that_do_not_answer(self, server: SignallingServer) -> None:
        async with welcomed(server) as silent:
            silent.socket.transport.pause_reading()
            _, idle = await asyncio.open_connection("127.0.0.1", server.port)
            half, half_writer = await asyncio.open_connection("127.0.0.1", server.port)
            half_writer.write(b"GET /healthz HT")
            async with takes_less_than(2):
                await server.stop()
            silent.socket.transport.abort()
            for writer in (idle, half_writer):
                writer.close()
                await writer.wait_closed()
            assert await half.read() == b""

    async def test_stopping_twice_or_at_the_same_time_is_one_stop(self, server: SignallingServer) -> None:
        async with welcomed(server):
            await asyncio.gather(server.stop(), server.stop())
        await server.stop()

    async def test_stopping_without_a_start_does_nothing(self) -> None:
        await SignallingServer().stop()

    async def test_stopping_goes_on_when_its_caller_is_cancelled(self, server: SignallingServer) -> None:
        async with welcomed(server) as probe:
            stopping = asyncio.create_task(server.stop())
            await probe.get()
            stopping.cancel()
            assert (await probe.ending())[0] == 1001
        await server.stop()

    async def test_stopping_frees_the_port_for_a_new_start(self, server: SignallingServer) -> None:
        url = server.url
        await server.stop()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0
        await server.start()
        assert server.url == url
        async with welcomed(server, "ann"):
            pass

    async def test_a_restart_begins_with_empty_channels(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as ann:
            await ann.join("c")
            await server.stop()
            await server.start()
            async with welcomed(server, "bob") as bob:
                assert (await bob.join("c"))["joined"] == []

    async def test_stopping_by_leaving_the_block_on_an_error_still_closes(self) -> None:
        server = SignallingServer()
        with pytest.raises(RuntimeError, match="boom"):
            async with server:
                raise RuntimeError("boom")
        with pytest.raises(OSError):  # noqa: PT011 - whatever the platform calls it
            async with dialled(server):
                pass
