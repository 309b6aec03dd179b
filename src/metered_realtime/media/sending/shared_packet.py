"""A packet on its way to many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..codecs.encoders import Packet


class SharedPacket:
    """A packet for everybody who gets it, and what it is cut into for RTP, which is the same for all of them.

    Those who get it may be given other `pts` than the packet has. `level` is that of sound in dBov, None if unknown.
    """

    __slots__ = ("_payloads", "is_keyframe", "level", "packet", "pts")

    def __init__(self, packet: Packet) -> None:
        assert packet.pts is not None
        self.packet = packet
        self.pts = packet.pts
        self.is_keyframe = packet.is_keyframe
        self.level = packet.opaque if isinstance(packet.opaque, int) else None
        self._payloads: list[bytes] | None = None

    def payloads(self, cut: Callable[[Packet], list[bytes]]) -> list[bytes]:
        """Return what `cut` makes of the packet. All who ask have negotiated the same codec: the first one's serves."""
        if self._payloads is None:
            self._payloads = cut(self.packet)
        return self._payloads


class PlacedPacket(NamedTuple):
    """A packet as one receiver gets it: under these `pts`, which stand for this second on the event loop's clock."""

    shared: SharedPacket
    pts: int
    taken_at: float
