"""The HTTP resources: methods, types, credentials, preconditions and bounds."""

from __future__ import annotations

import asyncio
import json

import pytest

from metered_realtime.bridge.options import BridgeLimits
from metered_realtime.core.negotiation.remote_sdp import MAX_SDP_LENGTH
from metered_realtime.server import SignallingServer, mint_token
from tests.bridge.support import FRAGMENT, SDP, Endpoints
from tests.support.peers import Room


async def test_a_session_has_a_location_an_entity_tag_and_takes_fragments(endpoints: Endpoints) -> None:
    client = endpoints.client()
    client.send(_video())
    reply = await client.open("/whip")
    assert reply.status == 201
    assert reply.headers["Content-Type"] == SDP
    assert reply.headers["Location"].startswith("/sessions/")
    assert len(reply.headers["Location"]) > 40
    assert reply.headers["ETag"].startswith('"')
    assert reply.headers["Accept-Patch"] == FRAGMENT
    assert "a=recvonly" in reply.text


async def test_the_ice_servers_of_the_channel_are_links() -> None:
    async with (
        SignallingServer(port=0, ice_servers=["stun:127.0.0.1:9"]) as server,
        Endpoints(Room(server)) as endpoints,
    ):
        client = endpoints.client()
        client.send(_video())
        reply = await client.open("/whip")
    assert reply.headers.getall("Link") == ['<stun:127.0.0.1:9>; rel="ice-server"']


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status", "code"),
    [
        ("/whip", "text/plain", "v=0", 415, "wrong_content_type"),
        ("/whip", None, b"v=0", 415, "wrong_content_type"),
        ("/whip", SDP, "hello", 400, "malformed_description"),
        ("/whip", SDP, b"\xff\xfe", 400, "malformed_description"),
        ("/whip", SDP, "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", 400, "malformed_description"),
        ("/whip", SDP, "v" * (MAX_SDP_LENGTH + 1), 413, "too_large"),
        ("/whip?name=" + "n" * 65, SDP, "v=0", 400, "malformed_request"),
        ("/whep/ann%00", SDP, "v=0", 400, "malformed_request"),
        ("/nothing", SDP, "v=0", 404, "not_found"),
    ],
)
async def test_unusable_requests_are_refused_with_a_problem(
    endpoints: Endpoints, path: str, content_type: str | None, body: str | bytes, status: int, code: str
) -> None:
    token = endpoints.room.server.mint_token("ann")
    reply = await endpoints.request("POST", path, token, body, content_type)
    problem = json.loads(reply.text)
    assert (reply.status, problem["status"], problem["code"]) == (status, status, code)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert endpoints.bridge.stats().refused == {code: 1}
    assert endpoints.bridge.stats().sessions == ()


async def test_an_offer_that_sends_nothing_cannot_publish(endpoints: Endpoints) -> None:
    client = endpoints.client()
    client.receive("video")
    reply = await client.open("/whip")
    assert (reply.status, reply.code) == (422, "unusable_description")


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        (None, 401, "credential_missing"),
        ("Basic YTpi", 401, "credential_missing"),
        ("Bearer", 401, "credential_missing"),
        ("Bearer nonsense", 401, "credential_refused"),
        ("Bearer " + "x" * 20_000, 401, "credential_missing"),
    ],
)
@pytest.mark.parametrize("path", ["/whip", "/whep"])
async def test_a_bearer_token_that_the_server_takes_is_needed(
    endpoints: Endpoints, path: str, authorization: str | None, status: int, code: str
) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    reply = await endpoints.request("POST", path, None, "v=0", SDP, headers)
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("/whip", {"channels": ["elsewhere"]}),
        ("/whep", {"channels": ["elsewhere"]}),
        ("/whip", {"permissions": ["subscribe", "presence"]}),
        ("/whip", {"permissions": ["send", "presence"]}),
        ("/whep", {"permissions": ["send", "presence"]}),
    ],
)
async def test_a_token_without_the_right_is_refused(
    endpoints: Endpoints, path: str, claims: dict[str, list[str]]
) -> None:
    client = endpoints.client(**claims)
    client.send(_video())
    reply = await client.open(path)
    assert (reply.status, reply.code) == (403, "not_permitted")


async def test_an_expired_token_is_refused(endpoints: Endpoints) -> None:
    server = endpoints.room.server
    token = mint_token(secret_id=server.secret_id, secret=server.secret, peer_id="ann", now=1_000)
    reply = await endpoints.request("POST", "/whip", token, "v=0", SDP)
    assert (reply.status, reply.code) == (401, "credential_refused")


async def test_with_a_static_token_that_one_is_needed(room: Room) -> None:
    async with Endpoints(room, token="secret") as endpoints:
        refused = await endpoints.request("POST", "/whip", room.server.mint_token("ann"), "v=0", SDP)
        assert (refused.status, refused.code) == (401, "credential_refused")
        client = endpoints.client()
        client.token = "secret"
        client.send(_video())
        assert (await client.open("/whip")).status == 201


async def test_a_publishable_key_is_a_bearer_token_too(endpoints: Endpoints) -> None:
    client = endpoints.client()
    client.token = endpoints.room.server.api_key
    client.send(_video())
    assert (await client.open("/whip")).status == 201


async def test_a_server_that_is_gone_is_told(room: Room) -> None:
    async with Endpoints(room) as endpoints:
        await room.server.stop()
        reply = await endpoints.request("POST", "/whip", "token", "v=0", SDP)
    assert (reply.status, reply.code) == (502, "server_unreachable")


@pytest.mark.parametrize("path", ["/whip", "/whep", "/whep/ann", "/sessions/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_other_methods_are_not_for_these_resources(endpoints: Endpoints, path: str, method: str) -> None:
    reply = await endpoints.request(method, path)
    assert reply.status == 405
    assert reply.headers["Allow"] == ("PATCH, DELETE, OPTIONS" if path.startswith("/sessions") else "POST, OPTIONS")


async def test_pages_of_any_origin_may_use_the_endpoints(endpoints: Endpoints) -> None:
    preflight = await endpoints.request("OPTIONS", "/whep", headers={"Origin": "https://example.org"})
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Accept-Post"] == SDP
    refused = await endpoints.request("POST", "/whep")
    assert refused.headers["Access-Control-Allow-Origin"] == "*"
    for name in ("Location", "ETag", "Link"):
        assert name in refused.headers["Access-Control-Expose-Headers"]


async def test_a_session_is_only_for_its_own_token_and_gone_after_its_end(endpoints: Endpoints) -> None:
    client = await endpoints.publish()
    other = endpoints.room.server.mint_token("bob")
    for method in ("DELETE", "PATCH"):
        assert (await endpoints.request(method, client.location)).status == 401
        assert (await endpoints.request(method, client.location, other)).status == 401
    assert (await client.delete()).status == 200
    assert (await client.delete()).status == 404
    assert (await client.patch("a=end-of-candidates\r\n", "*")).status == 404


@pytest.mark.parametrize(
    ("fragment", "if_match", "status", "code"),
    [
        ("a=end-of-candidates\r\n", None, 428, "precondition_required"),
        ("a=end-of-candidates\r\n", '"outdated"', 412, "precondition_failed"),
        ("a=ice-ufrag:abcd\r\n", "ETAG", 400, "malformed_fragment"),
        ("a=candidate:nonsense\r\n", "ETAG", 400, "malformed_fragment"),
        ("a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n", "ETAG", 204, None),
        ("a=end-of-candidates\r\n", "ETAG", 204, None),
    ],
)
async def test_candidates_are_for_the_current_ice_session(
    endpoints: Endpoints, fragment: str, if_match: str | None, status: int, code: str | None
) -> None:
    client = await endpoints.publish()
    reply = await client.patch(fragment, client.etag if if_match == "ETAG" else if_match)
    assert (reply.status, reply.code) == (status, code)
    assert client.pc.connectionState == "connected"


async def test_fragments_of_another_type_are_refused(endpoints: Endpoints) -> None:
    client = await endpoints.publish()
    reply = await endpoints.request("PATCH", client.location, client.token, "x", SDP)
    assert (reply.status, reply.code) == (415, "wrong_content_type")
    assert reply.headers["Accept-Patch"] == FRAGMENT


async def test_sessions_are_bounded_and_free_places_are_taken_again(room: Room) -> None:
    async with Endpoints(room, limits=BridgeLimits(sessions_per_address=1)) as endpoints:
        first = await endpoints.publish("ann")
        second = endpoints.client("bob")
        second.send(_video())
        reply = await second.open("/whip")
        assert (reply.status, reply.code) == (503, "too_many_sessions")
        assert int(reply.headers["Retry-After"]) > 0
        await first.delete()
        await endpoints.publish("bob")


async def test_requests_that_open_sessions_are_bounded(room: Room) -> None:
    limits = BridgeLimits(requests_per_second=0.001, request_burst=2)
    async with Endpoints(room, limits=limits) as endpoints:
        replies = [await endpoints.request("POST", "/whip") for _ in range(3)]
    assert [it.status for it in replies] == [401, 401, 429]
    assert int(replies[2].headers["Retry-After"]) > 0


async def test_a_client_that_sends_nothing_is_not_waited_for(room: Room) -> None:
    async with Endpoints(room, limits=BridgeLimits(request_time=0.05)) as endpoints:
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoints.bridge.port)
        token = room.server.mint_token("ann")
        writer.write(
            f"POST /whip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: {SDP}\r\nContent-Length: 9\r\n\r\n".encode()
        )
        status = await reader.readline()
        await reader.read()  # until the bridge has closed the connection
        writer.close()
        await writer.wait_closed()
    assert b" 504 " in status


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="sessions must be a positive number, not 0"):
        BridgeLimits(sessions=0)


def _video() -> list[object]:
    from metered_realtime.media.sources.testsource import PatternTrack

    return [PatternTrack(width=320, height=240)]
