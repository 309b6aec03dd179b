"""A new configuration for a running server: which connections stay, with which rights, and which are closed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from websockets.asyncio.client import connect

from metered_realtime.log import StdlibLogger
from metered_realtime.server import SignallingServer
from metered_realtime.server.auth import mint_token
from metered_realtime.server.config.file import parse_config
from tests.support.patience import PATIENCE

from ...cli.test_serve import program
from ...support.probe import Probe, dialled
from ..test_tls import self_signed

SECRET = "sk_secret_" + "s" * 40
PATH = Path("server.toml")


def text(*, publishable: str = "", secret: str = "", rest: str = "", value: str = SECRET) -> str:
    return (
        f'{rest}\n[[publishable_keys]]\nkey = "pk_live_a"\n{publishable}\n'
        f'[[secret_keys]]\nid = "sk_id_a"\nsecret = "{value}"\n{secret}\n'
    )


def token(peer_id: str, **claims: Any) -> str:
    return "token=" + mint_token(secret_id="sk_id_a", secret=SECRET, peer_id=peer_id, **claims)


@pytest.fixture
async def configured() -> AsyncIterator[SignallingServer]:
    async with SignallingServer.from_config(parse_config(text(), PATH), port=0) as running:
        yield running


def reload(server: SignallingServer, **changes: str) -> None:
    server.reload(parse_config(text(**changes), PATH))


async def answers(probe: Probe) -> bool:
    await probe.put("ping")
    return (await probe.get())["type"] == "pong"


async def next_of(probe: Probe, type: str) -> dict[str, Any]:
    """Return the next frame of a type, skipping others."""
    while (frame := await probe.get())["type"] != type:
        pass
    return frame


async def test_has_no_keys_but_those_of_the_file(configured: SignallingServer) -> None:
    assert (configured.api_key, configured.secret_id, configured.secret) == ("", "", "")
    async with dialled(configured, "key=") as probe:
        assert (await probe.ending())[0] == 4001


@pytest.mark.parametrize(
    ("changes", "key_code", "token_code"),
    [
        ({"publishable": "revoked = true"}, 4001, None),
        ({"secret": "revoked = true"}, None, 4001),
        ({"value": "sk_secret_" + "n" * 40}, None, 4001),
        ({"publishable": 'allowed_origins = ["https://app.example"]'}, 4001, None),
        ({"publishable": "channel_patterns = []"}, 4003, None),
        ({"secret": 'channel_patterns = ["b/*"]'}, None, 4003),
        ({"rest": "[apps.default]\nsuspended = true"}, 4012, 4012),
        ({"rest": "[apps.b]", "publishable": 'app = "b"'}, 4001, None),
        ({"rest": "[limits]\nframe_burst = 9"}, None, None),
    ],
)
async def test_closes_what_would_not_be_let_in_any_more(
    configured: SignallingServer, changes: dict[str, str], key_code: int | None, token_code: int | None
) -> None:
    async with dialled(configured, "key=pk_live_a") as one, dialled(configured, token("ann", channels=["a/*"])) as two:
        await one.get()
        await two.get()
        reload(configured, **changes)
        for probe, code in ((one, key_code), (two, token_code)):
            if code is None:
                assert await answers(probe)
            else:
                assert (await probe.ending())[0] == code


async def test_closes_what_a_missing_key_let_in(configured: SignallingServer) -> None:
    async with dialled(configured, "key=pk_live_a") as probe:
        await probe.get()
        configured.reload(parse_config("", PATH))
        assert (await probe.ending())[0] == 4001


async def test_narrows_rights_at_once_and_ends_subscriptions_out_of_scope(configured: SignallingServer) -> None:
    async with dialled(configured, token("ann")) as ann, dialled(configured, token("bob")) as bob:
        for probe in (ann, bob):
            await probe.get()
            await probe.join("a/1")
            await probe.join("b/1")
        assert {(await ann.get())["channel"] for _ in range(2)} == {"a/1", "b/1"}
        reload(configured, secret='channel_patterns = ["a/*"]\nactions = ["publish", "subscribe", "presence"]')
        for probe in (ann, bob):
            error = await next_of(probe, "error")
            assert (error["code"], error["message"]) == ("channel_not_authorized", "no longer in scope: b/1")
            assert "requestId" not in error
        await ann.put("publish", channel="b/1", data=1, requestId="r")
        assert (await next_of(ann, "error"))["code"] == "channel_not_authorized"
        assert (await ann.ask("send", to="bob", data=1))["code"] == "action_not_permitted"
        assert (await ann.ask("publish", channel="a/1", data=1))["type"] == "ack"
        assert (await next_of(bob, "message"))["channel"] == "a/1"


async def test_shows_who_is_there_to_whom_it_gives_the_right(configured: SignallingServer) -> None:
    reload(configured, secret='actions = ["subscribe"]')
    async with dialled(configured, token("ann")) as ann, dialled(configured, token("bob")) as bob:
        for probe in (ann, bob):
            await probe.get()
            assert (await probe.ask("subscribe", channel="c"))["type"] == "ack"
        reload(configured)
        assert (await ann.get())["joined"] == [{"peerId": "bob"}]


async def test_opens_new_apps_and_keys(configured: SignallingServer) -> None:
    configured.reload(parse_config('[apps.new]\n[[publishable_keys]]\nkey = "pk_live_b"\napp = "new"', PATH))
    async with dialled(configured, "key=pk_live_b") as probe:
        assert (await probe.get())["type"] == "welcome"


async def test_gives_the_room_page_the_key_of_the_file(configured: SignallingServer) -> None:
    async def shown() -> str | None:
        async with ClientSession() as session, session.get(f"{configured.http_url}/page/config.json") as answer:
            key: str | None = (await answer.json())["key"]
            return key

    assert await shown() is None
    reload(configured, rest='[server]\npage_key = "pk_live_a"')
    assert await shown() == "pk_live_a"


async def test_leaves_the_keys_of_the_run_alone(server: SignallingServer) -> None:
    async with dialled(server) as probe:
        await probe.get()
        reload(server)
        assert await answers(probe)
        async with dialled(server, "key=pk_live_a") as other:
            assert (await other.get())["type"] == "welcome"


async def test_says_what_only_a_restart_can_change(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    self_signed(tmp_path)
    tls = '[server]\ntls_cert = "ours.pem"\ntls_key = "ours.key"'
    config = parse_config(text(), PATH)
    async with SignallingServer.from_config(config, port=0, logger=StdlibLogger()) as server:
        server.reload(parse_config(text(), PATH))
        assert "restart" not in caplog.text
        for change in ("[server]\nport = 1", tls, '[cluster]\nredis = ["redis://a"]'):
            server.reload(parse_config(text(rest=change), tmp_path / "server.toml"))
            assert caplog.text.count("change with a restart") == 1
            caplog.clear()
        async with dialled(server, "key=pk_live_a") as probe:
            assert (await probe.get())["type"] == "welcome"


async def test_goes_on_with_the_old_one_when_a_certificate_is_missing(configured: SignallingServer) -> None:
    with pytest.raises(ValueError, match=r"gone\.pem"):
        reload(configured, rest='[server]\ntls_cert = "gone.pem"\ntls_key = "gone.pem"', publishable="revoked = true")
    async with dialled(configured, "key=pk_live_a") as probe:
        assert (await probe.get())["type"] == "welcome"


async def test_is_read_by_the_program_on_a_hang_up(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text())
    async with program("serve", "--config", str(path), "--port", "0", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = json.loads(await process.stdout.readline())
        assert list(line) == ["url"]
        async with connect(f"{line['url']}/v1?key=pk_live_a") as socket:
            probe = Probe(socket)
            await probe.get()
            path.write_text("[server]\nport = 'x'")
            process.send_signal(signal.SIGHUP)
            complaint = await process.stderr.readline()
            assert b"server.port" in complaint
            assert str(path).encode() in complaint
            assert await answers(probe)
            path.write_text(text(publishable="revoked = true"))
            process.send_signal(signal.SIGHUP)
            assert (await asyncio.wait_for(probe.ending(), PATIENCE))[0] == 4001
        process.terminate()
        await process.wait()
        assert process.returncode == 0
