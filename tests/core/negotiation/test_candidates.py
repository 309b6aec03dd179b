"""Reading the candidates of a remote."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.candidates import MAX_CANDIDATE_LENGTH, Candidate, parse_candidate
from metered_realtime.core.negotiation.sdp import SdpError


@pytest.mark.parametrize("prefix", ["", "candidate:", "a=candidate:"])
def test_the_fields_of_a_candidate_are_read(prefix: str) -> None:
    text = f"{prefix}842163049 1 UDP 1677729535 2001:DB8::1 46154 typ srflx raddr 10.0.17.1 rport 9 generation 0"
    assert parse_candidate(text) == Candidate(
        "842163049", 1, "udp", 1677729535, "2001:db8::1", 46154, "srflx", "10.0.17.1", 9
    )


def test_a_candidate_may_have_a_name_or_be_for_tcp() -> None:
    named = parse_candidate("candidate:1 1 udp 1 6B1f-00.local 9 typ host")
    assert (named.is_name, named.address) == (True, "6b1f-00.local")
    tcp = parse_candidate("candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active rport")
    assert (tcp.is_name, tcp.tcp_type, tcp.related_port) == (False, "active", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "candidate:",
        "1 1 udp 1 192.0.2.1 9 host",
        "1 x udp 1 192.0.2.1 9 typ host",
        "1 1 udp x 192.0.2.1 9 typ host",
        "1 1 udp 1 192.0.2.1 x typ host",
        "1 1 udp 1 192.0.2.1 0 typ host",
        "1 1 udp 1 192.0.2.1 65536 typ host",
        "1 1 udp 1 0.0.0.0 9 typ host",
        "1 1 udp 1 :: 9 typ host",
        "1 1 udp 1 224.0.0.251 9 typ host",
        "1 1 udp 1 ff02::1 9 typ host",
        "1 1 udp 1 255.255.255.255 9 typ host",
        "1 1 udp 1 ::ffff:192.0.2.1 9 typ host",
        "1 1 udp 1 fe80::1%eth0 9 typ host",
        "1 1 udp 1 host.example 9 typ host",
        "1 1 udp 1 a.b.local 9 typ host",
        "\u0661 1 udp 1 192.0.2.1 9 typ host",
        "1 1 udp 1 192.0.2.1 9 typ host " + "x" * MAX_CANDIDATE_LENGTH,
    ],
)
def test_a_candidate_to_which_no_packet_can_be_sent_is_refused(text: str) -> None:
    with pytest.raises(SdpError, match="candidate"):
        parse_candidate(text)
