"""Resume tokens: which are valid, and what other peers see when a connection is resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.wire.frames import MAX_RESUME_TOKEN
from metered_realtime.log import NoopLogger
from metered_realtime.server import Limits, SignallingServer, client_socket
from metered_realtime.server.auth import Admission, Authenticator, RefusedError, mint_token
from metered_realtime.server.hub import Hub, Identity
from metered_realtime.server.keys import App, Keyring, PublishableKey, SecretKey
from metered_realtime.server.plan import Meter, Plan
from metered_realtime.server.resume import LIFETIME, ResumeTokens
from metered_realtime.server.rights import ACTIONS, Grant
from metered_realtime.server.tokens import InvalidTokenError, verify_token
from tests.support.inside import tenant_of
from tests.support.patience import PATIENCE

from ..support.probe import EVERYTHING, NOW, Guest, Probe, dialled, key_query, lone_hub, roster_of

KEY = "pk_live_" + "a" * 40
OTHER_KEY = "pk_live_" + "b" * 40
SECRET_ID, SECRET = "sk_id_one", "sk_secret_" + "s" * 40


def app(
    name: str = "app",
    keys: tuple[PublishableKey, ...] = (PublishableKey(key=KEY), PublishableKey(key=OTHER_KEY)),
    secrets: tuple[SecretKey, ...] = (SecretKey(id=SECRET_ID, secret=SECRET),),
    **options: Any,
) -> App:
    return App(name, keys, secrets, **options)


def authenticator(*apps: App) -> Authenticator:
    return Authenticator(Keyring(apps or [app()]))


def admit(gate: Authenticator, *resumes: str, key: str = KEY, now: float = NOW) -> Admission:
    return gate.admit([key], [], None, now, resumes)


def token_of(admission: Admission) -> str:
    assert admission.identity.resume_token is not None
    return admission.identity.resume_token


class TestTokens:
    """Validity of resume tokens."""

    def test_resume_tokens_restore_the_peer_id_and_bring_the_next_token(self) -> None:
        gate = authenticator()
        first = admit(gate)
        second = admit(gate, token_of(first), now=NOW + 60)
        third = admit(gate, token_of(second), now=NOW + LIFETIME + 30)
        assert first.identity.peer_id == second.identity.peer_id == third.identity.peer_id
        assert (first.resumes, second.resumes, third.resumes) == (False, True, True)

    def test_resume_tokens_are_good_for_a_limited_time_after_they_were_issued(self) -> None:
        gate = authenticator()
        first = admit(gate)
        assert admit(gate, token_of(first), now=NOW + LIFETIME - 1).resumes
        late = admit(gate, token_of(first), now=NOW + LIFETIME)
        assert not late.resumes
        assert late.identity.peer_id != first.identity.peer_id

    def test_resume_tokens_are_good_at_another_server_with_the_same_configuration(self) -> None:
        first = admit(authenticator())
        assert admit(authenticator(), token_of(first)).identity.peer_id == first.identity.peer_id

    def test_resume_tokens_are_good_in_one_process_only_if_the_app_has_no_secret_key(self) -> None:
        gate = authenticator(app(secrets=()))
        token = token_of(admit(gate))
        assert admit(gate, token).resumes
        assert not admit(authenticator(app(secrets=())), token).resumes

    def test_resume_tokens_outlive_a_reload_that_adds_secret_keys_and_end_with_the_one_that_they_come_from(
        self,
    ) -> None:
        tokens, key = ResumeTokens(), PublishableKey(key=KEY)
        one, two = SecretKey(id=SECRET_ID, secret=SECRET), SecretKey(id="sk_id_two", secret="sk_secret_" + "t" * 40)
        token = tokens.issue(app(secrets=(one,)), key, "ann", NOW)
        assert tokens.read(token, app(secrets=(two, one)), key, NOW) == "ann"
        gone = SecretKey(id=SECRET_ID, secret=SECRET, revoked=True)
        assert tokens.read(token, app(secrets=(two, gone)), key, NOW) is None
        without = tokens.issue(app(secrets=()), key, "ann", NOW)
        assert tokens.read(without, app(secrets=(one,)), key, NOW) == "ann"

    def test_resume_tokens_are_bound_to_their_key_and_their_app(self) -> None:
        gate = authenticator()
        first = admit(gate)
        assert not admit(gate, token_of(first), key=OTHER_KEY).resumes
        assert not admit(authenticator(app("other")), token_of(first)).resumes

    def test_resume_tokens_help_nobody_past_a_closed_door(self) -> None:
        token = token_of(admit(authenticator()))
        for closed, code in (
            (app(keys=(PublishableKey(key=KEY, revoked=True),)), 4001),
            (app(keys=(PublishableKey(key=KEY, allowed_origins=("https://app.example",)),)), 4001),
            (app(keys=(PublishableKey(key=KEY, channel_patterns=()),)), 4003),
            (app(suspended=True), 4012),
        ):
            with pytest.raises(RefusedError) as caught:
                admit(authenticator(closed), token)
            assert caught.value.code == code

    def test_resume_tokens_show_neither_key_nor_secret(self) -> None:
        token = token_of(admit(authenticator()))
        content = repr(jwt.decode_complete(token, options={"verify_signature": False}))
        assert KEY not in content
        assert SECRET not in content
        assert SECRET_ID not in content
        assert len(token) <= MAX_RESUME_TOKEN

    def test_resume_tokens_are_in_no_repr(self) -> None:
        admission = admit(authenticator())
        assert token_of(admission) not in repr(admission) + repr(admission.identity)

    def test_resume_tokens_are_no_access_tokens_and_the_other_way_round(self) -> None:
        gate = authenticator()
        with pytest.raises(RefusedError) as caught:
            gate.admit([], [token_of(admit(gate))], None, NOW)
        assert caught.value.code == 4001
        access = mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id="ann", now=NOW)
        assert not admit(gate, access).resumes

    def test_resume_tokens_of_their_type_are_refused_even_with_the_right_signature(self) -> None:
        claims = {"sub": "ann", "exp": int(NOW) + 60}
        forged = jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": SECRET_ID, "typ": "resume"})
        with pytest.raises(InvalidTokenError):
            verify_token(forged, SecretKey(id=SECRET_ID, secret=SECRET), NOW)

    def test_resume_tokens_count_beside_a_key_only(self) -> None:
        gate = authenticator()
        first = admit(gate)
        access = mint_token(secret_id=SECRET_ID, secret=SECRET, peer_id="ann", now=NOW)
        admission = gate.admit([], [access], None, NOW, [token_of(first)])
        assert (admission.identity.peer_id, admission.resumes) == ("ann", False)
        assert admission.identity.resume_token is None
        assert gate.resume_token(admission, NOW) is None

    def test_resume_tokens_are_ignored_when_there_are_two(self) -> None:
        gate = authenticator()
        token = token_of(admit(gate))
        assert not admit(gate, token, token).resumes

    def test_resume_tokens_are_not_issued_again_under_a_key_that_is_gone(self) -> None:
        gate = authenticator()
        admission = admit(gate)
        assert admit(gate, gate.resume_token(admission, NOW) or "").resumes
        gate.configure(Keyring([app(keys=())]), [], Limits(), None)
        assert gate.resume_token(admission, NOW) is None

    @pytest.mark.parametrize(
        ("claims", "headers"),
        [
            ({"sub": ""}, {}),
            ({"sub": "é"}, {}),
            ({"sub": "x" * 129}, {}),
            ({"sub": 7}, {}),
            ({"sub": None}, {}),
            ({"exp": "soon"}, {}),
            ({"exp": True}, {}),
            ({"exp": None}, {}),
            ({"exp": float(2**60)}, {}),
            ({}, {"typ": "JWT"}),
            ({}, {"typ": None}),
        ],
    )
    def test_resume_tokens_with_a_wrong_claim_restore_nothing(
        self, claims: dict[str, Any], headers: dict[str, Any]
    ) -> None:
        tokens, key = ResumeTokens(), PublishableKey(key=KEY)
        signing_key = tokens._signing_keys(app(), key)[0]

        def made(claims: dict[str, Any], headers: dict[str, Any]) -> str:
            content = {"sub": "ann", "exp": int(NOW) + 60, **claims}
            return jwt.encode(content, signing_key, algorithm="HS256", headers={"typ": "resume", **headers})

        assert tokens.read(made({}, {}), app(), key, NOW) == "ann"
        assert tokens.read(made(claims, headers), app(), key, NOW) is None

    @pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
    def test_resume_tokens_by_another_algorithm_restore_nothing(self, algorithm: str) -> None:
        tokens, key = ResumeTokens(), PublishableKey(key=KEY)
        signing_key = "" if algorithm == "none" else tokens._signing_keys(app(), key)[0] * 2
        claims = {"sub": "ann", "exp": int(NOW) + 60}
        forged = jwt.encode(claims, signing_key, algorithm=algorithm, headers={"typ": "resume"})
        assert tokens.read(forged, app(), key, NOW) is None

    @given(st.text() | st.text("abcdef.-_=", max_size=60) | st.just("x" * (MAX_RESUME_TOKEN + 1)))
    def test_resume_tokens_that_are_garbage_restore_nothing(self, garbage: str) -> None:
        assert not admit(authenticator(), garbage).resumes

    def test_resume_tokens_that_are_too_long_restore_nothing_even_if_they_are_good(self) -> None:
        tokens, key = ResumeTokens(), PublishableKey(key=KEY)
        claims = {"sub": "ann", "exp": int(NOW) + 60, "padding": "x" * MAX_RESUME_TOKEN}
        signing_key = tokens._signing_keys(app(), key)[0]
        long = jwt.encode(claims, signing_key, algorithm="HS256", headers={"typ": "resume"})
        assert tokens.read(long, app(), key, NOW) is None


def heir_of(hub: Hub, *replaced: Guest) -> Guest:
    """Connect as a guest that replaces others of the same peer."""
    return Guest(hub, replaced[0].peer_id, replaced=replaced)


class TestTheHub:
    """Presence while one connection replaces another."""

    def setup_method(self) -> None:
        self.meter = Meter()
        self.hub = lone_hub(Limits(channels_per_connection=3), meter=self.meter)
        self.bob = Guest(self.hub, "bob")
        self.ann = Guest(self.hub, "ann")
        for guest in (self.bob, self.ann):
            guest.subscribe("c")
            guest.take()
        self.bob.take()

    def presence(self, kind: str, *ids: str, channel: str = "c") -> dict[str, Any]:
        entries = [{"peerId": peer_id} for peer_id in ids]
        return {"type": "presence", "channel": channel, "joined": [], "left": []} | {kind: entries}

    def test_the_hub_gives_the_welcome_a_token(self) -> None:
        frames: list[bytes] = []
        self.hub.connect(Identity("eve", EVERYTHING, resume_token="t0ken"), frames.append, NOW)
        assert b'"resumeToken":"t0ken"' in frames[0]
        assert "resumeToken" not in self.ann.welcome

    def test_the_hub_gives_a_live_connection_its_next_token(self) -> None:
        self.hub.renew(self.ann.subscriber, "t0ken")
        assert self.ann.take() == [{"type": "resume", "resumeToken": "t0ken"}]

    def test_the_hub_tells_the_others_nothing_of_a_takeover(self) -> None:
        heir = heir_of(self.hub, self.ann)
        heir.subscribe("c", "r")
        assert heir.take() == [{"type": "ack", "requestId": "r"}, self.presence("joined", "bob")]
        self.hub.release(heir.subscriber)
        self.ann.leave()
        assert self.bob.take() == []
        assert roster_of(self.hub, "c") == ["bob", "ann"]
        heir.leave()
        assert self.bob.take() == [self.presence("left", "ann")]

    def test_the_hub_tells_the_others_when_a_place_is_not_taken_in_time(self) -> None:
        heir = heir_of(self.hub, self.ann)
        self.hub.release(heir.subscriber)
        assert self.bob.take() == [self.presence("left", "ann")]
        self.hub.release(heir.subscriber)
        heir.subscribe("c")
        assert self.bob.take() == [self.presence("joined", "ann")]

    def test_the_hub_shows_a_peer_whose_place_is_kept_to_newcomers(self) -> None:
        heir_of(self.hub, self.ann)
        eve = Guest(self.hub, "eve")
        eve.subscribe("c")
        assert eve.take() == [self.presence("joined", "bob", "ann")]

    def test_the_hub_sends_nothing_of_a_channel_before_it_is_subscribed_again(self) -> None:
        heir = heir_of(self.hub, self.ann)
        self.bob.publish("c", 1)
        self.bob.leave()
        assert (heir.take(), self.ann.take()) == ([], [])

    def test_the_hub_sends_directs_to_the_new_connection_alone(self) -> None:
        heir = heir_of(self.hub, self.ann)
        self.bob.send("ann", 1)
        assert (len(heir.take()), self.ann.take()) == (1, [])

    @pytest.mark.parametrize("how", ["unsubscribing", "leaving", "losing the right", "losing the channel"])
    def test_the_hub_ends_a_place_that_is_given_up(self, how: str) -> None:
        heir = heir_of(self.hub, self.ann)
        if how == "unsubscribing":
            heir.unsubscribe("c", "r")
            assert heir.take() == [{"type": "ack", "requestId": "r"}]
        elif how == "leaving":
            heir.leave()
        elif how == "losing the right":
            self.hub.regrant(heir.subscriber, Grant(ACTIONS - {"subscribe"}, ("**",)))
        else:
            self.hub.regrant(heir.subscriber, Grant(ACTIONS, ("d",)))
        assert self.bob.take() == [self.presence("left", "ann")]
        self.hub.release(heir.subscriber)
        assert self.bob.take() == []

    def test_the_hub_hands_a_place_on_from_one_takeover_to_the_next(self) -> None:
        second = heir_of(self.hub, self.ann)
        third = heir_of(self.hub, second)
        self.hub.release(second.subscriber)
        second.leave()
        third.subscribe("c")
        assert self.bob.take() == []
        third.leave()
        assert self.bob.take() == [self.presence("left", "ann")]

    def test_the_hub_keeps_no_more_places_than_a_connection_may_have_channels(self) -> None:
        for channel in ("d", "e"):
            self.bob.subscribe(channel)
            self.ann.subscribe(channel)
        second = heir_of(self.hub, self.ann)
        for channel in ("x", "y", "z"):
            second.subscribe(channel)
        self.bob.take()
        third = heir_of(self.hub, second)
        assert third.subscriber.places == {"c", "d", "e"}
        assert not any(roster_of(self.hub, channel) for channel in "xyz")
        assert self.bob.take() == []

    def test_the_hub_replaces_several_connections_at_once_and_leaves_others_alone(self) -> None:
        beside = Guest(self.hub, "ann")
        twin = Guest(self.hub, "ann")
        twin.subscribe("c")
        heir = heir_of(self.hub, self.ann, twin)
        assert self.bob.take() == []
        self.bob.send("ann", 1)
        assert [len(guest.take()) for guest in (beside, heir)] == [1, 1]
        self.hub.release(heir.subscriber)
        assert self.bob.take() == [self.presence("left", "ann")]

    def test_the_hub_does_not_let_patterns_live_on(self) -> None:
        self.ann.subscribe("*")
        self.ann.take()
        heir = heir_of(self.hub, self.ann)
        self.bob.publish("c", 1)
        assert (self.ann.take(), heir.take()) == ([], [])
        assert not self.hub._patterns

    def test_the_hub_keeps_a_place_where_nobody_else_is_and_no_longer_than_needed(self) -> None:
        self.bob.leave()
        heir = heir_of(self.hub, self.ann)
        assert roster_of(self.hub, "c") == ["ann"]
        self.hub.release(heir.subscriber)
        assert not self.hub._channels

    def test_the_hub_takes_no_place_of_a_connection_that_is_gone(self) -> None:
        self.ann.leave()
        heir = heir_of(self.hub, self.ann)
        assert self.bob.take() == [self.presence("left", "ann")]
        heir.subscribe("c")
        assert self.bob.take() == [self.presence("joined", "ann")]

    def test_the_hub_counts_a_connection_that_is_replaced_no_more(self) -> None:
        before = self.meter.usage()["concurrentNow"]
        heir = heir_of(self.hub, self.ann)
        assert self.meter.usage()["concurrentNow"] == self.meter.usage()["peakConcurrent"] == before
        self.ann.leave()
        heir.leave()
        assert self.meter.usage()["concurrentNow"] == before - 1


@asynccontextmanager
async def arrived(server: SignallingServer, token: str | None = None) -> AsyncIterator[tuple[Probe, dict[str, Any]]]:
    """Connect with the key, and a resume token. Return the client and its welcome."""
    query = key_query(server) if token is None else f"{key_query(server)}&resume={token}"
    async with dialled(server, query) as probe:
        yield probe, await probe.get()


class TestTheServer:
    """Resuming on real sockets."""

    async def test_the_server_gives_clients_with_the_key_a_token_and_others_none(
        self, server: SignallingServer
    ) -> None:
        async with arrived(server) as (_, welcome), dialled(server, f"token={server.mint_token('ann')}") as other:
            assert isinstance(welcome["resumeToken"], str)
            assert "resumeToken" not in await other.get()

    async def test_the_server_lets_the_new_connection_take_the_place_of_the_old_one(
        self, server: SignallingServer
    ) -> None:
        async with arrived(server) as (bob, _), arrived(server) as (old, first):
            await bob.join("c")
            await old.join("c")
            assert (await bob.get())["joined"] == [{"peerId": first["peerId"]}]
            async with arrived(server, first["resumeToken"]) as (new, second):
                assert second["peerId"] == first["peerId"]
                assert second["resumeToken"] is not None
                assert await old.ending() == (4002, "resumed by another connection")
                snapshot = await new.join("c")
                assert len(snapshot["joined"]) == 1
                assert await bob.ask("ping") == {"type": "pong", "requestId": "r"}
            gone = {"type": "presence", "channel": "c", "joined": [], "left": [{"peerId": first["peerId"]}]}
            assert await bob.get() == gone

    async def test_the_server_says_that_a_peer_left_that_resumed_and_did_not_come_back_to_its_channel(
        self,
    ) -> None:
        async with (
            SignallingServer(limits=Limits(return_time=0.05)) as server,
            arrived(server) as (bob, _),
            arrived(server) as (old, first),
        ):
            await old.join("c")
            await bob.join("c")
            async with arrived(server, first["resumeToken"]):
                assert (await bob.get())["left"] == [{"peerId": first["peerId"]}]

    async def test_the_server_gives_a_live_connection_the_next_token_in_time(
        self, server: SignallingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_socket, "REISSUE_INTERVAL", 0.05)
        async with arrived(server) as (probe, first):
            frames = [await probe.get(), await probe.get()]
            assert {frame["type"] for frame in frames} == {"resume"}
        monkeypatch.undo()
        async with arrived(server, frames[-1]["resumeToken"]) as (_, second):
            assert second["peerId"] == first["peerId"]

    @pytest.mark.parametrize(
        "query", ["resume=", "resume=x.y.z", "resume=%00%ff", "resume=a&resume=b", "resume=" + "x" * 5_000]
    )
    async def test_the_server_takes_no_notice_of_garbage(self, server: SignallingServer, query: str) -> None:
        async with dialled(server, f"{key_query(server)}&{query}") as probe:
            assert (await probe.get())["type"] == "welcome"

    async def test_the_server_lets_a_client_with_a_token_beside_live_on(self, server: SignallingServer) -> None:
        async with arrived(server) as (_, first):
            peer_id = first["peerId"]
            async with dialled(server, f"token={server.mint_token(peer_id)}") as beside:
                await beside.get()
                async with arrived(server, first["resumeToken"]) as (_, second):
                    assert second["peerId"] == peer_id
                    assert await beside.ask("ping") == {"type": "pong", "requestId": "r"}

    async def test_the_server_has_room_for_a_resumed_connection_where_its_predecessor_was(self) -> None:
        key = PublishableKey(key=KEY, actions=ACTIONS)
        plan = Plan(max_concurrent_connections=1)
        async with (
            SignallingServer(run_keys=False, apps=[App("app", (key,), plan=plan)]) as server,
            dialled(server, f"key={KEY}") as old,
        ):
            token = (await old.get())["resumeToken"]
            async with dialled(server, f"key={KEY}") as refused:
                assert (await refused.ending())[0] == 4010
            async with dialled(server, f"key={KEY}&resume={token}") as new:
                assert (await new.get())["type"] == "welcome"
                async with dialled(server, f"key={KEY}&resume=other") as refused:
                    assert (await refused.ending())[0] == 4010

    async def test_the_server_logs_the_takeover_and_no_token(self) -> None:
        lines: list[str] = []

        class ListLogger(NoopLogger):
            def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
                lines.append(f"{msg} {ctx}")

        async with (
            SignallingServer(logger=ListLogger()) as server,
            arrived(server) as (_, first),
            arrived(server, first["resumeToken"]),
        ):
            assert "connection resumed {'replaces': 1}" in lines
            assert first["resumeToken"] not in "".join(lines)

    async def test_the_server_forgets_every_socket_in_the_end(self, server: SignallingServer) -> None:
        async with arrived(server) as (_, first), arrived(server, first["resumeToken"]):
            pass
        tenant = tenant_of(server)
        async with asyncio.timeout(PATIENCE):
            while tenant.sockets:  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)
        assert not tenant._sockets_of
