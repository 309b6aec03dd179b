"""Telling keys of this server from those of the hosted service."""

from __future__ import annotations

import base64
import json

import pytest

from metered_realtime.core.wire.key_forms import (
    MAX_TOKEN_HEADER,
    is_local_key,
    is_local_secret_id,
    is_local_token,
    local_key,
    local_secret_id,
)
from metered_realtime.server import mint_token
from metered_realtime.server.keys import check_publishable_key, check_secret_pair, new_publishable_key, new_secret_pair

LOCAL_KEY = "pk_live_0123456789abcdef0123456789abcdef899789fd"
"""Fixed values: later versions must recognise existing keys."""
LOCAL_ID = "sk_id_0123456789abcdef54531538"


def token_with(header: object) -> str:
    packed = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{packed}.e30.c2ln"


class TestKeysMadeHere:
    def test_keys_made_here_have_the_form_that_every_client_takes_and_are_recognised(self) -> None:
        for _ in range(100):
            key, (key_id, secret) = new_publishable_key(), new_secret_pair()
            check_publishable_key(key)
            check_secret_pair(key_id, secret)
            assert (len(key), len(key_id)) == (48, 30)
            assert is_local_key(key)
            assert is_local_secret_id(key_id)

    def test_keys_made_here_are_recognised_by_later_versions(self) -> None:
        assert local_key("0123456789abcdef" * 2) == LOCAL_KEY
        assert local_secret_id("0123456789abcdef") == LOCAL_ID

    def test_keys_made_here_are_unlike_one_another(self) -> None:
        assert len({new_publishable_key() for _ in range(100)}) == 100

    @pytest.mark.parametrize("index", range(len("pk_live_"), len(LOCAL_KEY)))
    def test_keys_made_here_with_any_other_digit_are_not_recognised(self, index: int) -> None:
        other = "0" if LOCAL_KEY[index] != "0" else "1"
        assert not is_local_key(LOCAL_KEY[:index] + other + LOCAL_KEY[index + 1 :])


class TestOtherKeys:
    @pytest.mark.parametrize(
        "key",
        [
            "",
            "pk_live_",
            "pk_live_mine",
            "pk_live_" + "0" * 40,
            "pk_live_" + "7c" * 20,
            LOCAL_KEY.upper(),
            LOCAL_KEY + "\n",
            LOCAL_KEY + "0",
            LOCAL_KEY[8:],
            "sk_id_" + LOCAL_KEY[8:],
            LOCAL_ID,
            "é" * 48,
        ],
    )
    def test_other_keys_are_not_recognised(self, key: str) -> None:
        assert not is_local_key(key)


class TestTokens:
    def test_tokens_of_a_key_made_here_are_recognised(self) -> None:
        key_id, secret = new_secret_pair()
        assert is_local_token(mint_token(secret_id=key_id, secret=secret, peer_id="ann"))

    def test_tokens_of_any_other_key_are_not(self) -> None:
        assert not is_local_token(mint_token(secret_id="sk_id_mine", secret="sk_secret_" + "s" * 40, peer_id="ann"))

    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "no token",
            "é.e30.x",
            "e30.e30.x",
            "A.e30.x",
            token_with([LOCAL_ID]),
            token_with({"kid": [LOCAL_ID]}),
            token_with({"alg": "HS256"}),
            token_with({"kid": LOCAL_ID, "pad": "x" * MAX_TOKEN_HEADER}),
            token_with({"kid": LOCAL_ID}).replace(".", ""),
            base64.urlsafe_b64encode(b"[" * 700).decode() + ".e30.x",
        ],
        ids=lambda token: token[:20],
    )
    def test_tokens_without_such_a_header_are_not(self, token: str) -> None:
        assert not is_local_token(token)
