"""Packets of a stream without a reader, kept for a reader that comes late."""

from __future__ import annotations

from collections import deque

from .passthrough import Packet

HELD = 1.0
"""Seconds of packets kept for a reader that has not come yet: a little more than a file is decoded ahead."""

MAX_HELD = 600
"""Packets kept at most, for video with rare key frames: 20 s at 30 fps."""


class HeldPackets:
    """Keeps the packets that decoding needs to begin about `HELD` seconds ago: all from the key frame before."""

    def __init__(self) -> None:
        self._packets: deque[Packet] = deque()

    def __bool__(self) -> bool:
        return bool(self._packets)

    def add(self, packet: Packet) -> None:
        """Keep a packet, and drop those that it makes too old."""
        held = self._packets
        if len(held) >= MAX_HELD:
            held.clear()
        if held or packet.is_keyframe:  # every packet of sound is a key frame
            held.append(packet)
        if packet.is_keyframe:
            old = [n for n, each in enumerate(held) if each.is_keyframe and _seconds(each, packet) >= HELD]
            for _ in range(old[-1] if old else 0):
                held.popleft()

    def pop(self) -> Packet:
        """Remove and return the oldest packet."""
        return self._packets.popleft()

    def clear(self) -> None:
        """Drop all packets."""
        self._packets.clear()


def _seconds(first: Packet, last: Packet) -> float:
    """Return the seconds from one packet of a stream to another, 0 if unknown."""
    if first.dts is None or last.dts is None or last.time_base is None:
        return 0.0
    return float((last.dts - first.dts) * last.time_base)
