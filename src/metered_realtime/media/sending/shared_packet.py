"""An encoded packet that is sent to many receivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..codecs.encoders import Packet


class SharedPacket:
    """One encoded packet for all its receivers, and its RTP payloads, which are the same for all of them.

    Receivers may be sent it with other `pts`. `level` is the audio level in dBov, None if unknown.
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
        """Return the RTP payloads that `cut` makes of the packet. It is cut once: all receivers have the same codec."""
        if self._payloads is None:
            self._payloads = cut(self.packet)
        return self._payloads


class PlacedPacket(NamedTuple):
    """A shared packet with its `pts` for one receiver, and when its frame was taken, on the event loop's clock."""

    shared: SharedPacket
    pts: int
    taken_at: float
