"""Accepted server URLs, and the credential in the URL of an attempt."""

from __future__ import annotations

import pytest

from metered_realtime.signalling import SignallingClient
from metered_realtime.signalling.endpoint import attempt_url, is_loopback, parse_origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (None, "wss://rms.metered.ca"),
        ("wss://example.org", "wss://example.org"),
        ("wss://example.org:8443/", "wss://example.org:8443"),
        ("WSS://Example.org", "wss://example.org"),
        ("wss://user:password@example.org", "wss://example.org"),
        ("wss://[2001:db8::1]:9292", "wss://[2001:db8::1]:9292"),
        ("ws://localhost:9292", "ws://localhost:9292"),
        ("ws://127.0.0.1", "ws://127.0.0.1"),
        ("ws://[::1]:9292/", "ws://[::1]:9292"),
    ],
)
def test_origins_are_accepted(url: str | None, origin: str) -> None:
    assert parse_origin(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "http://localhost",
        "https://example.org",
        "ws://example.org",
        "ws://localhost.example.org",
        "ws://127.0.0.2",
        "wss://",
        "wss://:8443",
        "wss://example.org/v1",
        "wss://example.org/?token=x",
        "wss://example.org/#top",
        "wss://example.org:port",
        "wss://example.org:0",
        "wss://example.org:65536",
        "wss://exa mple.org",
        "wss://[::1",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        SignallingClient(api_key="k", url=url)
    assert "token=x" not in str(caught.value)


def test_a_private_network_may_be_declared_as_such() -> None:
    assert parse_origin("ws://server:9292", allow_insecure=True) == "ws://server:9292"
    SignallingClient(api_key="k", url="ws://server:9292", allow_insecure_url=True)
    with pytest.raises(ValueError, match="wss"):
        parse_origin("http://server", allow_insecure=True)


def test_credentials_are_percent_encoded_entirely() -> None:
    url = attempt_url("wss://h", "token", "a.b-c_d~e/f+g=h&i j", recover="1")
    assert url == "wss://h/v1?token=a.b-c_d~e%2Ff%2Bg%3Dh%26i%20j&recover=1"


def test_a_position_stands_in_the_url_as_it_is() -> None:
    assert attempt_url("wss://h", "key", "k", "t", recover="e-1_x:7") == "wss://h/v1?key=k&resume=t&recover=e-1_x:7"


def test_this_host_is_reached_without_a_proxy() -> None:
    assert is_loopback("ws://localhost:1/v1?key=x")
    assert is_loopback("ws://[::1]:1")
    assert not is_loopback("wss://example.org")
