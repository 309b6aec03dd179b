"""SCTP packets around their chunks (RFC 9260 section 3.1): common header and checksum. Pure."""

from __future__ import annotations

from struct import Struct

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

COMMON_HEADER = 12
"""Bytes of the common header of a packet."""

_CHECKSUM = Struct("<L")
_HEADER = Struct("!HHL")
_NO_CHECKSUM = bytes(4)


class PacketFormat:
    """The common headers of one association, with the checksum behind them: only what follows them changes."""

    def __init__(self, local_port: int, local_tag: int, remote_port: int, remote_tag: int) -> None:
        self._inbound = _HEADER.pack(remote_port, local_port, local_tag)
        self._outbound = _HEADER.pack(local_port, remote_port, remote_tag)
        self._inbound_seed = crc32c(self._inbound + _NO_CHECKSUM)
        self._outbound_seed = crc32c(self._outbound + _NO_CHECKSUM)

    def is_inbound(self, packet: bytes) -> bool:
        """Return whether a packet of the remote belongs to this association, and has chunks."""
        return packet[:8] == self._inbound and len(packet) > COMMON_HEADER

    def is_intact(self, packet: bytes) -> bool:
        """Return whether the checksum of a packet of this association is right."""
        checksum: int = crc32c_extend(self._inbound_seed, packet[COMMON_HEADER:])
        (claimed,) = _CHECKSUM.unpack_from(packet, 8)
        return bool(checksum == claimed)

    def packet(self, chunks: list[bytes]) -> bytes:
        """Return a packet to the remote with these chunks."""
        body = b"".join(chunks)
        return self._outbound + _CHECKSUM.pack(crc32c_extend(self._outbound_seed, body)) + body
