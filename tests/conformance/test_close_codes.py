"""All close codes: their meaning for a client, and their causes on the server of this package.

Before the welcome a close is the failure of `connect()`: `SignallingConnectError`, state `closed`, no further attempt.
After it a close is a `Disconnected` event. The terminal codes end the client (`will_reconnect=False`, state
`closed`); every other code is followed by a reconnect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from metered_realtime import SignallingConnectError, SignallingError, WsCloseCode
from metered_realtime.events import Connected, Disconnected, GoingAway, Reconnecting, ServerError, StateChange
from metered_realtime.options import ReconnectOptions
from metered_realtime.server import SignallingServer
from metered_realtime.server.auth import mint_token
from metered_realtime.server.config.file import Config, parse_config
from metered_realtime.server.keys import App, PublishableKey, SecretKey, new_publishable_key, new_secret_pair
from metered_realtime.server.limits import Limits
from metered_realtime.server.plan import Plan
from metered_realtime.signalling import SignallingClient
from tests.support.inside import websocket_of
from tests.support.programs import Diary
from tests.support.rest_client import backend
from tests.support.scripted_server import Conversation, ScriptedServer, behave, refuse_handshake

from .support import client_at, connected, tokens, write

# --- the meaning of each code

MEANINGS = [
    # (code, name in WsCloseCode, terminal)
    (1000, None, False),
    (1001, "GOING_AWAY", False),
    (1006, None, False),
    (1008, "POLICY_VIOLATION", False),
    (1009, "MESSAGE_TOO_BIG", False),
    (1011, None, False),
    (4000, "CLIENT_INACTIVITY", False),
    (4001, "INVALID_TOKEN", True),
    (4002, "TOKEN_EXPIRED", False),
    (4003, "CHANNEL_NOT_AUTHORIZED", True),
    (4010, "OVER_CONCURRENT_LIMIT", False),
    (4011, "OVER_MESSAGE_RATE", False),
    (4012, "ACCOUNT_SUSPENDED", True),
    (4020, "ADMIN_DISCONNECT", True),
]
CODES = [code for code, _, _ in MEANINGS]
RETRIED = [code for code, _, terminal in MEANINGS if not terminal]
TERMINAL = [code for code, _, terminal in MEANINGS if terminal]


def closing(code: int, *, welcome: bool) -> Callable[[Conversation], Awaitable[None]]:
    """Act as a server that closes with this code, before or after the welcome."""

    async def script(conversation: Conversation) -> None:
        if welcome:
            await conversation.welcome()
        if code == 1006:
            conversation.drop()
        else:
            await conversation.hang_up(code, "why")

    return script


def reason_of(code: int) -> str:
    return "" if code == 1006 else "why"


def test_close_codes_have_these_names_and_no_others() -> None:
    assert {int(member): member.name for member in WsCloseCode} == {code: name for code, name, _ in MEANINGS if name}


@pytest.mark.parametrize("code", CODES)
async def test_before_the_first_welcome_every_code_fails_connect_and_nothing_is_retried(code: int) -> None:
    async with (
        ScriptedServer(closing(code, welcome=False)) as server,
        client_at(server.url, api_key="pk_live_x") as (client, diary),
    ):
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert isinstance(caught.value, SignallingError)
        assert (caught.value.close_code, caught.value.close_reason) == (code, reason_of(code))
        assert client.state == "closed"
        assert len(server.paths) == 1
        assert diary.events == [
            StateChange("idle", "connecting"),
            Disconnected(code, reason_of(code), False),
            StateChange("connecting", "closed"),
        ]


@pytest.mark.parametrize("code", TERMINAL)
async def test_a_terminal_code_ends_the_client(code: int) -> None:
    async with (
        ScriptedServer(closing(code, welcome=True)) as server,
        client_at(server.url, api_key="pk_live_x") as (client, diary),
    ):
        await client.connect()
        await diary.wait_for_state("closed")
        assert diary.events[3:] == [Disconnected(code, "why", False), StateChange("connected", "closed")]
        assert len(server.paths) == 1


@pytest.mark.parametrize("code", TERMINAL)
async def test_a_terminal_code_ends_a_client_that_reconnects_too(code: int) -> None:
    scripts = closing(1006, welcome=True), closing(code, welcome=False)
    async with ScriptedServer(*scripts) as server, client_at(server.url, api_key="pk_live_x") as (client, diary):
        await client.connect()
        await diary.wait_for_state("closed")
        assert diary.events[-2:] == [Disconnected(code, "why", False), StateChange("reconnecting", "closed")]
        assert len(server.paths) == 2


@pytest.mark.parametrize("code", [code for code in RETRIED if code != 4010])
async def test_any_other_code_is_followed_by_a_reconnect(code: int) -> None:
    async with (
        ScriptedServer(closing(code, welcome=True), behave) as server,
        client_at(server.url, api_key="pk_live_x") as (client, diary),
    ):
        await client.connect()
        assert (await diary.wait_for(Connected, 2)).is_reconnect
        assert diary.events[3:6] == [
            Disconnected(code, reason_of(code), True),
            StateChange("connected", "reconnecting"),
            Reconnecting(1, diary.of(Reconnecting)[0].delay),
        ]
        assert diary.of(Reconnecting)[0].delay < 0.01


async def test_4010_is_retried_after_half_a_minute_at_least() -> None:
    async with (
        ScriptedServer(closing(4010, welcome=True), behave) as server,
        client_at(server.url, api_key="pk_live_x", _chance=lambda: 0.0) as (client, diary),  # the smallest jitter
    ):
        await client.connect()
        assert (await diary.wait_for(Reconnecting)).delay >= 30
        assert diary.of(Disconnected) == [Disconnected(4010, "why", True)]
        assert client.state == "reconnecting"


async def test_4000_is_the_clients_own_for_a_server_that_fell_silent() -> None:
    async def fall_silent(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.listen()

    async with (
        ScriptedServer(fall_silent, behave) as server,
        client_at(server.url, api_key="pk_live_x", inactivity_timeout=0.1) as (client, diary),
    ):
        await client.connect()
        assert await diary.wait_for(Disconnected) == Disconnected(4000, "inactivity", True)
        await diary.wait_for(Connected, 2)


@pytest.mark.parametrize("status", [404, 429, 503])
async def test_an_answer_without_a_websocket_is_1006_with_the_status(status: int) -> None:
    async with (
        ScriptedServer(refuse_handshake(status)) as server,
        client_at(server.url, api_key="pk_live_x") as (client, _),
    ):
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.http_status) == (1006, status)
        assert client.state == "closed"


async def test_nobody_there_is_1006() -> None:
    async with ScriptedServer() as server:
        url = server.url
    async with client_at(url, api_key="pk_live_x") as (client, _):
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.http_status) == (1006, None)


# --- refused handshakes


@dataclass(frozen=True)
class Refused:
    """A credential, and the close code for it."""

    code: int
    why: str
    credential: Callable[[SignallingServer], dict[str, Any]]


def token(**claims: Any) -> Callable[[SignallingServer], dict[str, Any]]:
    return lambda server: {"token_provider": tokens(server, "ann", **claims)}


def signed(header: dict[str, Any] | None = None, secret: str | None = None, **claims: Any) -> Any:
    """Sign arbitrary claims, which `mint_token` would refuse."""

    def make(server: SignallingServer) -> dict[str, Any]:
        algorithm = (header or {}).get("alg", "HS256")
        text = jwt.encode(
            {"sub": "ann", "exp": 4_000_000_000} | claims,
            secret or server.secret,
            algorithm=algorithm,
            headers={"kid": server.secret_id} | (header or {}),
        )
        return {"token_provider": lambda: text}

    return make


def expired(server: SignallingServer) -> dict[str, Any]:
    text = mint_token(secret_id=server.secret_id, secret=server.secret, peer_id="ann", expires_in=60, now=1_000_000)
    return {"token_provider": lambda: text}


AT_THE_DOOR = [
    Refused(4001, "an unknown key", lambda _: {"api_key": "pk_live_" + "0" * 40}),
    Refused(4001, "not a token", lambda _: {"token_provider": lambda: "nonsense"}),
    Refused(4001, "a wrong signature", signed(secret="sk_secret_" + "x" * 40)),
    Refused(4001, "an unknown key id", signed({"kid": "sk_id_unknown"})),
    Refused(4001, "another algorithm", signed({"alg": "HS512"})),
    Refused(4001, "no expiry", signed(exp=None)),
    Refused(4001, "a peer id that is no printable ASCII", signed(sub="änn")),
    Refused(4001, "a peer id of 129 characters", signed(sub="x" * 129)),
    Refused(4001, "metadata over 8 KB", signed(metadata={"m": "x" * 8_192})),
    Refused(4001, "peer metadata over 4 KB", signed(peerMetadata={"m": "x" * 4_096})),
    Refused(4002, "an expired token", expired),
    Refused(4003, "a token without any channel", token(channels=[])),
]


@pytest.mark.parametrize("row", AT_THE_DOOR, ids=lambda row: f"{row.code}: {row.why}")
async def test_the_server_refuses(row: Refused) -> None:
    async with SignallingServer() as server, client_at(server.url, **row.credential(server)) as (client, diary):
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.http_status) == (row.code, None)
        assert client.state == "closed"
        assert diary.of(Disconnected) == [Disconnected(row.code, caught.value.close_reason, False)]


async def test_wrong_credentials_of_every_kind_look_alike() -> None:
    reasons = set()
    async with SignallingServer() as server:
        for row in AT_THE_DOOR:
            async with client_at(server.url, **row.credential(server)) as (client, _):
                with pytest.raises(SignallingConnectError) as caught:
                    await client.connect()
                if row.code == 4001:
                    reasons.add(caught.value.close_reason)
    assert len(reasons) == 1


async def test_a_key_of_another_origin_is_refused_with_4001() -> None:
    key = PublishableKey(key=new_publishable_key(), allowed_origins=("https://app.example",))
    async with (
        SignallingServer(apps=[App("web", (key,))]) as server,
        client_at(server.url, api_key=key.key) as (client, _),
    ):
        with pytest.raises(SignallingConnectError) as caught:  # programs send no Origin
            await client.connect()
        assert caught.value.close_code == 4001


async def test_over_the_plan_connect_fails_with_4010() -> None:
    key_id, secret = new_secret_pair()
    app = App("small", (), (SecretKey(id=key_id, secret=secret),), Plan(max_concurrent_connections=1))
    async with SignallingServer(apps=[app]) as server:

        def provide() -> str:
            return mint_token(secret_id=key_id, secret=secret, peer_id="ann")

        async with (
            client_at(server.url, token_provider=provide) as (first, _),
            client_at(server.url, token_provider=provide) as (second, _),
        ):
            await first.connect()
            with pytest.raises(SignallingConnectError) as caught:
                await second.connect()
            assert caught.value.close_code == 4010
            await first.close()
            await second.connect()


async def test_over_the_connects_per_address_the_answer_is_429() -> None:
    async with (
        SignallingServer(limits=Limits(connects_per_address=1)) as server,
        connected(server),
        client_at(server.url, api_key=server.api_key) as (client, _),
    ):
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.http_status) == (1006, 429)


# --- connections that the server closes


@dataclass(frozen=True)
class Ending:
    """A fault for which the server closes the connection; the client reconnects at once."""

    code: int
    why: str
    provoke: Callable[[SignallingServer, SignallingClient], Awaitable[None]]


def writing(*frames: str | bytes) -> Callable[[SignallingServer, SignallingClient], Awaitable[None]]:
    async def provoke(server: SignallingServer, client: SignallingClient) -> None:
        for frame in frames:
            write(client, frame)

    return provoke


async def write_binary(server: SignallingServer, client: SignallingClient) -> None:
    await websocket_of(client).send(b"{}", text=False)


async def cut(server: SignallingServer, client: SignallingClient) -> None:
    websocket_of(client).transport.abort()


async def restart(server: SignallingServer, client: SignallingClient) -> None:
    await server.stop()
    await server.start()


ENDINGS = [
    Ending(1001, "the server restarts", restart),
    Ending(1006, "the network fails", cut),
    Ending(1008, "a binary frame", write_binary),
    Ending(1008, "ten malformed frames within ten seconds", writing(*["no JSON"] * 10)),
    Ending(1009, "a frame over payload cap and envelope", writing('"' + "x" * (65_536 + 1_024) + '"')),
    Ending(4011, "a burst of 201 frames", writing(*['{"type":"unsubscribe","channel":"a"}'] * 230)),
]


@pytest.mark.parametrize("row", ENDINGS, ids=lambda row: f"{row.code}: {row.why}")
async def test_the_server_ends_the_connection_and_the_client_comes_back(row: Ending) -> None:
    async with SignallingServer() as server, connected(server) as (client, diary):
        await client.subscribe("a")
        await row.provoke(server, client)
        lost = await diary.wait_for(Disconnected)
        assert (lost.code, lost.will_reconnect) == (row.code, True)
        assert (await diary.wait_for(Connected, 2)).is_reconnect
        await client.publish("a", 1)
        assert client.subscriptions == ("a",)


async def test_1001_is_announced_and_the_wait_that_it_asks_for_is_kept() -> None:
    async with SignallingServer() as server, connected(server) as (_, diary):
        await server.stop()
        assert await diary.wait_for(GoingAway) == GoingAway(1_000)
        assert 0.8 <= (await diary.wait_for(Reconnecting)).delay <= 1
        assert diary.of(Disconnected)[0].code == 1001


async def test_4002_ends_a_connection_whose_provider_has_no_newer_token_and_the_next_one_is_asked_for() -> None:
    async with SignallingServer() as server:
        first = server.mint_token("ann", expires_in=2)
        served: list[Disconnected] = []

        def provide() -> str:
            return server.mint_token("ann") if served else first

        async with client_at(server.url, token_provider=provide) as (client, diary):
            client.on(Disconnected, served.append)
            await client.connect()
            assert await diary.wait_for(Disconnected) == Disconnected(4002, "token expired", True)
            await diary.wait_for(Connected, 2)


async def test_9_malformed_frames_are_answered_and_forgiven() -> None:
    async with SignallingServer() as server, connected(server) as (client, diary):
        for _ in range(9):
            write(client, "no JSON")
        await diary.wait_for(ServerError, 9)
        await client.publish("a", 1)
        assert diary.of(Disconnected) == []


@asynccontextmanager
async def never_reconnecting(server: SignallingServer) -> AsyncIterator[tuple[SignallingClient, Diary]]:
    options = {"token_provider": tokens(server, "ann"), "reconnect": False}
    async with client_at(server.url, **options) as (client, diary):
        await client.connect()
        yield client, diary


async def test_without_reconnect_every_code_is_the_end() -> None:
    async with SignallingServer() as server, never_reconnecting(server) as (client, diary):
        await write_binary(server, client)
        await diary.wait_for_state("closed")
        assert diary.of(Disconnected) == [Disconnected(1008, diary.of(Disconnected)[0].reason, False)]


async def test_reconnecting_ends_when_no_attempt_is_left() -> None:
    few = ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=2)
    async with (
        SignallingServer() as server,
        client_at(server.url, api_key=server.api_key, reconnect=few) as (client, diary),
    ):
        await client.connect()
        await cut(server, client)
        await server.stop()
        await diary.wait_for_state("closed")
        assert diary.of(Disconnected)[-1].will_reconnect is False
        assert diary.events[-1] == StateChange("reconnecting", "closed")


# --- connections that an operator closes


async def test_4020_a_kick_ends_every_connection_of_the_peer_for_good() -> None:
    async with (
        SignallingServer() as server,
        connected(server) as (_, diary),
        connected(server) as (_, other_diary),
        connected(server, "bob") as (bob, _),
        backend(server) as control,
    ):
        answer = await control.ask("DELETE", "/peers/ann")
        assert (answer.status, answer.body) == (200, {"peerId": "ann", "closed": 2})
        await diary.wait_for_state("closed")
        lost = diary.of(Disconnected)
        assert [(event.code, event.will_reconnect) for event in lost] == [(4020, False)]
        assert diary.of(Reconnecting) == []
        await other_diary.wait_for_state("closed")
        assert bob.state == "connected"


@pytest.mark.parametrize(
    ("why", "change", "code"),
    [
        ("a key that was revoked", "revoked = true", 4001),
        ("a key whose channels are all gone", "channel_patterns = []", 4003),
    ],
)
async def test_a_reload_ends_for_good_who_would_not_be_let_in_any_more(why: str, change: str, code: int) -> None:
    key_id, secret = new_secret_pair()

    def config(extra: str) -> Config:
        return parse_config(f'[[secret_keys]]\nid = "{key_id}"\nsecret = "{secret}"\n{extra}\n', Path("server.toml"))

    async with SignallingServer.from_config(config(""), port=0) as server:

        def provide() -> str:
            return mint_token(secret_id=key_id, secret=secret, peer_id="ann")

        async with client_at(server.url, token_provider=provide) as (client, diary):
            await client.connect()
            server.reload(config(change))
            await diary.wait_for_state("closed")
            assert [(event.code, event.will_reconnect) for event in diary.of(Disconnected)] == [(code, False)]
