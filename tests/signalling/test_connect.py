"""Connecting, and the errors of failed attempts."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from metered_realtime.core.session.session import Timings
from metered_realtime.core.wire.key_forms import PUBLISHABLE_RANDOM, SECRET_ID_RANDOM, local_key, local_secret_id
from metered_realtime.errors import LocalCredentialError, NotConnectedError, SignallingConnectError, SignallingError
from metered_realtime.events import Connected, Disconnected, Event, Message, StateChange
from metered_realtime.options import IceServerConfig, SignallingClientOptions
from metered_realtime.server.tokens import mint_token
from metered_realtime.signalling import SignallingClient
from metered_realtime.signalling import socket as signalling_socket

from ..support.programs import HASTY, Diary, make_client
from ..support.scripted_server import Conversation, ScriptedServer, behave, refuse_handshake


async def stay_silent(conversation: Conversation) -> None:
    await conversation.listen()


async def test_connect_returns_after_connected_was_told() -> None:
    async with ScriptedServer() as server, make_client(server, api_key="pk live/ä&b") as client:
        assert server.paths == ["/v1?key=pk%20live%2F%C3%A4%26b&recover=1"]
        assert client.state == "connected"
        assert (client.peer_id, client.max_message_size, client.ice_servers) == ("ann", 65536, None)
    assert client.state == "closed"


async def test_the_first_events_come_in_order_and_with_the_state_they_announce() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        assert diary.events == [
            StateChange("idle", "connecting"),
            StateChange("connecting", "connected"),
            Connected("ann", 1, None, False, 65536, None),
        ]
        assert diary.states == ["connecting", "connected", "connected"]
        await client.close()
        assert diary.events[3:] == [StateChange("connected", "closed")]


async def test_the_welcome_tells_cap_and_ice_servers() -> None:
    async def script(conversation: Conversation) -> None:
        ice = [{"urls": "turn:t", "username": "u", "credential": "c"}]
        await conversation.welcome(maxMessageSize=99, metadata={"iceServers": ice})
        await conversation.listen()

    async with ScriptedServer(script) as server, make_client(server) as client:
        assert client.max_message_size == 99
        assert client.ice_servers == (IceServerConfig("turn:t", "u", "c"),)


async def test_options_may_come_as_one_object() -> None:
    async with ScriptedServer() as server:
        options = SignallingClientOptions(api_key="pk_live_1", url=server.url)
        async with SignallingClient(options, url="http://ignored"):
            assert server.paths == ["/v1?key=pk_live_1&recover=1"]


@pytest.mark.parametrize("code", [4001, 4010, 1008])
async def test_a_close_before_the_welcome_is_raised_with_code_and_reason(code: int) -> None:
    async with ScriptedServer(lambda it: it.hang_up(code, "no entry")) as server:
        client = make_client(server)
        diary = Diary(client)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.close_reason) == (code, "no entry")
        assert caught.value.http_status is None
        assert diary.events[1:] == [Disconnected(code, "no entry", False), StateChange("connecting", "closed")]
        assert len(server.paths) == 1
        await client.close()


@pytest.mark.parametrize("status", [404, 429, 503])
async def test_a_refused_handshake_is_raised_with_its_status(status: int) -> None:
    async with ScriptedServer(refuse_handshake(status)) as server:
        client = make_client(server)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.http_status) == (1006, status)
        assert caught.value.close_reason == "handshake rejected"
        assert client.state == "closed"
        await client.close()


async def test_nobody_listening_is_raised_by_name() -> None:
    async with ScriptedServer() as server:
        url = server.url
    client = make_client(url)
    with pytest.raises(SignallingConnectError) as caught:
        await client.connect()
    assert (caught.value.close_code, caught.value.close_reason) == (1006, "ConnectionRefusedError")
    assert caught.value.http_status is None
    await client.close()


async def test_a_server_that_is_none_is_raised_by_name() -> None:
    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(chat, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = make_client(f"ws://127.0.0.1:{port}")
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
    assert (caught.value.close_code, caught.value.close_reason) == (1006, "InvalidMessage")
    await client.close()


async def test_a_handshake_that_never_ends_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        client = make_client(f"ws://127.0.0.1:{port}", _timings=Timings(open_timeout=0.05))
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.close_reason) == (1006, "TimeoutError")
        await client.close()


async def failure_of(client: SignallingClient) -> SignallingConnectError:
    """Return the exception of a `connect` that must fail."""
    with pytest.raises(SignallingConnectError) as caught:
        await client.connect()
    await client.close()
    return caught.value


async def test_a_refused_connection_says_host_and_cause_and_is_chained() -> None:
    async with ScriptedServer() as server:
        url = server.url
    error = await failure_of(make_client(url))
    assert str(error) == f"cannot connect to {url}: connection refused, nothing listens there (code 1006)"
    assert isinstance(error.__cause__, ConnectionRefusedError)


async def test_a_refused_handshake_says_host_status_and_when_to_try_again() -> None:
    async with ScriptedServer(refuse_handshake(429, Retry_After="7")) as server:
        error = await failure_of(make_client(server))
        told = "HTTP 429 Too Many Requests, try again in 7 s"
        assert str(error) == f"cannot connect to {server.url}: {told} (code 1006)"
        assert error.__cause__ is not None


async def test_a_deaf_server_says_how_long_was_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}"
        error = await failure_of(make_client(url, _timings=Timings(open_timeout=0.05)))
    assert str(error) == f"cannot connect to {url}: no answer within 0.05 s (code 1006)"


async def test_a_name_that_is_not_known_is_said() -> None:
    error = await failure_of(make_client("wss://nowhere.invalid"))
    assert str(error).startswith("cannot connect to wss://nowhere.invalid: its name cannot be resolved (")
    assert isinstance(error.__cause__, socket.gaierror)


async def test_what_the_server_says_before_its_welcome_is_shown_on_one_line() -> None:
    async with ScriptedServer(lambda it: it.hang_up(4001, "unknown\n key")) as server:
        error = await failure_of(make_client(server))
        assert str(error) == f"{server.url} ended the connection before its welcome (code 4001, unknown key)"
    async with ScriptedServer(stay_silent) as server:
        error = await failure_of(make_client(server, _timings=HASTY))
        assert str(error) == f"{server.url} sent no welcome within 0.05 s"


async def test_no_welcome_is_raised_as_such() -> None:
    async with ScriptedServer(stay_silent) as server:
        client = make_client(server, _timings=HASTY)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.close_reason) == (1000, "no welcome")
        await client.close()
        assert server.conversations[0].socket.close_code == 1000


async def test_after_a_failed_connect_handlers_stay_and_the_client_may_try_again() -> None:
    async with ScriptedServer(refuse_handshake(503), behave) as server:
        client = make_client(server)
        diary = Diary(client)
        stream = client.events(Connected)
        with pytest.raises(SignallingConnectError):
            await client.connect()
        await client.connect()
        assert len(diary.of(Connected)) == 1
        assert (await anext(stream)).peer_id == "ann"
        await client.close()


async def test_connect_again_after_close_is_a_new_life() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        for _ in range(3):
            await client.connect()
            await client.subscribe("a")
            await client.close()
            assert client.subscriptions == ()
        assert len(server.paths) == 3


async def test_only_one_connect_at_a_time() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        first = asyncio.ensure_future(client.connect())
        await asyncio.sleep(0)
        with pytest.raises(SignallingError):
            await client.connect()
        await first
        with pytest.raises(SignallingError):
            await client.connect()
        await client.close()


@pytest.mark.parametrize("phase", ["token", "handshake", "welcome"])
async def test_a_cancelled_connect_leaves_nothing_and_the_next_one_works(phase: str) -> None:
    asked = asyncio.Event()

    async def token() -> str:
        if phase == "token" and not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        asked.set()
        return "t"

    scripts = [stay_silent, behave] if phase == "welcome" else [behave]
    async with ScriptedServer(*scripts) as server:
        client = make_client(server, token_provider=token)
        attempt = asyncio.ensure_future(client.connect())
        await (server.reached if phase == "welcome" else asked).wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert client.state == "closed"
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("metered_realtime")]
        await client.connect()
        assert client.state == "connected"
        await client.close()


async def test_close_ends_a_connect_that_is_under_way() -> None:
    async with ScriptedServer(stay_silent) as server:
        client = make_client(server)
        attempt = asyncio.ensure_future(client.connect())
        await server.reached.wait()
        await client.close(1000, "changed my mind")
        with pytest.raises(SignallingConnectError) as caught:
            await attempt
        assert caught.value.close_reason == "changed my mind"


async def test_requests_need_a_connection() -> None:
    client = make_client("ws://localhost:1")
    for request in (client.subscribe("a"), client.unsubscribe("a"), client.publish("a", 1), client.send("bob", 1)):
        with pytest.raises(NotConnectedError):
            await request


# --- credentials

OURS = local_key("0" * PUBLISHABLE_RANDOM)
SECRET_KEY = {"secret_id": local_secret_id("0" * SECRET_ID_RANDOM), "secret": "sk_secret_" + "t" * 40}


@pytest.mark.parametrize("url", [None, "wss://rms.metered.ca", "wss://RMS.metered.ca:443", "wss://other.metered.ca"])
def test_a_key_of_ones_own_server_is_never_sent_to_the_hosted_service(url: str | None) -> None:
    for error in (LocalCredentialError, ValueError):
        with pytest.raises(error, match="url="):
            SignallingClient(api_key=OURS, url=url)
    SignallingClient(api_key="pk_live_" + "0" * 40, url=url)  # a key of the hosted service


async def test_a_key_of_ones_own_server_is_sent_there() -> None:
    async with ScriptedServer() as server, make_client(server, api_key=OURS):
        assert server.paths == [f"/v1?key={OURS}&recover=1"]
    SignallingClient(api_key=OURS, url="wss://metered.ca.example")


async def test_a_token_of_ones_own_server_is_never_sent_to_the_hosted_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(signalling_socket, "connect", never)
    client = SignallingClient(token_provider=lambda: mint_token(peer_id="a", **SECRET_KEY))
    with pytest.raises(LocalCredentialError):
        await client.connect()
    await client.close()


async def test_a_token_is_fetched_before_every_attempt() -> None:
    tokens = iter(["one", "two/2"])

    async def drop(conversation: Conversation) -> None:
        await conversation.welcome()
        conversation.drop()

    async with ScriptedServer(drop, behave) as server:
        client = make_client(server, token_provider=lambda: next(tokens))
        diary = Diary(client)
        await client.connect()
        assert (await diary.wait_for(Connected, 2)).is_reconnect
        await client.close()
    assert server.paths == ["/v1?token=one&recover=1", "/v1?token=two%2F2&recover=1"]


def later(result: object) -> Callable[[], Awaitable[object]]:
    async def provide() -> object:
        await asyncio.sleep(0)
        return result

    return provide


@pytest.mark.parametrize("result", ["", None, b"bytes", 7])
async def test_a_provider_that_returns_no_token_is_a_type_error(result: object) -> None:
    for provider in (lambda: result, later(result)):
        client = make_client("ws://localhost:1", token_provider=provider)
        with pytest.raises(TypeError, match="non-empty str"):
            await client.connect()
        assert client.state == "closed"
        await client.close()


async def test_a_provider_that_takes_too_long_is_a_timeout() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    client = make_client("ws://localhost:1", token_provider=never, token_provider_timeout=0.01)
    with pytest.raises(TimeoutError):
        await client.connect()
    await client.close()


async def test_a_provider_that_cancels_itself_fails_the_attempt() -> None:
    async def cancelled() -> str:
        raise asyncio.CancelledError

    client = make_client("ws://localhost:1", token_provider=cancelled)
    with pytest.raises(SignallingConnectError):
        await client.connect()
    await client.close()


async def test_a_provider_that_swallows_the_cancellation_opens_nothing_after_close() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        try:
            asked.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            answered.set()
        return "late"

    async with ScriptedServer() as server:
        client = make_client(server, token_provider=stubborn)
        attempt = asyncio.ensure_future(client.connect())
        await asked.wait()
        await client.close()
        assert answered.is_set()
        with pytest.raises(SignallingConnectError):
            await attempt
        assert server.paths == []


@pytest.mark.parametrize(
    "credentials", [{}, {"api_key": ""}, {"api_key": "k", "token_provider": lambda: "t"}, {"api_key": None}]
)
def test_exactly_one_credential_is_needed(credentials: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        SignallingClient(**credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option", [{"token_provider_timeout": math.nan}, {"inactivity_timeout": math.nan}, {"queue_while_reconnecting": -1}]
)
def test_options_out_of_their_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        SignallingClient(api_key="k", **option)


async def test_frames_before_and_after_the_welcome_that_make_no_sense_are_skipped() -> None:
    async def babble(conversation: Conversation) -> None:
        await conversation.say("no json")
        await conversation.say({"type": "pong"})
        await conversation.welcome()
        for frame in ("[]", b"binary", {"type": "future"}, {"type": "presence", "channel": "a"}):
            await conversation.say(frame)
        await conversation.say({"type": "message", "channel": "a", "from": "bob", "data": 1})
        await conversation.listen()

    async with ScriptedServer(babble) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        await diary.wait_for(Message)
        assert [type(event) for event in diary.events] == [StateChange, StateChange, Connected, Message]
        assert client.dropped_frames == 6
        assert client.state == "connected"
        await client.close()


async def test_a_frame_beyond_a_mebibyte_ends_the_connection_with_1009() -> None:
    async def flood(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.say("x" * (1_048_576 + 1))
        await conversation.listen()

    async with ScriptedServer(flood, behave) as server:
        client = make_client(server)
        diary = Diary(client)
        await client.connect()
        assert (await diary.wait_for(Disconnected)).code == 1009
        await diary.wait_for(Connected, 2)
        await client.close()


async def test_every_event_derives_from_event() -> None:
    async with ScriptedServer() as server:
        client = make_client(server)
        stream = client.events(Event)
        await client.connect()
        await client.close()
        assert len([event async for event in stream]) == 4
