"""The command line, as a subprocess."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from metered_realtime.cli.app import app
from metered_realtime.server.config.file import load_config

SECRET_ID, SECRET = "sk_id_test", "sk_secret_" + "t" * 40


@asynccontextmanager
async def program(
    *arguments: str, code: str | None = None, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the program, or other code, and make sure that it has ended afterwards."""
    launch = ("-m", "metered_realtime") if code is None else ("-c", code)
    before = set(threading.enumerate())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *launch,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", **environment},
    )
    watchers = {thread for thread in threading.enumerate() if thread.name.startswith("asyncio-waitpid")} - before
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        for watcher in watchers:  # their work is done, but they may still be running
            watcher.join()


async def finished(*arguments: str, code: str | None = None, **environment: str) -> tuple[int | None, str, str]:
    async with program(*arguments, code=code, **environment) as process:
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


class TestServe:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_serve_prints_one_line_of_json_serves_and_ends_cleanly_on_a_signal(
        self, number: signal.Signals
    ) -> None:
        async with program("serve", "--port", "0", "--json") as process:
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            assert list(line) == ["url", "api_key", "secret_id", "secret"]
            async with connect(f"{line['url']}/v1?key={line['api_key']}") as client:
                assert json.loads(await client.recv())["type"] == "welcome"
                process.send_signal(number)
                assert json.loads(await client.recv()) == {"type": "going_away", "retryAfterMs": 1000}
                with pytest.raises(ConnectionClosed) as caught:
                    await client.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1001
            out, err = await process.communicate()
            assert (process.returncode, out, err) == (0, b"", b"")

    async def test_serve_shows_url_keys_and_a_snippet_otherwise(self) -> None:
        keys = ("--api-key", "pk_live_mine", "--secret-id", SECRET_ID, "--secret", SECRET)
        async with program("serve", "--port", "0", *keys) as process:
            assert process.stdout is not None
            banner = (await process.stdout.readuntil(b"Ctrl-C")).decode()
            process.terminate()
            await process.wait()
        for text in ("http://127.0.0.1:", "ws://127.0.0.1:", "pk_live_mine", SECRET_ID, SECRET, "await peer.join("):
            assert text in banner

    async def test_serve_tells_where_its_metrics_are_and_logs_as_json(self) -> None:
        options = ("--metrics-port", "0", "--log-format", "json", "--verbose")
        async with program("serve", "--port", "0", "--json", *options) as process:
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            async with aiohttp.ClientSession() as session, session.get(line["metrics"]) as answer:
                assert "metered_realtime_connections" in await answer.text()
            process.terminate()
            _, err = await process.communicate()
        assert [json.loads(it)["message"] for it in err.decode().splitlines()] == ["listening", "stopped"]

    async def test_serve_logs_to_stderr_when_verbose(self) -> None:
        async with program("serve", "--port", "0", "--json", "--verbose") as process:
            assert process.stdout is not None
            await process.stdout.readline()
            process.terminate()
            out, err = await process.communicate()
        assert out == b""
        assert b"listening" in err
        assert b"loop='uvloop'" in err, "it is installed"
        assert b"sk_secret_" not in err

    async def test_serve_runs_on_the_event_loop_that_it_is_told(self) -> None:
        async with program("serve", "--port", "0", "--json", "--verbose", "--loop", "asyncio") as process:
            assert process.stdout is not None
            await process.stdout.readline()
            process.terminate()
            _, err = await process.communicate()
        assert b"loop='asyncio'" in err

    async def test_serve_without_uvloop_refuses_to_run_on_it_and_runs_on_asyncio_otherwise(self) -> None:
        code = "import sys; sys.modules['uvloop'] = None; from metered_realtime.cli.app import run; run()"
        exit_code, _, err = await finished("serve", "--port", "0", "--loop", "uvloop", code=code)
        assert exit_code == 2
        assert "metered-realtime-mesh[fast]" in " ".join(err.split())
        async with program("serve", "--port", "0", "--json", "--verbose", code=code) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            process.terminate()
            _, error = await process.communicate()
        assert b"loop='asyncio'" in error

    async def test_serve_logs_connections_and_why_somebody_was_refused_when_verbose(self) -> None:
        async with program("serve", "--port", "0", "--json", "-v") as process:
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            async with connect(f"{line['url']}/v1?key={line['api_key']}") as client:
                await client.recv()
            async with connect(f"{line['url']}/v1?key=pk_live_other") as client:
                with pytest.raises(ConnectionClosed):
                    await client.recv()
            process.terminate()
            _, err = await process.communicate()
        text = err.decode()
        assert "INFO connection opened peer=" in text
        assert "INFO connection closed code=1000 reason='by the client' peer=" in text
        assert "WARNING connection refused address='127.0.0.1' code=4001 why='the publishable key is not known'" in text
        assert line["api_key"] not in text

    async def test_serve_on_a_port_in_use_exits_with_1_and_names_the_address(self) -> None:
        async with program("serve", "--port", "0", "--json") as first:
            assert first.stdout is not None
            port = json.loads(await first.stdout.readline())["url"].rpartition(":")[2]
            code, out, err = await finished("serve", "--port", port)
        assert (code, out) == (1, "")
        assert f"127.0.0.1 port {port}" in err
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("--port", "99999"), "99999"),
            (("--port", "http"), "'http'"),
            (("--api-key", "secret"), "'secret'"),
            (("--ice-server", "http://x"), "'http://x'"),
            (("--secret-id", "sk_id_x"), "both or neither"),
            (("--colour",), "--colour"),
        ],
    )
    async def test_serve_refuses_a_bad_argument_with_exit_code_2_and_names_it(
        self, arguments: tuple[str, ...], named: str
    ) -> None:
        code, out, err = await finished("serve", *arguments)
        assert (code, out) == (2, "")
        assert named in err
        assert "Traceback" not in err


class TestServeWithAConfiguration:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "server.toml"
        path.write_text('[server]\nport = 1\n[[publishable_keys]]\nkey = "pk_live_a"\n')
        return path

    async def test_serve_with_a_configuration_takes_keys_from_the_file_and_not_from_the_environment(
        self, path: Path
    ) -> None:
        environment = {"METERED_API_KEY": "pk_live_other", "METERED_SECRET_ID": "sk_id_half"}
        async with program("serve", "--config", str(path), "--port", "0", **environment) as process:
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            assert "metered-realtime is listening on http://127.0.0.1:" in line
            url = line.split()[-1].replace("http", "ws")
            for key, expected in (("pk_live_a", True), ("pk_live_other", False)):
                async with connect(f"{url}/v1?key={key}") as client:
                    if expected:
                        assert json.loads(await client.recv())["type"] == "welcome"
                    else:
                        with pytest.raises(ConnectionClosed):
                            await client.recv()
            process.terminate()
            assert await process.wait() == 0

    @pytest.mark.parametrize(
        "option", [("--api-key", "pk_live_b"), ("--ice-server", "stun:x"), ("--public-page",), ("--tls-cert", "x")]
    )
    async def test_serve_with_a_configuration_takes_no_option_that_the_file_may_hold(
        self, path: Path, option: tuple[str, ...]
    ) -> None:
        code, out, err = await finished("serve", "--config", str(path), *option)
        assert (code, out) == (2, "")
        assert f"{option[0]} does not go with --config" in err


class TestMint:
    async def test_mint_signs_a_token_with_the_pair_from_the_environment(self) -> None:
        arguments = ("mint", "ann", "--channel", "a/*", "--permission", "send", "--peer-metadata", '{"n": 1}')
        code, out, err = await finished(*arguments, METERED_SECRET_ID=SECRET_ID, METERED_SECRET=SECRET)
        assert (code, err) == (0, "")
        claims = jwt.decode(out.strip(), SECRET, algorithms=["HS256"])
        assert (claims["sub"], claims["channels"], claims["permissions"]) == ("ann", ["a/*"], ["send"])
        assert claims["peerMetadata"] == {"n": 1}

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("é",), "'é'"),
            (("ann", "--metadata", "{"), "metadata is not JSON: '{'"),
            (("ann", "--permission", "fly"), "'fly'"),
        ],
    )
    async def test_mint_refuses_a_bad_argument_with_exit_code_2_and_names_it(
        self, arguments: tuple[str, ...], named: str
    ) -> None:
        environment = {"METERED_SECRET_ID": SECRET_ID, "METERED_SECRET": SECRET, "PYTHONUTF8": "1"}
        code, out, err = await finished("mint", *arguments, **environment)
        assert (code, out) == (2, "")
        assert named in err
        assert SECRET not in err

    async def test_mint_needs_a_secret_key(self) -> None:
        code, _, err = await finished("mint", "ann", METERED_SECRET_ID="", METERED_SECRET="")
        assert code == 2
        assert "METERED_SECRET" in err


@pytest.mark.parametrize("command", [("keys",), ("keys", "new")])
async def test_keys_prints_keys_that_a_server_takes(command: tuple[str, ...]) -> None:
    code, out, _ = await finished(*command)
    values = dict(line.split("=") for line in out.splitlines())
    assert code == 0
    assert list(values) == ["METERED_API_KEY", "METERED_SECRET_ID", "METERED_SECRET"]
    async with program("serve", "--port", "0", "--json", **values) as process:
        assert process.stdout is not None
        assert json.loads(await process.stdout.readline())["api_key"] == values["METERED_API_KEY"]


class TestKeysCreate:
    async def test_keys_create_says_of_a_publishable_key_that_it_cannot_call(self, tmp_path: Path) -> None:
        path = tmp_path / "server.toml"
        code, out, err = await finished("keys", "create", "--config", str(path), "--kind", "publishable")
        assert code == 0
        assert out.startswith("key = pk_live_")
        assert len(out.splitlines()) == 1
        assert "cannot call" in err
        assert "--for calls" in err
        assert "send" not in load_config(path).apps[0].publishable_keys[0].actions

    @pytest.mark.parametrize(("purpose", "sends"), [("calls", True), ("messages", False)])
    async def test_keys_create_makes_a_key_for_a_purpose(self, tmp_path: Path, purpose: str, sends: bool) -> None:
        path = tmp_path / "server.toml"
        arguments = ("keys", "create", "--config", str(path), "--kind", "publishable", "--for", purpose)
        code, _, err = await finished(*arguments)
        assert (code, err) == (0, "")
        actions = load_config(path).apps[0].publishable_keys[0].actions
        assert actions >= {"publish", "subscribe", "presence"}
        assert ("send" in actions) is sends

    async def test_keys_create_takes_a_purpose_or_actions(self, tmp_path: Path) -> None:
        path = tmp_path / "server.toml"
        arguments = ("--kind", "publishable", "--for", "calls", "--action", "send")
        code, _, err = await finished("keys", "create", "--config", str(path), *arguments)
        assert code == 2
        assert "give one of them" in err
        assert not path.exists()


async def test_version_is_shown() -> None:
    code, out, _ = await finished("--version")
    assert (code, out.split()[0]) == (0, "metered-realtime")


@pytest.mark.parametrize("missing", ["aiohttp", "typer", "jwt"])
async def test_without_its_dependencies_says_what_to_install(tmp_path: Path, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom metered_realtime.__main__ import main\nmain()\n"
    status, out, err = await finished("serve", code=code)
    assert (status, out) == (1, "")
    assert "pip install 'metered-realtime-mesh[cli]'" in err
    assert "Traceback" not in err


class TestTraces:
    """`serve --otel`, at a collector of the test's own."""

    async def test_traces_reach_the_collector_before_the_program_ends(self) -> None:
        received: list[bytes] = []

        async def take(request: web.Request) -> web.Response:
            received.append(await request.read())
            return web.Response()

        async with collector(take) as url:
            environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=t"}
            async with program("serve", "--port", "0", "--json", "--otel", **environment) as process:
                assert process.stdout is not None
                line = json.loads(await process.stdout.readline())
                async with connect(f"{line['url']}/v1?key={line['api_key']}") as client:
                    await client.recv()
                process.terminate()
                _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        sent = b"".join(received)
        for text in (b"connect", b"service.name", b"metered-realtime", b"deployment.environment"):
            assert text in sent
        assert line["api_key"].encode() not in sent

    async def test_a_collector_that_does_not_answer_keeps_no_program_from_ending(self) -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def hang(_: web.Request) -> web.Response:
            asked.set()
            await ended.wait()
            return web.Response()

        async with collector(hang) as url:
            environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "1"}
            async with program("serve", "--port", "0", "--json", "--otel", **environment) as process:
                assert process.stdout is not None
                line = json.loads(await process.stdout.readline())
                async with connect(f"{line['url']}/v1?key={line['api_key']}") as client:
                    await client.recv()
                await asked.wait()
                process.terminate()
                assert await process.wait() == 0  # while the request is still unanswered
            ended.set()


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--otel"])
    assert result.exit_code == 1
    assert "pip install opentelemetry-exporter-otlp-proto-grpc" in result.output


@asynccontextmanager
async def collector(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """An endpoint for OTLP over HTTP. Yields its URL."""
    application = web.Application()
    application.router.add_post("/v1/traces", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


async def test_relays_and_proxies_come_from_the_environment() -> None:
    environment = {
        "METERED_TURN_URLS": "turn:a.example,turn:b.example",
        "METERED_TURN_SECRET": "shared",
        "METERED_TRUSTED_PROXIES": "127.0.0.1,::1",
    }
    async with program("serve", "--port", "0", "--json", "-v", **environment) as process:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        headers = {"X-Forwarded-For": "198.51.100.7"}
        async with connect(f"{line['url']}/v1?key={line['api_key']}", additional_headers=headers) as client:
            (relay,) = json.loads(await client.recv())["metadata"]["iceServers"]
        process.terminate()
        _, err = await process.communicate()
    assert relay["urls"] == ["turn:a.example", "turn:b.example"]
    assert "address='198.51.100.7'" in err.decode()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--turn-url", "turn:a.example"), "--turn-secret"),
        (("--turn-secret", "shared"), "--turn-url"),
        (("--trusted-proxy", "near"), "'near'"),
        (("--otel", "--otel-frames", "2"), "from 0 to 1"),
        (("--node-id", "a b"), "'a b'"),
        (("--redis-url", "http://:hush@a"), "redis"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert named in result.output
    assert "hush" not in result.output


async def test_a_redis_that_does_not_answer_is_named_when_the_server_starts() -> None:
    code, out, err = await finished("serve", "--port", "0", METERED_REDIS_URL="redis://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "Redis does not answer" in err
    assert "Traceback" not in err
