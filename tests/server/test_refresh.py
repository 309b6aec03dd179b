"""Token refreshes on open connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime.core.wire.frames import encode_payload
from metered_realtime.server import SignallingServer
from metered_realtime.server.auth import mint_token
from metered_realtime.server.hub import Identity
from metered_realtime.server.keys import App, SecretKey, new_secret_pair
from metered_realtime.server.rights import ACTIONS, Grant

from ..support.probe import EVERYTHING, Guest, Probe, dialled, key_query, lone_hub, welcomed

ACK = {"type": "ack", "requestId": "r"}


class TestTheHub:
    """Rights and metadata of a live connection."""

    def setup_method(self) -> None:
        self.hub = lone_hub()
        self.ann = Guest(self.hub, "ann", metadata={"role": "old"})
        self.bob = Guest(self.hub, "bob")

    def refresh(self, grant: Grant = EVERYTHING, request_id: str | None = "r", **fields: Any) -> None:
        self.hub.refresh(self.ann.subscriber, Identity("ann", grant, **fields), request_id)

    def test_a_refresh_answers_with_the_expiry_and_the_metadata_for_the_peer_alone(self) -> None:
        self.refresh(expires_at=9, metadata={"iceServers": []})
        assert self.ann.take() == [ACK | {"expiresAt": 9, "metadata": {"iceServers": []}}]
        assert self.bob.take() == []

    def test_a_refresh_answers_nothing_without_a_request_id(self) -> None:
        self.refresh(request_id=None)
        assert self.ann.take() == []

    def test_a_refresh_applies_the_new_rights_at_once(self) -> None:
        self.refresh(Grant(ACTIONS - {"publish"}, ("b/*",)))
        self.ann.take()
        self.ann.publish("b/1", request_id="r1")
        self.ann.subscribe("a", "r2")
        self.ann.subscribe("b/1", "r3")
        assert [frame.get("code", "ok") for frame in self.ann.take()] == [
            "action_not_permitted",
            "channel_not_authorized",
            "ok",
            "ok",  # the snapshot
        ]

    def test_a_refresh_shows_others_the_new_metadata_from_then_on_and_announces_nothing(self) -> None:
        self.ann.subscribe("a")
        self.bob.subscribe("a", wants_metadata=True)
        self.bob.take()
        self.refresh(peer_metadata=encode_payload({"role": "new"}))
        assert self.bob.take() == []
        self.ann.publish("a", 1)
        assert self.bob.take()[0]["fromMetadata"] == {"role": "new"}
        self.bob.subscribe("a")
        assert self.bob.take()[0]["joined"] == [{"peerId": "ann", "metadata": {"role": "new"}}]

    def test_a_refresh_ends_subscriptions_that_are_out_of_scope_and_says_which(self) -> None:
        for channel in ("a", "b", "*"):
            self.ann.subscribe(channel)
        self.bob.subscribe("a")
        self.ann.take()
        self.bob.take()
        self.refresh(Grant(ACTIONS, ("b",)), peer_metadata=encode_payload({"role": "old"}))
        ack, *errors = self.ann.take()
        assert ack == ACK
        assert [error["code"] for error in errors] == ["channel_not_authorized"] * 2
        assert all("requestId" not in error for error in errors)
        left = [{"peerId": "ann", "metadata": {"role": "old"}}]
        assert self.bob.take() == [{"type": "presence", "channel": "a", "joined": [], "left": left}]
        self.bob.publish("a", 1)
        assert self.ann.take() == []
        self.bob.publish("b", 1)
        assert [frame["channel"] for frame in self.ann.take()] == ["b"]

    def test_a_refresh_brings_snapshots_when_presence_is_new(self) -> None:
        blind = Grant(ACTIONS - {"presence"}, ("**",))
        self.refresh(blind)
        self.bob.subscribe("a")
        self.ann.subscribe("a")
        self.ann.take()
        self.refresh()
        snapshot = {"type": "presence", "channel": "a", "joined": [{"peerId": "bob"}], "left": []}
        assert self.ann.take() == [ACK, snapshot]
        self.refresh()
        assert self.ann.take() == [ACK]


@asynccontextmanager
async def expiring(server: SignallingServer, seconds: int) -> AsyncIterator[Probe]:
    """Connect as ann with a token of this lifetime, counted from the last full second."""
    token = server.mint_token("ann", expires_in=seconds)
    async with dialled(server, f"token={token}") as probe:
        assert (await probe.get())["type"] == "welcome"
        yield probe


class TestTheServer:
    """The `refresh` frame on a real connection."""

    async def test_the_server_keeps_a_connection_beyond_the_end_of_its_first_token(
        self, server: SignallingServer
    ) -> None:
        async with expiring(server, 2) as probe:
            answer = await probe.ask("refresh", token=server.mint_token("ann", expires_in=60))
            assert answer["type"] == "ack"
            assert answer["expiresAt"] == pytest.approx(time.time() + 60, abs=2)
            await asyncio.sleep(2)
            assert await probe.ask("ping") == {"type": "pong", "requestId": "r"}

    async def test_the_server_closes_at_the_end_of_the_second_token(self, server: SignallingServer) -> None:
        async with expiring(server, 60) as probe:
            await probe.ask("refresh", token=server.mint_token("ann", expires_in=2))
            assert await probe.ending() == (4002, "token expired")

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            ("no token at all", "action_not_permitted"),
            ("expired", "action_not_permitted"),
            ("foreign app", "action_not_permitted"),
            ("unknown key", "action_not_permitted"),
            ("other peer", "invalid_peer_id"),
            ("no channel", "channel_not_authorized"),
        ],
    )
    async def test_the_server_refuses_what_it_would_not_let_in_and_leaves_the_connection_as_it_was(
        self, token: str, code: str
    ) -> None:
        foreign, unknown = new_secret_pair(), new_secret_pair()
        apps = [App("foreign", (), (SecretKey(id=foreign[0], secret=foreign[1]),))]
        async with SignallingServer(apps=apps) as server, expiring(server, 60) as probe:
            ours = {"secret_id": server.secret_id, "secret": server.secret}
            tokens = {
                "no token at all": "x",
                "expired": mint_token(**ours, peer_id="ann", expires_in=1, now=time.time() - 60),
                "foreign app": mint_token(secret_id=foreign[0], secret=foreign[1], peer_id="ann"),
                "unknown key": mint_token(secret_id=unknown[0], secret=unknown[1], peer_id="ann"),
                "other peer": server.mint_token("bob"),
                "no channel": server.mint_token("ann", channels=[]),
            }
            answer = await probe.ask("refresh", token=tokens[token])
            assert (answer["type"], answer["code"], answer["requestId"]) == ("error", code, "r")
            await probe.join("a")

    @pytest.mark.parametrize("fields", [{}, {"token": ""}, {"token": 1}, {"token": None}])
    async def test_the_server_calls_a_frame_without_a_token_malformed(
        self, server: SignallingServer, fields: dict[str, Any]
    ) -> None:
        async with welcomed(server, "ann") as probe:
            assert (await probe.ask("refresh", **fields))["code"] == "malformed_message"

    async def test_a_refresh_counts_against_the_rate(self, server: SignallingServer) -> None:
        async with welcomed(server, "ann") as probe:
            for _ in range(250):
                await probe.put("refresh", token="x")
            assert (await probe.ending())[0] == 4011

    async def test_the_server_takes_a_token_for_the_peer_that_a_publishable_key_made(
        self, server: SignallingServer
    ) -> None:
        async with dialled(server, key_query(server)) as probe:
            peer_id = (await probe.get())["peerId"]
            assert (await probe.ask("refresh", token=server.mint_token(peer_id)))["type"] == "ack"
