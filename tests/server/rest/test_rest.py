"""The REST API, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
import pytest

from metered_realtime.server import App, Limits, PublishableKey, SecretKey, SignallingServer
from metered_realtime.server.plan import Plan

from ...support.probe import dialled, welcomed
from ...support.rest_client import backend

SECRET = "sk_secret_" + "s" * 40


def narrow_app(**options: Any) -> App:
    key = SecretKey(id="sk_id_narrow", secret=SECRET, channel_patterns=("a/*",), **options)
    return App("narrow", (PublishableKey(key="pk_live_narrow"),), (key,))


NARROW = f"sk_id_narrow:{SECRET}"


ROUTES = [
    ("POST", "/tokens"),
    ("GET", "/channels/c/peers"),
    ("POST", "/channels/c/publish"),
    ("DELETE", "/peers/ann"),
    ("GET", "/usage"),
]


class TestAuthentication:
    @pytest.mark.parametrize("route", ROUTES)
    async def test_authentication_is_asked_of_every_endpoint(
        self, server: SignallingServer, route: tuple[str, str]
    ) -> None:
        async with backend(server, None) as stranger:
            assert (await stranger.ask(*route)).error == (401, "unauthorized")

    async def test_authentication_answers_every_bad_credential_alike(self) -> None:
        revoked = App("old", (), (SecretKey(id="sk_id_old", secret=SECRET, revoked=True),))
        async with SignallingServer(apps=[revoked]) as server:
            bad = [
                "",
                "nonsense",
                server.secret_id,
                f"{server.secret_id}:",
                f"{server.secret_id}:{SECRET}",
                f"sk_id_unknown:{server.secret}",
                f"sk_id_old:{SECRET}",
                server.api_key,
                f"{server.api_key}:{server.secret}",
                server.mint_token("ann"),
            ]
            answers = []
            for credential in bad:
                async with backend(server, None) as client:
                    answers.append(await client.ask("GET", "/usage", headers={"Authorization": f"Bearer {credential}"}))
            async with backend(server, None) as client:
                pair = f"{server.secret_id}:{server.secret}"
                answers.append(await client.ask("GET", "/usage", headers={"Authorization": f"Basic {pair}"}))
            assert {answer.status for answer in answers} == {401}
            assert all(answer.body == answers[0].body for answer in answers)
            assert all(set(answer.headers) == set(answers[0].headers) for answer in answers)

    async def test_authentication_does_the_same_work_for_every_bad_credential(
        self, server: SignallingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[tuple[int, int]] = []

        def compare(one: bytes, other: bytes) -> bool:
            sizes.append((len(one), len(other)))
            return one == other

        monkeypatch.setattr("metered_realtime.server.auth.hmac.compare_digest", compare)
        bad = ["nonsense", server.secret_id, f"{server.secret_id}:short", f"sk_id_unknown:{server.secret}"]
        for bearer in bad:
            async with backend(server, bearer) as client:
                assert (await client.ask("GET", "/usage")).status == 401
        assert sizes == [(32, 32)] * len(bad)

    async def test_authentication_never_logs_a_credential(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(0)
        async with SignallingServer() as server, backend(server) as ours:
            await ours.ask("GET", "/usage")
            assert server.secret not in caplog.text


class TestTokens:
    async def test_tokens_let_a_peer_in(self, server: SignallingServer) -> None:
        async with backend(server) as ours:
            answer = await ours.ask(
                "POST",
                "/tokens",
                {
                    "peerId": "ann",
                    "channels": ["a/*"],
                    "permissions": ["subscribe", "presence"],
                    "expiresInSec": 60,
                    "metadata": {"m": 1},
                    "peerMetadata": {"name": "Änn"},
                },
            )
        assert answer.status == 200
        assert set(answer.body) == {"token", "expiresAt"}
        async with dialled(server, f"token={answer.body['token']}") as probe:
            welcome = await probe.get()
            assert (welcome["peerId"], welcome["expiresAt"]) == ("ann", answer.body["expiresAt"])
            assert welcome["metadata"] == {"m": 1}
            assert (await probe.ask("publish", channel="a/1", data=1))["code"] == "action_not_permitted"
            assert (await probe.ask("subscribe", channel="b"))["code"] == "channel_not_authorized"

    async def test_tokens_live_an_hour_and_have_the_scope_of_the_key_by_default(self, server: SignallingServer) -> None:
        async with backend(server) as ours:
            answer = await ours.ask("POST", "/tokens", {"peerId": "ann", "unknown": 1})
        claims = jwt.decode(answer.body["token"], server.secret, algorithms=["HS256"])
        assert set(claims) == {"sub", "iat", "exp"}
        assert claims["exp"] - claims["iat"] == 3600

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            ({}, (400, "invalid_request")),
            ([], (400, "invalid_request")),
            ({"peerId": 7}, (400, "invalid_request")),
            ({"peerId": ""}, (400, "invalid_request")),
            ({"peerId": "x" * 129}, (400, "invalid_request")),
            ({"peerId": "Änn"}, (400, "invalid_request")),
            ({"peerId": "ann", "expiresInSec": 0}, (400, "invalid_request")),
            ({"peerId": "ann", "expiresInSec": 86_401}, (400, "invalid_request")),
            ({"peerId": "ann", "expiresInSec": 1.5}, (400, "invalid_request")),
            ({"peerId": "ann", "expiresInSec": True}, (400, "invalid_request")),
            ({"peerId": "ann", "channels": "a/1"}, (400, "invalid_request")),
            ({"peerId": "ann", "channels": ["a/1"] * 101}, (400, "invalid_request")),
            ({"peerId": "ann", "channels": [""]}, (400, "invalid_request")),
            ({"peerId": "ann", "channels": ["_System/x"]}, (400, "channel_reserved")),
            ({"peerId": "ann", "channels": ["a/1", "b/1"]}, (403, "channel_not_authorized")),
            ({"peerId": "ann", "channels": ["a/**"]}, (403, "channel_not_authorized")),
            ({"peerId": "ann", "permissions": ["fly"]}, (400, "invalid_request")),
            ({"peerId": "ann", "permissions": ["publish"] * 17}, (400, "invalid_request")),
            ({"peerId": "ann", "permissions": ["send"]}, (403, "action_not_permitted")),
            ({"peerId": "ann", "metadata": []}, (400, "invalid_request")),
            ({"peerId": "ann", "metadata": {"x": "x" * 8_192}}, (400, "invalid_request")),
            ({"peerId": "ann", "peerMetadata": {"x": "x" * 4_096}}, (400, "invalid_request")),
        ],
        ids=lambda value: str(value)[:60],
    )
    async def test_tokens_are_refused_for_a_reason(self, body: Any, error: tuple[int, str]) -> None:
        app = narrow_app(actions=frozenset({"publish", "subscribe"}))
        async with SignallingServer(apps=[app]) as server, backend(server, NARROW) as ours:
            assert (await ours.ask("POST", "/tokens", body)).error == error

    async def test_tokens_given_out_are_within_the_limits_of_the_server(self) -> None:
        limits = Limits(peer_metadata_size=10)
        async with SignallingServer(limits=limits) as server, backend(server) as ours:
            body = {"peerId": "ann", "peerMetadata": {"name": "Annabella"}}
            assert (await ours.ask("POST", "/tokens", body)).error == (400, "invalid_request")


class TestRoster:
    async def test_the_roster_lists_everybody_with_their_metadata(self, server: SignallingServer) -> None:
        ann_s = {"peerId": "ann", "metadata": {"n": 1}}
        async with welcomed(server, "ann", peer_metadata={"n": 1}) as ann, welcomed(server, "bob") as bob:
            await ann.join("räum/ 1")
            await bob.join("räum/ 1")
            async with backend(server) as ours:
                answer = await ours.ask("GET", "/channels/r%C3%A4um%2F%201/peers")
        assert answer.status == 200
        assert answer.body == {"channel": "räum/ 1", "peers": [ann_s, {"peerId": "bob"}]}

    async def test_the_roster_may_be_empty(self, server: SignallingServer) -> None:
        async with backend(server) as ours:
            assert (await ours.ask("GET", "/channels/c/peers")).body == {"channel": "c", "peers": []}

    @pytest.mark.parametrize(
        ("name", "channel"), [("a%252Fb", "a%2Fb"), ("100%25", "100%"), ("a+b", "a+b"), ("%2e%2E", ".."), ("*", "*")]
    )
    async def test_the_roster_reads_an_escaped_name_once(
        self, server: SignallingServer, name: str, channel: str
    ) -> None:
        async with backend(server) as ours:
            assert (await ours.ask("GET", f"/channels/{name}/peers")).body["channel"] == channel

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("", (400, "invalid_request")),
            ("%00", (400, "invalid_request")),
            ("%ff", (400, "invalid_request")),
            ("x" * 257, (400, "invalid_request")),
            ("_metered%2Fx", (400, "channel_reserved")),
            ("b", (403, "channel_not_authorized")),
            ("a%2F1%2F2", (403, "channel_not_authorized")),
        ],
    )
    @pytest.mark.parametrize("route", [("GET", "peers"), ("POST", "publish")])
    async def test_the_roster_and_publish_refuse_a_bad_name(
        self, route: tuple[str, str], name: str, error: Any
    ) -> None:
        method, what = route
        async with SignallingServer(apps=[narrow_app()]) as server, backend(server, NARROW) as ours:
            body = {"data": 1} if method == "POST" else None
            assert (await ours.ask(method, f"/channels/{name}/{what}", body)).error == error

    async def test_the_roster_and_publish_need_their_actions(self) -> None:
        app = narrow_app(actions=frozenset({"send"}))
        async with SignallingServer(apps=[app]) as server, backend(server, NARROW) as ours:
            answers = [
                await ours.ask("GET", "/channels/a%2F1/peers"),
                await ours.ask("POST", "/channels/a%2F1/publish", {"data": 1}),
            ]
            assert [answer.error for answer in answers] == [(403, "action_not_permitted")] * 2


class TestPublish:
    async def test_publish_reaches_the_subscribers(self, server: SignallingServer) -> None:
        async with backend(server) as ours, welcomed(server, "ann") as ann, welcomed(server, "bob") as bob:
            await ann.join("a/1", includeSenderMetadata=True)
            await bob.join("a/1")
            await ann.get()
            answer = await ours.ask(
                "POST", "/channels/a%2F1/publish", {"data": {"n": None}, "peerMetadata": {"by": "us"}}
            )
            assert (answer.status, answer.body) == (200, {"channel": "a/1", "delivered": 2})
            plain = {"type": "message", "channel": "a/1", "from": "system", "data": {"n": None}}
            assert await ann.get() == {**plain, "fromMetadata": {"by": "us"}}
            assert await bob.get() == plain
            await ours.ask("POST", "/channels/a%2F1/publish", {"data": None, "from": "clock"})
            assert await bob.get() == {"type": "message", "channel": "a/1", "from": "clock", "data": None}
            await ours.ask("POST", "/channels/a%2F1/publish", {"data": "cut \ud83d"})
            assert (await bob.get())["data"] == "cut \ufffd"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"data": 1, "from": ""},
            {"data": 1, "from": "Änn"},
            {"data": 1, "from": "ann"},
            {"data": 1, "from": None},
            {"data": 1, "peerMetadata": []},
            {"data": 1, "peerMetadata": {"x": "x" * 4_096}},
        ],
        ids=str,
    )
    async def test_publish_refuses_bad_fields_and_the_id_of_a_live_peer(
        self, server: SignallingServer, body: Any
    ) -> None:
        async with backend(server) as ours, welcomed(server, "ann"):
            assert (await ours.ask("POST", "/channels/c/publish", body)).error == (400, "invalid_request")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b'{"data":NaN}',
            b'{"data":"\xff"}',
            b'{"data":' + b"[" * 30_000,
            b'{"data":1,"peerMetadata":{"x":1e999}}',
        ],
        ids=lambda body: str(body[:20]),
    )
    async def test_publish_refuses_what_is_not_json(self, server: SignallingServer, body: bytes) -> None:
        async with backend(server) as ours:
            assert (await ours.ask("POST", "/channels/c/publish", data=body)).error == (400, "invalid_request")


class TestClosePeer:
    async def test_closing_a_peer_ends_every_connection_of_the_peer_in_the_app(self) -> None:
        async with SignallingServer(apps=[narrow_app()]) as server, welcomed(server) as bob:
            await bob.join("c")
            async with welcomed(server, "a/nn") as one, welcomed(server, "a/nn") as two, backend(server) as ours:
                await one.join("c")
                await bob.get()
                async with backend(server, NARROW) as foreign:
                    assert (await foreign.ask("DELETE", "/peers/a%2Fnn")).body == {"peerId": "a/nn", "closed": 0}
                answer = await ours.ask("DELETE", "/peers/a%2Fnn")
                assert (answer.status, answer.body) == (200, {"peerId": "a/nn", "closed": 2})
                assert [(await probe.ending())[0] for probe in (one, two)] == [4020, 4020]
                assert (await bob.get())["left"] == [{"peerId": "a/nn", "expelled": True}]
                assert (await ours.ask("DELETE", "/peers/a%2Fnn")).body["closed"] == 0

    @pytest.mark.parametrize("peer_id", ["", "%C3%A4", "x" * 129, "%0A", "%ff"])
    async def test_closing_a_peer_refuses_a_bad_id(self, server: SignallingServer, peer_id: str) -> None:
        async with backend(server) as ours:
            assert (await ours.ask("DELETE", f"/peers/{peer_id}")).error == (400, "invalid_request")


class TestUsage:
    async def test_usage_counts_connections_and_messages(self) -> None:
        plan = Plan(name="BIG", max_messages_per_period=1_000)
        app = App("app", (), (SecretKey(id="sk_id_narrow", secret=SECRET),), plan)
        async with SignallingServer(apps=[app]) as server, backend(server, NARROW) as ours:
            token = (await ours.ask("POST", "/tokens", {"peerId": "ann"})).body["token"]
            async with dialled(server, f"token={token}") as ann:
                await ann.get()
                await ann.ask("publish", channel="c", data=1)
                await ann.ask("send", to="nobody", data=1)
                await ours.ask("POST", "/channels/c/publish", {"data": 1})
            await asyncio.sleep(0)
            usage = (await ours.ask("GET", "/usage")).body
        assert usage["periodStartUnix"] < usage["periodEndUnix"]
        assert (usage["appId"], usage["peakConcurrent"], usage["messagesUsed"]) == ("app", 1, 3)
        assert (usage["overageMessages"], usage["overageConnections"]) == (0, 0)
        assert usage["plan"] == {
            "name": "BIG",
            "maxConcurrentConnections": None,
            "maxMessagesPerPeriod": 1_000,
            "overagesAllowed": False,
            "overagesEnabled": False,
        }


class TestRefusals:
    @pytest.mark.parametrize("path", ["/", "/token", "/tokens/", "/channels/a/b/peers", "/peers/a/b", "/openapi"])
    async def test_refusals_of_an_unknown_route_are_json(self, server: SignallingServer, path: str) -> None:
        async with backend(server, None) as anybody:
            assert (await anybody.ask("GET", path)).error == (404, "not_found")

    async def test_refusals_of_another_method_name_those_that_there_are(self, server: SignallingServer) -> None:
        async with backend(server) as ours:
            answer = await ours.ask("GET", "/tokens")
            assert (*answer.error, answer.headers["Allow"]) == (405, "not_found", "POST")

    async def test_refusals_of_a_large_body_come_at_the_cap(self, server: SignallingServer) -> None:
        async with backend(server) as ours:
            frame = len('{"data":""}')
            for size, status in ((32_768, 200), (32_769, 413), (1_000_000, 413)):
                body = b'{"data":"' + b"x" * (size - frame) + b'"}'
                answer = await ours.ask("POST", "/channels/c/publish", data=body)
                assert answer.status == status
            assert answer.error == (413, "invalid_request")

    async def test_refusals_of_the_rate_of_an_address_come_before_all_else(self) -> None:
        limits = Limits(rest_burst=2, rest_per_second=0.1)
        async with SignallingServer(limits=limits) as server, backend(server, None) as stranger:
            answers = [await stranger.ask("GET", "/usage") for _ in range(3)]
            assert [answer.status for answer in answers] == [401, 401, 429]
            assert answers[2].headers["Retry-After"] == "10"
            assert "error" not in answers[2].body

    async def test_refusals_of_the_rate_of_a_key_concern_that_key(self) -> None:
        limits = Limits(rest_key_burst=1, rest_key_per_second=0.1)
        async with SignallingServer(limits=limits, apps=[narrow_app()]) as server, backend(server) as ours:
            assert [(await ours.ask("GET", "/usage")).status for _ in range(2)] == [200, 429]
            async with backend(server, NARROW) as theirs:
                assert (await theirs.ask("GET", "/usage")).status == 200
