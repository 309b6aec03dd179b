"""Finding the start of a pass through a container, and seeking to it."""

from __future__ import annotations

import av
from av.container import InputContainer

from .passthrough import Packet

PREROLL = 0.1
"""Seconds decoded and dropped before a place in a file: Opus needs 80 ms to converge (RFC 7845 section 4.6)."""

TOLERANCE = 0.001
"""Seconds by which a picture may be early: containers round their timestamps to a millisecond."""


PACKET_EXACT = ("mov", "matroska")
"""FFmpeg's formats with exact seeking, in which a loop begins with the very first packet: time 0 is after the packets
from which an audio decoder converges. Others, such as MPEG-TS, would lose the first pictures that way."""


class PassStart:
    """Moves a container to the start of each pass: to its first packet, or to the place that `find` found."""

    def __init__(self, container: InputContainer, video: av.stream.Stream | None) -> None:
        self._container = container
        self._video = video
        self._first: tuple[av.stream.Stream, int] | None = None  # the first packet: its stream and time
        self._place: float | None = None  # seconds on the container's clock

    def note_packet(self, packet: Packet) -> None:
        """Record a packet. A pass without a place begins at the first one."""
        if self._first is None and packet.dts is not None:
            self._first = packet.stream, packet.dts

    def seek(self) -> None:
        """Seek to the start of a pass.

        Raises:
            av.FFmpegError: the container cannot seek.
        """
        if self._place is not None:
            self._container.seek(round(self._place * av.time_base))
        elif self._first is not None and self._container.format.name.partition(",")[0] in PACKET_EXACT:
            stream, first = self._first
            self._container.seek(first, stream=stream)
        else:
            self._container.seek(0)

    def find(self, base: float, start: float) -> float | None:
        """Find and seek to a place from which everything can be decoded `start` seconds after `base`.

        That is a key frame before it, and some sound. Containers without an index (MPEG-TS) may seek to a place from
        which decoding begins too late; then it is searched further back. Return the seconds from `base` to the key
        frame, None if there is no video.

        Raises:
            av.FFmpegError: the container cannot seek.
        """
        back = PREROLL
        while True:
            self._place = max(base, base + start - back)
            self.seek()
            key = self._next_key_frame(base)
            if key is None or key <= start + TOLERANCE or self._place == base:
                break
            back *= 2
        self.seek()
        return key

    def _next_key_frame(self, base: float) -> float | None:
        """Read up to the next key frame, and return its distance from `base` in seconds."""
        if self._video is not None:
            for packet in self._container.demux(self._video):
                if packet.is_keyframe and packet.pts is not None and packet.time_base is not None:
                    return float(packet.pts * packet.time_base) - base
        return None
