"""ICE candidates, as they are written in descriptions and signals (RFC 8839 section 5.1)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from .sdp import SdpError

MAX_REMOTE_CANDIDATES = 200
"""Candidates of the remote for one connection, from descriptions and signals together: each is paired with every local
one. Browsers with many interfaces send tens."""

MAX_CANDIDATE_NAMES = 32
"""mDNS names among them. Each is queried in the local network and waited for up to a second. A browser hides one
address of each interface behind a name."""

MAX_CANDIDATE_LENGTH = 1_000
"""Characters of a candidate line. Real ones have about 120."""

_CANDIDATE = re.compile(
    r"(?:a=)?(?:candidate:)?([!-~]{1,64}) +(\d{1,3}) +([A-Za-z0-9-]{1,16}) +(\d{1,10}) +([!-~]{1,256}) +(\d{1,5}) +"
    r"typ +([a-z]{1,16})((?: .*)?)",
    re.ASCII,
)
_NAME = re.compile(r"[a-zA-Z0-9-]{1,63}\.local", re.ASCII)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate of the remote. `address` is a literal address, or a name that mDNS resolves."""

    foundation: str
    component: int
    protocol: str
    priority: int
    address: str
    port: int
    type: str
    related_address: str | None = None
    related_port: int | None = None
    tcp_type: str | None = None

    @property
    def transport_address(self) -> tuple[str, str, int]:
        """Protocol, address and port. Candidates with the same ones are redundant (RFC 8445 section 5.1.3)."""
        return self.protocol, self.address, self.port

    @property
    def is_name(self) -> bool:
        """Whether mDNS has to resolve the address (RFC 8828)."""
        return _NAME.fullmatch(self.address) is not None


def parse_candidate(text: str) -> Candidate:
    """Read a candidate, with or without `a=` and `candidate:` before it.

    Raises:
        SdpError: it cannot be read, or no packet can be sent to its address.
    """
    if len(text) > MAX_CANDIDATE_LENGTH:
        raise SdpError(f"a candidate of {len(text)} characters")
    match = _CANDIDATE.fullmatch(text.strip())
    if match is None:
        raise SdpError("a candidate that cannot be read", text)
    foundation, component, protocol, priority, address, port, kind, rest = match.groups()
    _check_address(address, int(port), text)
    fields = rest.split()
    extensions = dict(zip(fields[::2], fields[1::2], strict=False))
    related_port = extensions.get("rport", "")
    return Candidate(
        foundation,
        int(component),
        protocol.lower(),
        int(priority),
        address.lower(),
        int(port),
        kind,
        extensions.get("raddr"),
        int(related_port) if re.fullmatch(r"\d{1,5}", related_port, re.ASCII) else None,
        extensions.get("tcptype"),
    )


def _check_address(address: str, port: int, text: str) -> None:
    if not 1 <= port <= 65_535:
        raise SdpError("a candidate without a port", text)
    if _NAME.fullmatch(address):
        return
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise SdpError("a candidate whose address is neither literal nor an mDNS name", text) from None
    mapped = parsed.version == 6 and (parsed.ipv4_mapped is not None or parsed.scope_id is not None)
    if mapped or parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255":
        raise SdpError("a candidate whose address is not that of a host", text)
