"""Sending the packets of a file unchanged, where a browser can decode them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer

from ..codecs.pictures import FULL_RANGE
from .upright import is_upright

Packet: TypeAlias = "av.Packet[Any]"

CODECS = {"vp8": "video/VP8", "h264": "video/H264", "opus": "audio/opus"}
"""FFmpeg's names of the codecs that can be passed through, and their RTP media types."""

H264_PROFILES = ("Baseline", "Constrained Baseline")
"""The profiles that aiortc offers and every WebRTC endpoint has to decode (RFC 7742 section 6.2)."""


MAX_CHANNELS = 2
"""Channels of Opus in RTP (RFC 7587 section 4)."""


def codec_of(stream: av.stream.Stream) -> str:
    """Return the RTP media type under which the stream's packets can be sent unchanged.

    Raises:
        ValueError: they cannot, because of the codec, its profile, its channels, or B-frames, which RTP receivers would
            show in the wrong order.
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


MAX_PEEKED = 300
"""Packets that are read to find the first picture. A file without one in about 3 s is passed through unchecked."""


def check_shown_as_it_is(stream: Any, picture: av.VideoFrame) -> None:
    """Raise ValueError if a player shows the stream's pictures differently than a receiver of its packets."""
    if not is_upright(picture, stream.sample_aspect_ratio):
        raise ValueError("video is shown turned or stretched, which packets do not say")
    if picture.color_range == FULL_RANGE:
        raise ValueError("video has colours of full range, and receivers of packets assume limited ones")


def first_picture(
    container: InputContainer, streams: list[av.stream.Stream]
) -> tuple[av.VideoFrame | None, list[Packet]]:
    """Read up to the first picture of the streams. Return it and the packets that were read."""
    read: list[Packet] = []
    picture: av.VideoFrame | None = None
    for packet in container.demux(*streams):
        if packet.size:
            read.append(packet)
        if packet.stream.type == "video":
            picture = _decoded(packet)
        if picture is not None or len(read) >= MAX_PEEKED:
            break
    for stream in streams:
        if isinstance(stream, av.VideoStream):
            stream.codec_context.flush_buffers()  # these packets are decoded again if they are not passed through
    return picture, read


def _decoded(packet: Any) -> av.VideoFrame | None:
    try:
        frames = packet.decode()
    except av.FFmpegError:
        return None
    return frames[0] if frames else None


class Passthrough:
    """Prepares packets of one stream for RTP: H.264 as Annex B, with parameter sets before each key frame."""

    def __init__(self, stream: av.stream.Stream) -> None:
        self.codec = codec_of(stream)
        self._filter = BitStreamFilterContext("h264_mp4toannexb", stream) if self.codec == "video/H264" else None

    def packets(self, packet: Packet) -> Iterator[Packet]:
        """Yield the packets to send for a packet of the file."""
        if packet.size:
            yield from (packet,) if self._filter is None else self._filter.filter(packet)

    def rewind(self) -> None:
        """Reset the state after a seek."""
        if self._filter is not None:
            self._filter.flush()
