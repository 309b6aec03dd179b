"""Handing on what a file holds encoded, where a browser can decode it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import av
from av.bitstream import BitStreamFilterContext

Packet: TypeAlias = "av.Packet[Any]"

CODECS = {"vp8": "video/VP8", "h264": "video/H264", "opus": "audio/opus"}
"""FFmpeg's names of the codecs that can be handed on, and their RTP media types."""

H264_PROFILES = ("Baseline", "Constrained Baseline")
"""What aiortc offers and every WebRTC end has to decode (RFC 7742 section 6.2)."""


MAX_CHANNELS = 2
"""RFC 7587 section 4 has no more for Opus in RTP."""


def codec_of(stream: av.stream.Stream) -> str:
    """Return the RTP media type under which the stream's packets can be sent as they are.

    Raises:
        ValueError: They cannot: the codec, its profile or channels are in the way, or B-frames, which RTP receivers
            would show in the wrong order.
    """
    context: Any = stream.codec_context
    codec = CODECS.get(context.name) or CODECS.get(context.codec.canonical_name)
    if codec is None:
        raise ValueError(f"{stream.type} is {context.name}, and only VP8, H.264 and Opus can be sent as they are")
    if codec == "video/H264" and context.profile not in H264_PROFILES:
        raise ValueError(f"video is H.264 of profile {context.profile}, and only Baseline can be sent as it is")
    if codec == "video/H264" and context.has_b_frames:
        raise ValueError("video is H.264 with B-frames, which cannot be sent as they are")
    if codec == "audio/opus" and context.layout.nb_channels > MAX_CHANNELS:
        raise ValueError(
            f"audio is Opus of {context.layout.nb_channels} channels, and only two can be sent as they are"
        )
    return codec


class Passthrough:
    """Makes packets of one stream fit for RTP: H.264 as Annex B, with its parameter sets before each key frame."""

    def __init__(self, stream: av.stream.Stream) -> None:
        self.codec = codec_of(stream)
        self._filter = BitStreamFilterContext("h264_mp4toannexb", stream) if self.codec == "video/H264" else None

    def packets(self, packet: Packet) -> Iterator[Packet]:
        """Yield what is to be sent of a packet of the file."""
        if packet.size:
            yield from (packet,) if self._filter is None else self._filter.filter(packet)

    def rewind(self) -> None:
        """Forget what came before: the file has been moved to another place."""
        if self._filter is not None:
            self._filter.flush()
