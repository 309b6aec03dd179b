"""Where in a container a pass through it begins, and how to get there."""

from __future__ import annotations

import av
from av.container import InputContainer

from .passthrough import Packet

PREROLL = 0.1
"""Seconds that are decoded and dropped before a place in a file: Opus needs 80 ms to settle (RFC 7845 section 4.6)."""

TOLERANCE = 0.001
"""Seconds by which a picture may be before its place: containers round their timestamps to a millisecond."""


PACKET_EXACT = ("mov", "matroska")
"""FFmpeg's formats in which every packet can be gone back to, and a loop begins with the very first one: time 0 is
behind the packets from which a decoder of sound warms up. Others, such as MPEG-TS, would miss the first pictures so."""


class PassStart:
    """Leads a container to the start of each pass: to its first packet, or to where `find` found its place."""

    def __init__(self, container: InputContainer, video: av.stream.Stream | None) -> None:
        self._container = container
        self._video = video
        self._first: tuple[av.stream.Stream, int] | None = None  # the first packet: its stream and time
        self._place: float | None = None  # seconds on the container's clock

    def note(self, packet: Packet) -> None:
        """Take note of what is read; the first packet is where a pass without a place begins."""
        if self._first is None and packet.dts is not None:
            self._first = packet.stream, packet.dts

    def go(self) -> None:
        """Move to the start of a pass.

        Raises:
            av.FFmpegError: There is no way to.
        """
        if self._place is not None:
            self._container.seek(round(self._place * av.time_base))
        elif self._first is not None and self._container.format.name.partition(",")[0] in PACKET_EXACT:
            stream, first = self._first
            self._container.seek(first, stream=stream)
        else:
            self._container.seek(0)

    def find(self, base: float, start: float) -> float | None:
        """Find from where to read so that nothing is missing `start` seconds after `base`, and go there.

        That is a key frame before it, and some sound. Containers without an index (MPEG-TS) lead to where decoding can
        only begin later: then look further back. Return where the key frame is, None if there is no video.

        Raises:
            av.FFmpegError: There is no way to.
        """
        back = PREROLL
        while True:
            self._place = max(base, base + start - back)
            self.go()
            key = self._next_key_frame(base)
            if key is None or key <= start + TOLERANCE or self._place == base:
                break
            back *= 2
        self.go()
        return key

    def _next_key_frame(self, base: float) -> float | None:
        """Read up to the next key frame, and return how long after `base` it is."""
        if self._video is not None:
            for packet in self._container.demux(self._video):
                if packet.is_keyframe and packet.pts is not None and packet.time_base is not None:
                    return float(packet.pts * packet.time_base) - base
        return None
