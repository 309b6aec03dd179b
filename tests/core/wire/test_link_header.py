"""STUN and TURN servers in Link headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime import IceServerConfig
from metered_realtime.core.wire.link_header import ice_links, parse_ice_links


def test_the_servers_of_the_standard_are_read() -> None:
    headers = [
        '<stun:stun.example.net>; rel="ice-server"',
        '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="user"; credential="my\\"Password"; '
        'credential-type="password", <turns:turn.example.net>;rel=ice-server;username=user;credential=x',
        '<https://example.net/sse>; rel="urn:ietf:params:whep:ext:core:server-sent-events"; events="a,b"',
    ]
    servers, left_out = parse_ice_links(headers)
    assert servers == (
        IceServerConfig("stun:stun.example.net"),
        IceServerConfig("turn:turn.example.net?transport=udp", "user", 'my"Password'),
        IceServerConfig("turns:turn.example.net", "user", "x"),
    )
    assert left_out == 0


@pytest.mark.parametrize(
    "link",
    [
        "<http://example.net>",
        "<stun>",
        f"<stun:{'x' * 600}>",
        f'<turn:x>; username="u"; credential="{"x" * 2000}"',
        '<turn:x>; username="u"; credential="x"; credential-type="oauth"',
    ],
)
def test_a_server_that_cannot_be_used_is_left_out(link: str) -> None:
    assert parse_ice_links([f'{link}; rel="ice-server"']) == ((), 1)


def test_there_is_a_bound() -> None:
    links = ", ".join(f'<stun:s{number}>; rel="ice-server"' for number in range(20))
    servers, left_out = parse_ice_links([links])
    assert (len(servers), left_out) == (16, 4)
    assert parse_ice_links(['<stun:x>; rel="ice-server", ' * 100_000])[0].__len__() == 16


def test_what_is_written_is_read() -> None:
    servers = [IceServerConfig(["stun:a", "turn:b"], 'us"er', "pass\\word"), IceServerConfig("stun:c")]
    read, _ = parse_ice_links(ice_links(servers))
    assert read == (
        IceServerConfig("stun:a", 'us"er', "pass\\word"),
        IceServerConfig("turn:b", 'us"er', "pass\\word"),
        IceServerConfig("stun:c"),
    )


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: x", "ü"])
def test_what_a_header_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        ice_links([IceServerConfig("turn:x", "user", text)])


@given(st.lists(st.text(alphabet='<>;,="\\ abc:relstunice-server', max_size=200), max_size=4))
def test_any_header_is_read_without_an_error(headers: list[str]) -> None:
    parse_ice_links(headers)
