"""The server's log lines about clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest

from metered_realtime.server import App, Limits, Plan, PublishableKey, SecretKey, SignallingServer, mint_token
from metered_realtime.server.client_log import LINE_BURST, ClientLog
from tests.support.patience import PATIENCE

from ..support.probe import dialled, welcomed

SECRET_ID, SECRET = "sk_id_shop", "sk_secret_" + "s" * 40
REVOKED_ID = "sk_id_old"
KEY, OTHER_SECRET = "pk_live_shop", "sk_secret_" + "o" * 40
HOME = "https://shop.example"


class Lines:
    """A logger that records its lines by level."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.all.append(("debug", msg, ctx or {}))

    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.all.append(("info", msg, ctx or {}))

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.all.append(("warning", msg, ctx or {}))

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.all.append(("error", msg, ctx or {}))

    def of(self, msg: str) -> list[tuple[str, dict[str, Any]]]:
        return [(level, ctx) for level, known, ctx in self.all if known == msg]

    async def one(self, msg: str) -> tuple[str, dict[str, Any]]:
        """Wait for the first line with a message, and return it."""
        async with asyncio.timeout(PATIENCE):
            while not self.of(msg):  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)
        return self.of(msg)[0]


def token(kid: str | None = SECRET_ID, secret: str = SECRET, **claims: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "ann", "exp": time.time() + 60, **claims}, secret, headers=headers)


@asynccontextmanager
async def shop(**options: Any) -> AsyncIterator[tuple[SignallingServer, Lines]]:
    keys = (SecretKey(id=SECRET_ID, secret=SECRET), SecretKey(id=REVOKED_ID, secret=SECRET, revoked=True))
    publishable = (
        PublishableKey(key=KEY, allowed_origins=(HOME,)),
        PublishableKey(key="pk_live_old", revoked=True),
    )
    lines = Lines()
    app = App("shop", publishable, keys, **options)
    async with SignallingServer(logger=lines, apps=[app], run_keys=False) as server:
        yield server, lines


REFUSALS: dict[str, tuple[Callable[[], str], int, str]] = {
    "bad signature": (lambda: f"token={token(secret=OTHER_SECRET)}", 4001, "Signature verification failed"),
    "unknown kid": (lambda: f"token={token('sk_id_nobody')}", 4001, "the secret key 'sk_id_nobody' is not known"),
    "revoked kid": (lambda: f"token={token(REVOKED_ID)}", 4001, f"the secret key '{REVOKED_ID}' is revoked"),
    "a secret as kid": (lambda: f"token={token(SECRET)}", 4001, "names no secret key"),
    "no kid": (lambda: f"token={token(None)}", 4001, "names no secret key"),
    "no token": (lambda: "token=nonsense", 4001, "the token is none"),
    "expired": (lambda: f"token={token(exp=time.time() - 100)}", 4002, "the token has expired 100."),
    "not yet": (lambda: f"token={token(nbf=time.time() + 100)}", 4001, "not valid before "),
    "exp of a wrong type": (lambda: f"token={token(exp='soon')}", 4001, "exp is no time in unix seconds"),
    "iat of a wrong type": (lambda: f"token={token(iat=[1])}", 4001, "iat is no time in unix seconds"),
    "no exp": (lambda: f"token={token(exp=None)}", 4001, "exp is missing"),
    "bad sub": (lambda: f"token={token(sub='é')}", 4001, "peer_id must be"),
    "no channel": (lambda: f"token={token(channels=[])}", 4003, "no channel is in scope"),
    "unknown key": (lambda: "key=pk_live_nobody", 4001, "the publishable key is not known"),
    "revoked key": (lambda: "key=pk_live_old", 4001, "the publishable key is revoked"),
    "no origin": (lambda: f"key={KEY}", 4001, "the key needs an Origin"),
    "two credentials": (lambda: f"key={KEY}&token={token()}", 4001, "exactly one of key and token"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSALS)
    async def test_refusals_are_told_with_their_cause_and_without_a_credential(self, name: str) -> None:
        query, code, cause = REFUSALS[name]
        shown = query()
        async with shop() as (server, lines):
            async with dialled(server, shown) as probe:
                assert (await probe.ending())[0] == code
            level, context = await lines.one("connection refused")
            assert (level, context["code"], context["address"]) == ("warning", code, "127.0.0.1")
            assert cause in context["why"]
        text = str(lines.all)
        assert not any(secret in text for secret in (SECRET, OTHER_SECRET, KEY, shown.rpartition("=")[2]))

    async def test_refusals_of_an_origin_name_it(self) -> None:
        async with shop() as (server, lines):
            async with dialled(server, f"key={KEY}", origin="https://evil.example") as probe:
                await probe.ending()
            assert "'https://evil.example' is not allowed" in (await lines.one("connection refused"))[1]["why"]

    async def test_refusals_by_a_full_plan_and_a_suspended_app_name_the_app(self) -> None:
        async with shop(plan=Plan(max_concurrent_connections=1)) as (server, lines):
            async with dialled(server, f"token={token()}") as first:
                await first.get()
                async with dialled(server, f"token={token()}") as second:
                    assert (await second.ending())[0] == 4010
            assert "the plan of app 'shop'" in (await lines.one("connection refused"))[1]["why"]
            assert server.endings["too many connections"] == 1
        async with shop(suspended=True) as (server, lines):
            async with dialled(server, f"token={token()}") as probe:
                assert (await probe.ending())[0] == 4012
            assert "'shop' is suspended" in (await lines.one("connection refused"))[1]["why"]

    async def test_refusals_have_a_bounded_length(self) -> None:
        async with shop() as (server, lines):
            async with dialled(server, f"token={token('sk_id_' + 'x' * 20_000)}") as probe:
                await probe.ending()
            assert len((await lines.one("connection refused"))[1]["why"]) < 300

    async def test_refusals_of_a_refresh_are_told(self) -> None:
        async with shop() as (server, lines), dialled(server, f"token={token()}") as probe:
            await probe.get()
            late = mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id="ann", now=time.time() - 9_000)
            assert (await probe.ask("refresh", token=late))["code"] == "action_not_permitted"
            level, context = await lines.one("refresh refused")
            assert (level, context["peer"]) == ("warning", "ann")
            assert "has expired" in context["why"]

    async def test_refusals_of_attempts_are_told_once_and_counted(self) -> None:
        lines = Lines()
        limits = Limits(connects_per_address=1)
        async with SignallingServer(logger=lines, limits=limits) as server, welcomed(server):
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET /v1?key=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                assert b"429" in await reader.readline()
                writer.close()
                await writer.wait_closed()
            assert len(lines.of("too many connections or connection attempts")) == 1
            assert server.endings["too many attempts"] == 5

    async def test_refusals_of_requests_are_told(self) -> None:
        async with shop() as (server, lines):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /v1/usage HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert b"401" in await reader.readline()
            writer.close()
            await writer.wait_closed()
            context = (await lines.one("request refused"))[1]
            assert context == {"address": "127.0.0.1", "status": 401, "why": "a secret key is needed"}


class TestRequestsThatAreNoHttp:
    @pytest.mark.parametrize(
        "request_",
        [
            b"GET /v1?token=eyJhbGciOi HTTP/9.9\r\n\r\n",
            b"GET /v1?token=eyJhbGciOi" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer eyJhbGciOi\r\n\r\n",
        ],
        ids=["version", "length", "header"],
    )
    async def test_requests_that_are_no_http_are_told_without_their_text(
        self, request_: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(0)
        lines = Lines()
        async with SignallingServer(logger=lines) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request_)
            assert b"400" in await reader.readline()
            writer.close()
            level, context = await lines.one("request not understood")
        assert (level, context["what"]) == ("warning", "Error handling request from 127.0.0.1")
        assert "eyJhbGciOi" not in str(lines.all) + caplog.text


async def _leave(probe: Any) -> None:
    await probe.socket.close(4242, "words of the client")


async def _vanish(probe: Any) -> None:
    probe.socket.transport.abort()


async def _speak_binary(probe: Any) -> None:
    await probe.socket.send(b"x")
    await probe.ending()


async def _flood(probe: Any) -> None:
    for _ in range(6):
        await probe.put("unsubscribe", channel="c")
    await probe.ending()


class TestConnections:
    async def test_connections_are_told_when_they_open(self) -> None:
        lines = Lines()
        async with SignallingServer(logger=lines) as server:
            async with welcomed(server, "ann"):
                level, context = await lines.one("connection opened")
            assert level == "info"
            assert context == {"peer": "ann", "app": "run", "address": "127.0.0.1", "by": "token"}

    @pytest.mark.parametrize(
        ("end", "level", "code", "reason"),
        [
            (_leave, "info", 4242, "by the client"),
            (_vanish, "info", 1006, "connection lost"),
            (_speak_binary, "warning", 1008, "text frames only"),
            (_flood, "warning", 4011, "message rate exceeded"),
        ],
        ids=["closed", "lost", "binary", "flood"],
    )
    async def test_connections_are_told_when_they_end(
        self, end: Callable[[Any], Awaitable[None]], level: str, code: int, reason: str
    ) -> None:
        lines, limits = Lines(), Limits(frame_burst=5, frames_per_second=0.01)
        async with SignallingServer(logger=lines, limits=limits) as server:
            async with welcomed(server, "ann") as probe:
                await end(probe)
            found, context = await lines.one("connection closed")
            assert (found, context["code"], context["reason"]) == (level, code, reason)
            assert (context["peer"], context["address"]) == ("ann", "127.0.0.1")
            assert server.endings == {reason: 1}
        assert "words of the client" not in str(lines.all)


class TestFloods:
    def test_floods_leave_out_lines_and_say_how_many(self) -> None:
        lines, now = Lines(), 0.0
        log = ClientLog(lines, lambda: now)
        for _ in range(LINE_BURST + 500):
            log.info("hello")
        assert len(lines.all) == LINE_BURST
        now = 60.0
        log.info("later")
        assert lines.all[-2:] == [("info", "lines were left out", {"count": 500}), ("info", "later", {})]

    def test_floods_of_one_level_leave_the_others_alone(self) -> None:
        lines = Lines()
        log = ClientLog(lines, lambda: 0.0)
        for _ in range(LINE_BURST * 2):
            log.info("hello")
        log.warning("careful")
        assert lines.all[-1] == ("warning", "careful", {})
