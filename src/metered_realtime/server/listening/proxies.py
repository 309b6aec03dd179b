"""The address of a client behind proxies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

IPV6_PREFIXES = (56, 48)
"""Lengths of the prefixes that providers assign to sites, besides /64."""

WIDER = 4
"""What each wider network of IPv6 may have, as a multiple of the one before: many may share it, or one may own it."""


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse addresses and networks such as `10.0.0.0/8`.

    Raises:
        ValueError: an entry is neither; the message names it.
    """
    read = []
    for text in texts:
        try:
            read.append(ip_network(text))
        except ValueError:
            raise ValueError(f"trusted_proxies must be IP addresses or networks, not {text!r}") from None
    return tuple(read)


def client_address(remote: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of the client: `remote`, or the one that trusted proxies report in X-Forwarded-For.

    Each proxy appends the address it saw on the right, and a client can put anything on the left. The rightmost
    address that is not a trusted proxy counts.
    """
    address = remote or ""
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while hops and is_trusted(address, trusted):
        hop = hops.pop()
        if not _is_address(hop):
            return address
        address = hop
    return address


def network_of(address: str) -> str:
    """Return the network that limits apply to: the IPv4 address of a client, or the /64 of its IPv6 address.

    A site has at least a /64 (RFC 6177), and each of its hosts may use any address in it.
    """
    if not _is_address(address):
        return address
    ip = _plain(address)
    return str(ip) if isinstance(ip, IPv4Address) else str(ip_network((int(ip) >> 64 << 64, 64)))


def networks_of(address: str) -> tuple[str, ...]:
    """Return the network of an address, and the wider ones that its limits apply to, each to `WIDER` times as many.

    Providers assign /56 or /48 to a site (RFC 6177 section 2), and a /48 has 65,536 /64.
    """
    network = network_of(address)
    if not network.endswith("/64"):
        return (network,)
    return (network, *(str(ip_network(network).supernet(new_prefix=prefix)) for prefix in IPV6_PREFIXES))


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Parse an address. An IPv4-mapped IPv6 address, as a dual-stack socket reports it, becomes an IPv4 address."""
    ip = ip_address(address)
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Return whether an address is one of a trusted proxy."""
    if not trusted or not _is_address(address):
        return False
    return any(_plain(address) in network for network in trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
