"""Common header and checksum of SCTP packets."""

from __future__ import annotations

from aiortc.rtcsctptransport import SackChunk, parse_packet, serialize_packet

from metered_realtime.core.sctp.packets import PacketFormat

HERE, THERE = PacketFormat(5_000, 1, 6_000, 2), PacketFormat(6_000, 2, 5_000, 1)


def test_packets_are_those_of_aiortc() -> None:
    chunk = SackChunk()
    packet = HERE.packet([bytes(chunk)])
    assert packet == serialize_packet(5_000, 6_000, 2, chunk)
    assert parse_packet(packet)[:3] == (5_000, 6_000, 2)


def test_packets_of_this_association_are_told_from_others() -> None:
    packet = HERE.packet([bytes(16)])
    assert THERE.is_inbound(packet)
    assert THERE.is_intact(packet)
    assert not HERE.is_inbound(packet)
    assert not THERE.is_inbound(packet[:12]), "nothing is in it"


def test_a_changed_bit_is_noticed() -> None:
    packet = bytearray(HERE.packet([bytes(16)]))
    packet[20] ^= 1
    assert not THERE.is_intact(bytes(packet))
