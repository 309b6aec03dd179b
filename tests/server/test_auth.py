"""Authentication by keys, tokens and origins, and the close codes of refused connections."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from metered_realtime.events import WsCloseCode
from metered_realtime.options import IceServerConfig
from metered_realtime.server.auth import Admission, Authenticator, RefusedError, mint_token
from metered_realtime.server.ice import ice_server_list
from metered_realtime.server.keys import (
    App,
    Keyring,
    PublishableKey,
    SecretKey,
    new_publishable_key,
    new_secret_pair,
)
from metered_realtime.server.rights import ACTIONS, Grant

NOW = 1_800_000_000.0
KEY = "pk_live_" + "a" * 40
SECRET_ID, SECRET = "sk_id_one", "sk_secret_" + "s" * 40


def authenticator(
    publishable: PublishableKey | None = None, secret: SecretKey | None = None, **options: Any
) -> Authenticator:
    secret = secret or SecretKey(id=SECRET_ID, secret=SECRET)
    app = App("app", (publishable or PublishableKey(key=KEY),), (secret,))
    return Authenticator(Keyring([app]), **options)


def admit(gate: Authenticator, *, key: str | None = None, token: str | None = None, **rest: Any) -> Admission:
    keys, tokens = ([] if value is None else [value] for value in (key, token))
    return gate.admit(keys, tokens, rest.get("origin"), rest.get("now", NOW))


def refusal(gate: Authenticator, **shown: Any) -> tuple[WsCloseCode, str]:
    with pytest.raises(RefusedError) as caught:
        admit(gate, **shown)
    return caught.value.code, caught.value.reason


def minted(**claims: Any) -> str:
    return mint_token(**{"secret_id": SECRET_ID, "secret": SECRET, "peer_id": "ann", "now": NOW, **claims})


def forged(claims: dict[str, Any], *, secret: str = SECRET, algorithm: str = "HS256", kid: Any = SECRET_ID) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "ann", "exp": NOW_INT + 60, **claims}, secret, algorithm=algorithm, headers=headers)


NOW_INT = int(NOW)


class TestPublishableKeys:
    def test_publishable_keys_get_a_fresh_id_on_every_connect(self) -> None:
        gate = authenticator()
        first, second = (admit(gate, key=KEY).identity for _ in range(2))
        assert len(first.peer_id) == 36
        assert first.peer_id != second.peer_id
        assert first.expires_at is None
        assert (first.metadata, first.peer_metadata) == (None, None)

    def test_publishable_keys_may_not_send_unless_told_otherwise(self) -> None:
        assert admit(authenticator(), key=KEY).identity.grant.actions == {"publish", "subscribe", "presence"}

    def test_publishable_keys_of_a_suspended_app_are_refused_with_4012(self) -> None:
        app = App("app", (PublishableKey(key=KEY),), (SecretKey(id=SECRET_ID, secret=SECRET),), suspended=True)
        gate = Authenticator(Keyring([app]))
        assert [refusal(gate, key=KEY)[0], refusal(gate, token=minted())[0]] == [4012, 4012]
        assert refusal(gate, token=minted(secret="sk_secret_" + "x" * 40))[0] == 4001

    def test_publishable_keys_with_no_pattern_have_no_channel(self) -> None:
        gate = authenticator(PublishableKey(key=KEY, channel_patterns=()))
        assert refusal(gate, key=KEY)[0] == 4003

    @pytest.mark.parametrize(
        ("origin", "admitted"),
        [
            ("https://app.example", True),
            ("https://APP.example:443", True),
            ("http://app.example", False),
            ("https://evil.example", False),
            ("https://app.example.evil.example", False),
            ("null", False),
            ("https://[", False),
            (None, False),
        ],
    )
    def test_publishable_keys_with_origins_admit_those_only(self, origin: str | None, admitted: bool) -> None:
        gate = authenticator(PublishableKey(key=KEY, allowed_origins=("https://app.example",)))
        if admitted:
            admit(gate, key=KEY, origin=origin)
        else:
            assert refusal(gate, key=KEY, origin=origin)[0] == 4001

    def test_publishable_keys_with_origins_can_still_admit_programs(self) -> None:
        key = PublishableKey(key=KEY, allowed_origins=("https://app.example",), origin_required=False)
        admit(authenticator(key), key=KEY, origin=None)

    def test_publishable_keys_without_origins_admit_every_origin(self) -> None:
        admit(authenticator(), key=KEY, origin="https://anywhere.example")


class TestTokens:
    def test_tokens_carry_everything_into_the_identity(self) -> None:
        token = minted(
            channels=["a/*"], permissions=["send"], expires_in=60, metadata={"m": 1}, peer_metadata={"name": "Änn"}
        )
        identity = admit(authenticator(), token=token).identity
        assert identity.peer_id == "ann"
        assert identity.expires_at == NOW + 60
        assert identity.metadata == {"m": 1}
        assert bytes(identity.peer_metadata or b"") == '{"name":"Änn"}'.encode()
        assert identity.grant == Grant(ACTIONS, ("**",), frozenset({"send"}), ("a/*",))

    def test_tokens_without_lists_have_the_rights_of_their_key(self) -> None:
        grant = admit(authenticator(), token=minted()).identity.grant
        assert (grant.permissions, grant.channels) == (None, None)

    def test_tokens_are_good_for_the_leeway_after_they_expired_and_then_get_4002(self) -> None:
        token = minted(expires_in=60)
        admit(authenticator(), token=token, now=NOW + 64)
        assert refusal(authenticator(), token=token, now=NOW + 65)[0] == 4002

    def test_tokens_with_claims_that_mean_nothing_here_are_good(self) -> None:
        claims = {"aud": "x", "iss": "y", "iat": NOW_INT + 9_999, "jti": 7, "nbf": NOW_INT + 4, "typ": "z"}
        admit(authenticator(), token=forged(claims))

    @pytest.mark.parametrize("channels", [[], ["b/x"], ["b/**", "a"]])
    def test_tokens_that_leave_no_channel_get_4003(self, channels: list[str]) -> None:
        gate = authenticator(secret=SecretKey(id=SECRET_ID, secret=SECRET, channel_patterns=("a/*",)))
        assert refusal(gate, token=minted(channels=channels))[0] == 4003

    def test_tokens_that_reach_beyond_their_key_get_what_both_allow(self) -> None:
        gate = authenticator(secret=SecretKey(id=SECRET_ID, secret=SECRET, channel_patterns=("a/*",)))
        grant = admit(gate, token=minted(channels=["a/**"])).identity.grant
        assert grant.reaches("a/x")
        assert not grant.reaches("a/x/y")

    @pytest.mark.parametrize(
        "claims",
        [
            {"sub": None},
            {"sub": ""},
            {"sub": 7},
            {"sub": "é"},
            {"sub": "a\tb"},
            {"sub": "x" * 129},
            {"exp": None},
            {"exp": "soon"},
            {"exp": True},
            {"exp": 10**400},
            {"exp": float("inf")},
            {"exp": float("nan")},
            {"iat": "now"},
            {"iat": True},
            {"iat": float("nan")},
            {"nbf": NOW_INT + 60},
            {"nbf": NOW_INT + 5.5},
            {"nbf": "now"},
            {"nbf": False},
            {"channels": "a"},
            {"channels": [1]},
            {"permissions": {"send": True}},
            {"metadata": []},
            {"metadata": {"x": "y" * 8_192}},
            {"peerMetadata": "x"},
            {"peerMetadata": {"x": "y" * 4_096}},
            {"peerMetadata": {"x": "\ud800"}},
        ],
        ids=str,
    )
    def test_tokens_with_a_bad_claim_get_4001(self, claims: dict[str, Any]) -> None:
        assert refusal(authenticator(), token=forged(claims))[0] == 4001

    @pytest.mark.parametrize("fraction", [0.0, 0.25, 0.9])
    def test_tokens_may_have_times_with_a_fraction(self, fraction: float) -> None:
        claims = {"exp": NOW_INT + 60 + fraction, "iat": NOW_INT - fraction, "nbf": NOW_INT - fraction}
        assert admit(authenticator(), token=forged(claims)).identity.expires_at == NOW_INT + 60 + fraction

    def test_tokens_that_expired_a_fraction_of_a_second_ago_are_within_the_leeway(self) -> None:
        admit(authenticator(), token=forged({"exp": NOW - 4.5}))
        assert refusal(authenticator(), token=forged({"exp": NOW - 5.5}))[0] == 4002
        assert refusal(authenticator(), token=forged({"exp": 1.5}))[0] == 4002

    def test_tokens_with_metadata_at_the_caps_are_good(self) -> None:
        bags = {"metadata": {"x": "y" * (8_192 - 8)}, "peerMetadata": {"x": "y" * (4_096 - 8)}}
        admit(authenticator(), token=forged(bags))

    def test_bad_unknown_and_revoked_credentials_look_the_same(self) -> None:
        revoked = SecretKey(id=SECRET_ID, secret=SECRET, revoked=True)
        other_secret = "sk_secret_" + "o" * 40
        answers = {
            refusal(authenticator(), key="pk_live_unknown"),
            refusal(authenticator(PublishableKey(key=KEY, revoked=True)), key=KEY),
            refusal(authenticator(), token="no.token.atall"),
            refusal(authenticator(), token=""),
            refusal(authenticator(), token="\x00é"),
            refusal(authenticator(secret=revoked), token=minted()),
            refusal(authenticator(), token=forged({}, secret=other_secret)),
            refusal(authenticator(), token=forged({"exp": 1}, secret=other_secret)),
            refusal(authenticator(), token=forged({}, kid="sk_id_unknown")),
            refusal(authenticator(), token=forged({}, kid=None)),
            refusal(authenticator(), token=forged({}, algorithm="HS512", secret=SECRET + "s" * 32)),
            refusal(authenticator(), token=forged({}, algorithm="none", secret="")),
        }
        assert answers == {(WsCloseCode.INVALID_TOKEN, "invalid credential")}


class TestCredentials:
    @pytest.mark.parametrize(("keys", "tokens"), [([], []), ([KEY], ["t"]), ([KEY, KEY], [])])
    def test_exactly_one_credential_is_needed(self, keys: list[str], tokens: list[str]) -> None:
        with pytest.raises(RefusedError) as caught:
            authenticator().admit(keys, tokens, None, NOW)
        assert caught.value.code == 4001

    def test_credentials_open_the_app_that_they_belong_to(self) -> None:
        other = PublishableKey(key="pk_live_other")
        gate = Authenticator(Keyring([App("one", (PublishableKey(key=KEY),)), App("two", (other,))]))
        assert (admit(gate, key=KEY).app, admit(gate, key=other.key).app) == ("one", "two")

    def test_credentials_are_never_in_a_repr(self) -> None:
        secret = SecretKey(id=SECRET_ID, secret=SECRET)
        shown = repr((App("app", (PublishableKey(key=KEY),), (secret,)), secret, authenticator()))
        assert SECRET not in shown
        assert KEY not in shown


class TestKeys:
    def test_keys_that_are_new_have_the_published_form(self) -> None:
        key, (secret_id, secret) = new_publishable_key(), new_secret_pair()
        assert len(key) == len("pk_live_") + 40
        SecretKey(id=secret_id, secret=secret)
        PublishableKey(key=key)
        assert new_publishable_key() != key

    @pytest.mark.parametrize("key", ["", "pk_live_", "sk_live_x", "pk_live_a b", "pk_live_" + "x" * 129, "pk_live_é"])
    def test_keys_of_another_form_are_refused_by_name(self, key: str) -> None:
        with pytest.raises(ValueError, match="publishable key") as caught:
            PublishableKey(key=key)
        assert repr(key) in str(caught.value)

    def test_keys_with_unknown_actions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="fly"):
            PublishableKey(key=KEY, actions=frozenset({"fly"}))

    def test_keys_are_limited_per_app(self) -> None:
        with pytest.raises(ValueError, match="51 keys"):
            App("app", tuple(PublishableKey(key=f"pk_live_{number}") for number in range(51)))

    def test_keys_belong_to_one_app_only(self) -> None:
        key = PublishableKey(key=KEY)
        with pytest.raises(ValueError, match="twice") as caught:
            Keyring([App("one", (key,)), App("two", (key,))])
        assert KEY not in str(caught.value)


class TestMinting:
    def test_minting_signs_what_a_backend_in_another_language_would(self) -> None:
        token = minted(expires_in=7200.9, channels=["a"])
        assert jwt.get_unverified_header(token) == {"alg": "HS256", "kid": SECRET_ID, "typ": "JWT"}
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims == {"sub": "ann", "iat": NOW_INT, "exp": NOW_INT + 7200, "channels": ["a"]}

    @pytest.mark.parametrize(
        ("bad", "named"),
        [
            ({"peer_id": ""}, "peer_id must be .* not ''"),
            ({"peer_id": "é"}, "peer_id must be .* not 'é'"),
            ({"peer_id": None}, "peer_id must be .* not None"),
            ({"secret_id": "pk_live_x"}, "secret_id is .* not 'pk_live_x'"),
            ({"secret": "sk_secret_short"}, "secret must have at least 32 characters, not 15"),
            ({"channels": "lobby"}, "channels .* 'lobby'"),
            ({"channels": ["ok", "\n"]}, r"channels .* '\\n'"),
            ({"channels": ["x"] * 101}, "channels .* 101"),
            ({"permissions": "send"}, "permissions .* 'send'"),
            ({"permissions": ["fly"]}, "permissions .* 'fly'"),
            ({"permissions": [[]]}, r"permissions .* \[\]"),
            ({"expires_in": 0}, "expires_in .* not 0"),
            ({"expires_in": float("nan")}, "expires_in .* not nan"),
            ({"expires_in": float("inf")}, "expires_in .* not inf"),
            ({"expires_in": True}, "expires_in .* not True"),
            ({"expires_in": "1h"}, "expires_in .* not '1h'"),
            ({"metadata": [1]}, "metadata must be an object, not list"),
            ({"metadata": {"x": str}}, "metadata is not JSON"),
            ({"metadata": {"x": "y" * 8_192}}, "metadata must have at most 8192 bytes as JSON, not 8200"),
            ({"peer_metadata": {"x": "é" * 2_048}}, "peer_metadata must have at most 4096 bytes as JSON, not 4104"),
        ],
        ids=str,
    )
    def test_minting_refuses_what_a_server_would_and_names_it(self, bad: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            minted(**bad)

    def test_minting_never_shows_a_bad_secret(self) -> None:
        with pytest.raises(ValueError, match="secret") as caught:
            minted(secret="hunter2 is my password and it is long")
        assert "hunter2" not in str(caught.value)


class TestIceServers:
    SERVERS = ice_server_list(["stun:stun.example:3478"])

    def test_ice_servers_are_injected_for_keys_and_for_tokens_beside_their_metadata(self) -> None:
        gate = authenticator(ice_servers=self.SERVERS)
        assert admit(gate, key=KEY).identity.metadata == {"iceServers": [{"urls": "stun:stun.example:3478"}]}
        metadata = admit(gate, token=minted(metadata={"m": 1})).identity.metadata
        assert metadata == {"m": 1, "iceServers": [{"urls": "stun:stun.example:3478"}]}

    def test_ice_servers_of_the_token_win(self) -> None:
        token = minted(metadata={"iceServers": []})
        assert admit(authenticator(ice_servers=self.SERVERS), token=token).identity.metadata == {"iceServers": []}

    def test_ice_servers_are_left_out_where_a_key_turns_them_off(self) -> None:
        key = PublishableKey(key=KEY, inject_ice_servers=False)
        assert admit(authenticator(key, ice_servers=self.SERVERS), key=KEY).identity.metadata is None

    def test_ice_servers_may_be_urls_configs_or_mappings(self) -> None:
        turn = IceServerConfig(["turn:t.example", "turns:t.example"], "user", "pass")
        assert json.loads(json.dumps(ice_server_list(["STUN:s.example", turn, {"urls": "stun:x"}]))) == [
            {"urls": "STUN:s.example"},
            {"urls": ["turn:t.example", "turns:t.example"], "username": "user", "credential": "pass"},
            {"urls": "stun:x"},
        ]

    @pytest.mark.parametrize(
        "server",
        ["", "stun:", "http://x", "stun", {"urls": []}, {}, {"urls": ["stun:x", 7]}, "stun:" + "x" * 512],
        ids=str,
    )
    def test_ice_servers_that_clients_would_refuse_are_refused_by_name(self, server: Any) -> None:
        with pytest.raises(ValueError, match="ice server"):
            ice_server_list([server])

    def test_ice_servers_with_a_credential_too_long_are_refused_without_showing_it(self) -> None:
        with pytest.raises(ValueError, match="credential") as caught:
            ice_server_list([{"urls": "turn:x", "credential": "q" * 1_025}])
        assert "qqq" not in str(caught.value)

    def test_ice_servers_are_at_most_sixteen(self) -> None:
        with pytest.raises(ValueError, match="17"):
            ice_server_list(["stun:x"] * 17)
