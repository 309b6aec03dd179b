"""What endpoints may answer, kindly or not: redirections, refusals, and things that no client should read."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from metered_realtime import (
    MeteredRealtimeError,
    NegotiationFailedError,
    WhipConnectError,
    WhipProtocolError,
    WhipRequestError,
    whip_publish,
)
from metered_realtime.whip import http_client
from tests.support.peers import GreyTrack
from tests.whip.endpoint import Endpoint, Handler, hangs, replies, serve

SDP = "application/sdp"


async def failure(endpoint: Endpoint, **options: Any) -> MeteredRealtimeError:
    """Return how publishing fails."""
    with pytest.raises(MeteredRealtimeError) as caught:
        await whip_publish(endpoint.url, [GreyTrack()], **options)
    return caught.value


# --- redirections and the token


@pytest.fixture
async def other() -> AsyncIterator[Endpoint]:
    """An endpoint at another origin."""
    endpoint = Endpoint()
    runner, origin = await serve(endpoint.handle)
    endpoint.url = f"{origin}/elsewhere/whip"
    yield endpoint
    await endpoint.close()
    await runner.cleanup()


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirection_within_the_origin_keeps_the_token(endpoint: Endpoint, status: int) -> None:
    endpoint.answer("POST", replies(status, headers={"Location": "/b/whip"}))
    async with await whip_publish(endpoint.url, [GreyTrack()], token="hush") as session:
        assert session.url == endpoint.url.replace("/live/whip", "/sessions/s0")
    first, second = endpoint.of("POST")
    assert (second.path, second.body) == ("/b/whip", first.body)
    assert second.headers["Authorization"] == "Bearer hush"


async def test_a_redirection_to_another_origin_takes_no_token_along(endpoint: Endpoint, other: Endpoint) -> None:
    endpoint.answer("POST", replies(307, headers={"Location": other.url}))
    async with await whip_publish(endpoint.url, [GreyTrack()], token="hush") as session:
        assert session.url == other.url.replace("/elsewhere/whip", "/sessions/s0")
    assert "Authorization" in endpoint.seen[0].headers
    assert [it.method for it in other.seen] == ["POST", "PATCH", "DELETE"]
    assert all("Authorization" not in it.headers for it in other.seen)


async def test_redirections_in_a_circle_end(endpoint: Endpoint) -> None:
    endpoint.answer("POST", replies(307, headers={"Location": endpoint.url}), times=100)
    assert isinstance(error := await failure(endpoint), WhipProtocolError)
    assert "more than 5 times" in str(error)
    assert len(endpoint.seen) == 6


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirection_that_would_change_the_method_is_a_refusal(endpoint: Endpoint, status: int) -> None:
    endpoint.answer("POST", replies(status, headers={"Location": endpoint.url}))
    assert isinstance(error := await failure(endpoint), WhipRequestError)
    assert error.status == status


async def test_a_token_may_change_with_each_request(endpoint: Endpoint) -> None:
    tokens = iter(["one", "two", "three"])

    async def fresh() -> str:
        return next(tokens)

    async with await whip_publish(endpoint.url, [GreyTrack()], token=fresh, ice_servers=[]):
        pass
    assert [it.headers["Authorization"] for it in endpoint.seen] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("token", ["", "a b", "a\r\nHost: x", "ü", "x" * 9000])
async def test_a_token_that_a_header_cannot_hold_is_refused(endpoint: Endpoint, token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        await whip_publish(endpoint.url, [GreyTrack()], token=token)
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://localhost/whip", "begins with https"),
        ("/whip", "begins with https"),
        ("https:///whip", "has a host"),
        ("https://user:hush@localhost/whip", "user info"),
        ("http://localhost:0/whip", "port"),
        ("http://localhost:99999/whip", "Port"),
        ("http://192.0.2.7/whip", "in the clear"),
    ],
)
async def test_a_url_that_cannot_be_used_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        await whip_publish(url, [GreyTrack()], token="hush")
    assert "hush" not in str(refused.value)


async def test_a_token_is_sent_unencrypted_only_to_this_host_or_on_request() -> None:
    here = http_client.HttpClient("http://localhost/whip", "hush")
    insecure = http_client.HttpClient("http://192.0.2.7/whip", "hush", allow_insecure=True)
    without = http_client.HttpClient("http://192.0.2.7/whip", None)
    await asyncio.gather(here.close(), insecure.close(), without.close())


# --- refusals


async def test_a_refusal_says_what_the_endpoint_said(endpoint: Endpoint) -> None:
    problem = '{"title": "no", "detail": "token\\nhush is\\u0007 over"}'
    endpoint.answer("POST", replies(401, text=problem, content_type="application/problem+json"))
    error = await failure(endpoint, token="hush")
    assert isinstance(error, WhipRequestError)
    assert (error.status, error.detail, error.retry_after) == (401, "token*** is over", None)
    assert str(error) == "POST was answered with 401: token*** is over"


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"text": "full"}, "full"),
        ({"text": "x" * 100_000}, "x" * 123),
        ({"text": "<html>", "content_type": "text/html"}, ""),
        ({"text": "[" * 50_000, "content_type": "application/json"}, ""),
        ({"text": '{"title": "busy", "detail": 5}', "content_type": "application/json"}, "busy"),
        ({"body": b"\xff\xfe", "content_type": "text/plain"}, "\ufffd\ufffd"),
    ],
)
async def test_the_detail_of_a_refusal_is_bounded(endpoint: Endpoint, options: dict[str, Any], detail: str) -> None:
    endpoint.answer("POST", replies(503, **options))
    assert isinstance(error := await failure(endpoint), WhipRequestError)
    assert error.detail == detail


def in_an_hour() -> str:
    return email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7", 7, 7), ("9" * 30, 86_400, 86_400), ("-5", None, None), ("soon", None, None), (in_an_hour, 3000, 3600)],
)
async def test_a_refusal_says_when_to_come_back(
    endpoint: Endpoint, value: str | Callable[[], str], least: float | None, most: float | None
) -> None:
    endpoint.answer("POST", replies(503, headers={"Retry-After": value() if callable(value) else value}))
    assert isinstance(error := await failure(endpoint), WhipRequestError)
    if least is None or most is None:
        assert error.retry_after is None
    else:
        assert error.retry_after is not None
        assert least <= error.retry_after <= most


# --- answers that cannot be used


def created(**options: Any) -> Handler:
    headers = {"Location": "/sessions/x", "Content-Type": SDP, **options.pop("headers", {})}
    return replies(201, headers=headers, **options)


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (replies(201, body=b"v=0", headers={"Content-Type": SDP}), "without Location"),
        (replies(204), "answered an offer with 204"),
        (created(body=b"v=0", headers={"Location": "ftp://x/y"}), "cannot be used"),
        (created(body=b"v=0", headers={"Location": "https://a:b@x/y"}), "user info"),
        (created(body=b"<html>", headers={"Content-Type": "text/html"}), "'text/html'"),
        (created(body=b"x" * 300_000), "more than 262144 bytes"),
        (created(body=b"x", headers={"Content-Encoding": "br"}), "compressed"),
    ],
)
async def test_an_answer_outside_the_protocol_is_refused(endpoint: Endpoint, handler: Handler, reason: str) -> None:
    endpoint.answer("POST", handler)
    assert isinstance(error := await failure(endpoint), WhipProtocolError)
    assert reason in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"\x00" * 5000, b"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", b"m=x\n" * 50_000]
)
async def test_an_answer_that_describes_nothing_usable_is_refused(endpoint: Endpoint, body: bytes) -> None:
    endpoint.answer("POST", created(body=body))
    assert isinstance(await failure(endpoint), NegotiationFailedError)
    assert [it.path for it in endpoint.of("DELETE")] == ["/sessions/x"]


async def raw_server(reply: bytes) -> tuple[asyncio.Server, str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/whip"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 201 Created\r\nLocation: /" + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n" + b"Link: <stun:x>\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 201 Created\r\nLocation: /x\r\nContent-Length: 99\r\n\r\nv=0",
    ],
)
async def test_what_is_not_http_is_a_failed_connection(endpoint: Endpoint, reply: bytes) -> None:
    server, endpoint.url = await raw_server(reply)
    async with server:
        assert isinstance(error := await failure(endpoint), WhipConnectError)
    assert len(str(error)) < 400


async def test_an_endpoint_that_is_not_there_is_a_failed_connection(endpoint: Endpoint) -> None:
    server, endpoint.url = await raw_server(b"")
    server.close()
    await server.wait_closed()
    error = await failure(endpoint, token="hush")
    assert isinstance(error, WhipConnectError)
    assert isinstance(error.__cause__, OSError)


async def test_an_endpoint_that_does_not_answer_is_a_failed_connection(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "REQUEST_TIMEOUT", 0.3)
    endpoint.answer("POST", hangs(asyncio.Event()))
    assert isinstance(error := await failure(endpoint), WhipConnectError)
    assert "did not answer within 0.3 s" in str(error)


async def test_an_endpoint_that_answers_byte_by_byte_is_a_failed_connection(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "REQUEST_TIMEOUT", 0.3)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=201, headers={"Location": "/x", "Content-Type": SDP})
        await response.prepare(request)
        while True:
            await response.write(b"v")
            await asyncio.sleep(0.02)

    endpoint.answer("POST", drip)
    assert isinstance(await failure(endpoint), WhipConnectError)
