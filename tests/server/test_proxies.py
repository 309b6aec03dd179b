"""The address of a client behind proxies."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from metered_realtime.server import Limits, SignallingServer
from metered_realtime.server.listening.proxies import client_address, network_of, networks

from ..support.rest_client import backend

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


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("::FFFF:c633:6401", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_limits_count_an_ipv4_address_or_the_64_of_an_ipv6_one(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("addresses", "statuses"),
    [
        (("2001:db8::1", "2001:db8::ffff:2"), [200, 429]),
        (("2001:db8:0:1::1", "2001:db8:0:2::1"), [200, 200]),
        (("198.51.100.1", "::ffff:198.51.100.1"), [200, 429]),
        (("::ffff:198.51.100.1", "::ffff:198.51.100.2"), [200, 200]),
    ],
)
async def test_addresses_of_one_64_share_their_limits(addresses: tuple[str, ...], statuses: list[int]) -> None:
    limits = Limits(rest_burst=1, rest_per_second=0.01)
    async with SignallingServer(limits=limits, trusted_proxies=["127.0.0.1"]) as server, backend(server) as ours:
        answers = [await ours.ask("GET", "/usage", headers={"X-Forwarded-For": address}) for address in addresses]
        assert [answer.status for answer in answers] == statuses


async def test_connection_attempts_of_one_64_are_counted_together() -> None:
    limits = Limits(connects_per_address=2)
    async with SignallingServer(limits=limits, trusted_proxies=["127.0.0.1"]) as server, ClientSession() as session:
        statuses = []
        for number in range(4):
            headers = {"X-Forwarded-For": f"2001:db8::{number}"}
            async with session.get(f"{server.http_url}/v1?key=x", headers=headers) as answer:
                statuses.append(answer.status)
        assert statuses == [400, 400, 429, 429]  # no upgrade was requested
