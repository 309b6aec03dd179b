"""Credentials do not leak into attributes, reprs, log lines or exceptions."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import pytest

from metered_realtime.errors import ServerRequestError, SignallingConnectError, SignallingError
from metered_realtime.events import Connected
from metered_realtime.log import StdlibLogger, log_exception
from metered_realtime.options import IceServerConfig, SignallingClientOptions
from metered_realtime.signalling import SignallingClient
from metered_realtime.signalling.scrubbing import ScrubbingLogger, scrub_error, scrub_text, scrubbing
from tests.support.inside import session_of, socket_of

from ..support.programs import Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer, behave, refuse_handshake

SECRET = "sEcReT/123"
ENCODED = "sEcReT%2F123"


class ListLogger:
    """Records all lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(f"{msg} {ctx}")

    info = warning = error = debug


def variables_of(error: BaseException) -> str:
    """Return the variables along the traceback of an exception, as an error tracker would show them."""
    return "".join(repr(frame.f_locals) for frame, _ in traceback.walk_tb(error.__traceback__))


def everything_about(error: BaseException) -> str:
    """Return what a traceback, a debugger or an error tracker would show, without local variables."""
    texts = ["".join(traceback.format_exception(error))]
    seen: list[BaseException] = []
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and link not in seen:
            seen.append(link)
            texts += [str(link), repr(link), repr(vars(link))]
            chain += [link.__cause__, link.__context__]
    return "\n".join(texts)


@pytest.mark.parametrize("kind", ["status", "close", "garbage", "nobody"])
async def test_a_failed_connect_shows_no_credential(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripts: dict[str, Any] = {
        "status": refuse_handshake(403),
        "close": lambda it: it.hang_up(4001, f"bad token={ENCODED}"),
        "garbage": lambda it: it.say("garbage"),
    }
    logger = ListLogger()
    async with ScriptedServer(scripts.get(kind, refuse_handshake(500))) as server:
        if kind == "nobody":
            await server.stop()
        client = make_client(server, token_provider=lambda: SECRET, logger=logger)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        shown = everything_about(caught.value) + caplog.text + "".join(logger.lines) + repr(client) + repr(vars(client))
        cause = caught.value.__cause__
        while cause is not None:
            shown += variables_of(cause)
            cause = cause.__cause__ or cause.__context__
        await client.close()
    assert SECRET not in shown
    assert ENCODED not in shown


async def test_an_attempt_to_come_back_that_fails_is_logged_with_its_cause_and_no_credential() -> None:
    logger = ListLogger()

    async def drop(conversation: Conversation) -> None:
        await conversation.welcome()
        conversation.drop()

    async with ScriptedServer(drop, refuse_handshake(503), drop, behave) as server:
        client = make_client(server, api_key=SECRET, logger=logger)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Connected, 3)
        told = [line for line in logger.lines if "attempt failed" in line]
        assert len(told) == 1
        assert f"{server.url}: HTTP 503 Service Unavailable" in told[0]
        assert ENCODED not in "".join(logger.lines)
        await client.close()


async def test_a_connected_client_shows_no_credential(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedServer() as server, make_client(server, api_key=SECRET) as client:
        await client.publish("a", 1)
        parts = [client, socket_of(client), session_of(client)]
        shown = "".join(repr(part) + repr(vars(part)) for part in parts)
        shown += "".join(repr(task) for task in asyncio.all_tasks())
        assert repr(client) == "<SignallingClient state=connected>"
    assert SECRET not in shown + caplog.text
    assert ENCODED not in shown + caplog.text


def test_reprs_of_options_and_ice_servers_hide_credentials() -> None:
    assert SECRET not in repr(SignallingClientOptions(api_key=SECRET))
    assert SECRET not in repr(IceServerConfig("turn:t", "user", SECRET))
    assert SECRET not in repr(SignallingClient(api_key=SECRET))


async def test_an_error_of_the_token_provider_is_raised_as_itself_without_the_token() -> None:
    class AuthError(Exception):
        def __init__(self, status: int, url: str, *, hint: str) -> None:
            super().__init__(f"{status} from {url}")
            self.status = status
            self.url = url
            self.hint = hint

    async def provide() -> str:
        raise AuthError(401, f"https://auth/?token={ENCODED}&x=1", hint="log in")

    client = make_client("ws://localhost:1", token_provider=provide)
    with pytest.raises(AuthError) as caught:
        await client.connect()
    assert (caught.value.status, caught.value.hint) == (401, "log in")
    assert caught.value.url == "https://auth/?token=***&x=1"
    assert ENCODED not in everything_about(caught.value)
    await client.close()


async def test_a_handler_that_fails_with_a_credential_in_its_text_is_logged_without() -> None:
    async def speak(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.listen()

    logger = ListLogger()
    async with ScriptedServer(speak) as server:
        client = make_client(server, logger=logger)

        @client.on(Connected)
        def fail(event: Connected) -> None:
            raise RuntimeError(f"GET /?key={SECRET}")

        await client.connect()
        await client.close()
    assert any("event handler failed" in line and "key=***" in line for line in logger.lines)
    assert SECRET not in "".join(logger.lines)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("GET /v1?token=abc.def-g HTTP/1.1", "GET /v1?token=*** HTTP/1.1"),
        ("wss://h/v1?key=pk%20x&token=t#f", "wss://h/v1?key=***&token=***#f"),
        ("api_key=abc, next", "api_key=***, next"),
        ("TOKEN=abc", "TOKEN=***"),
        ("GET /v1?key=k&resume=a.b-c_d&x=1 HTTP/1.1", "GET /v1?key=***&resume=***&x=1 HTTP/1.1"),
        ('{"type":"welcome","resumeToken":"a.b-c","n":1}', '{"type":"welcome","resumeToken":"***","n":1}'),
        ("a=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlts\r\nm=x", "a=ice-ufrag:***\r\na=ice-pwd:***\r\nm=x"),
        ("{'urls': 'turn:t', 'credential': 'p w', 'n': 1}", "{'urls': 'turn:t', 'credential': '***', 'n': 1}"),
        ('{"credential":"p\\"w","n":1}', '{"credential":"***","n":1}'),
        ('"{\\"credential\\":\\"pw\\",\\"n\\":1}"', '"{\\"credential\\":\\"***\\",\\"n\\":1}"'),
        ("IceServerConfig(credential='x')", "IceServerConfig(credential='***')"),
        ("credential=None-such", "credential=***"),
        ("http://user:pass@proxy:8080/ isn't a valid proxy", "http://***@proxy:8080/ isn't a valid proxy"),
        ("nothing to see: a token is a token", "nothing to see: a token is a token"),
    ],
)
def test_texts_are_scrubbed(text: str, scrubbed: str) -> None:
    assert scrub_text(text) == scrubbed
    assert scrub_text(scrubbed) == scrubbed


def test_a_harmless_exception_is_not_copied() -> None:
    error = ServerRequestError("peer_not_found", "gone", "7")
    assert scrub_error(error) is error


def test_an_exception_with_a_credential_keeps_class_attributes_chain_and_traceback() -> None:
    def fail() -> None:
        try:
            raise ConnectionRefusedError(111, f"connect to ?token={SECRET}")
        except ConnectionRefusedError as cause:
            raise ServerRequestError("internal_error", f"key={SECRET}", "7") from cause

    with pytest.raises(ServerRequestError) as caught:
        fail()
    scrubbed = scrub_error(caught.value)
    assert type(scrubbed) is ServerRequestError
    assert (scrubbed.code, scrubbed.request_id) == ("internal_error", "7")
    assert type(scrubbed.__cause__) is ConnectionRefusedError
    assert scrubbed.__cause__.errno == 111
    assert scrubbed.__traceback__ is caught.value.__traceback__
    assert SECRET not in everything_about(scrubbed)


def test_an_exception_that_cannot_be_rebuilt_becomes_one_that_names_it() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            return f"token={SECRET}"

    scrubbed = scrub_error(OddError())
    assert type(scrubbed) is SignallingError
    assert str(scrubbed) == "OddError: token=***"


def test_a_chain_that_bites_its_tail_is_scrubbed_in_bounded_time() -> None:
    first, second = ValueError(f"token={SECRET}"), KeyError(f"key={SECRET}")
    first.__context__, second.__context__ = second, first
    assert SECRET not in str(scrub_error(first))


def test_log_contexts_are_scrubbed() -> None:
    logger = ListLogger()
    for log in (ScrubbingLogger(logger).debug, ScrubbingLogger(logger).error):
        log(f"token={SECRET}", {"url": f"?key={SECRET}", "n": 1})
    assert logger.lines == ["token=*** {'url': '?key=***', 'n': 1}"] * 2


@pytest.mark.parametrize("is_own", [False, True])
def test_the_traceback_of_a_mistake_is_scrubbed(is_own: bool, caplog: pytest.LogCaptureFixture) -> None:
    try:
        try:
            raise OSError(f"GET https://example.com/?token={SECRET}")
        except OSError as cause:
            raise ValueError(f"no answer of ?key={SECRET}") from cause
    except ValueError as error:
        log_exception(scrubbing(StdlibLogger() if is_own else None), "provider failed", error)
    assert "OSError: GET https://example.com/?token=***" in caplog.text
    assert "ValueError: no answer of ?key=***" in caplog.text
    assert SECRET not in caplog.text
