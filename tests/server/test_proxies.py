"""Whose address counts when proxies stand in between."""

from __future__ import annotations

import pytest

from metered_realtime.server import Limits, SignallingServer
from metered_realtime.server.proxies import client_address, networks

from .rest_client import backend

TRUSTED = networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1,10.0.0.2"], "198.51.100.1"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (None, ["198.51.100.1"], ""),
    ],
)
def test_believes_what_trusted_proxies_saw(remote: str | None, forwarded: list[str], address: str) -> None:
    assert client_address(remote, forwarded, TRUSTED) == address


def test_names_a_proxy_that_is_none() -> None:
    with pytest.raises(ValueError, match="'near'"):
        networks(["near"])


@pytest.mark.parametrize(("trusted", "statuses"), [((), [200, 429]), (("127.0.0.1",), [200, 200])])
async def test_clients_behind_a_trusted_proxy_have_a_share_each(trusted: tuple[str], statuses: list[int]) -> None:
    limits = Limits(rest_burst=1, rest_per_second=0.01)
    async with SignallingServer(limits=limits, trusted_proxies=trusted) as server, backend(server) as ours:
        answers = [
            await ours.ask("GET", "/usage", headers={"X-Forwarded-For": address})
            for address in ("198.51.100.1", "198.51.100.2")
        ]
        assert [answer.status for answer in answers] == statuses
