"""Preparing the packets of a track that is encoded already: their codec, format and time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from ...core.media.timeline import Timeline
from ..codecs.encoded import is_key_frame
from ..codecs.encoders import Packet

_START_CODES = (b"\0\0\1", b"\0\0\0\1")

_CLOCK_RATES = {
    "video/vp8": 90_000,
    "video/h264": 90_000,
    "audio/opus": 48_000,
    "audio/g722": 8_000,  # although it samples at 16 kHz: RFC 3551 section 4.5.2 keeps an old mistake
    "audio/pcmu": 8_000,
    "audio/pcma": 8_000,
}

_NAMES = {
    "vp8": "video/vp8",
    "libvpx": "video/vp8",
    "h264": "video/h264",
    "opus": "audio/opus",
    "libopus": "audio/opus",
    "g722": "audio/g722",
    "adpcm_g722": "audio/g722",
    "pcm_mulaw": "audio/pcmu",
    "pcm_alaw": "audio/pcma",
}
"""MIME types by FFmpeg's codec names."""


@dataclass(frozen=True, slots=True)
class SourcePacket:
    """A packet whose `pts` is in the clock of its codec, on a time line that moves forward."""

    codec: RTCRtpCodecParameters
    packet: Packet

    @property
    def at(self) -> float:
        """The second of the time line at which the packet belongs."""
        assert self.packet.pts is not None
        return self.packet.pts / self.codec.clockRate

    @property
    def mime_type(self) -> str:
        """The MIME type in lower case."""
        return self.codec.mimeType


class PacketForward:
    """Prepares the packets of one track. Their codec is that of the track or their stream, or guessed."""

    def __init__(self, track: Any) -> None:
        self._track = track
        self.timeline = Timeline(reorders=True)
        self._codecs: dict[str, RTCRtpCodecParameters] = {}
        self._to_annex_b: Any = None

    def prepare_packet(self, packet: Packet, now: float) -> list[SourcePacket]:
        """Return a packet ready to be sent, as one or several. `now` is in seconds of any clock.

        Raises:
            ValueError: aiortc cannot packetize its codec.
        """
        codec = self._codec(packet)
        if codec.mimeType == "video/h264" and not bytes(packet)[:4].startswith(_START_CODES):
            packets = self._annex_b(packet)
        else:
            packets = [packet]
        return [SourcePacket(codec, self._placed(codec, it, now)) for it in packets]

    def _codec(self, packet: Packet) -> RTCRtpCodecParameters:
        mime_type = str(getattr(self._track, "codec", None) or _mime_type(self._track.kind, packet)).lower()
        codec = self._codecs.get(mime_type)
        if codec is None:
            if mime_type not in _CLOCK_RATES:
                raise ValueError(f"packets in {mime_type} cannot be sent")
            codec = RTCRtpCodecParameters(mimeType=mime_type, clockRate=_CLOCK_RATES[mime_type])
            self._codecs[mime_type] = codec
        return codec

    def _placed(self, codec: RTCRtpCodecParameters, packet: Packet, now: float) -> Packet:
        """Return a copy of the packet with its place and its key frame flag set."""
        pts = round(self.timeline.place_unit(time_of(packet), now) * codec.clockRate)
        placed: Packet = av.Packet(memoryview(packet))  # type: ignore[arg-type]  # it takes any buffer
        placed.pts = placed.dts = pts
        placed.time_base = Fraction(1, codec.clockRate)
        placed.is_keyframe = is_key_frame(codec, bytes(packet))
        placed.opaque = packet.opaque
        return placed

    def _annex_b(self, packet: Packet) -> list[Packet]:
        """Convert a packet from MP4 or Matroska to Annex B: start codes and parameter sets (ISO 14496-10)."""
        if self._to_annex_b is None:
            self._to_annex_b = av.BitStreamFilterContext("h264_mp4toannexb", packet.stream)
        packets: list[Packet] = self._to_annex_b.filter(packet)
        return packets


def _mime_type(kind: str, packet: Packet) -> str:
    """Return the MIME type of a packet by its stream, or by its first bytes."""
    stream: Any = packet.stream
    if stream is not None:
        name = stream.codec_context.name
        return _NAMES.get(name, f"{kind}/{name}")
    if kind == "audio":
        return "audio/opus"
    return "video/h264" if bytes(packet)[:4].startswith(_START_CODES) else "video/vp8"


def time_of(unit: Any) -> Fraction | None:
    """Return the time of a frame or packet in seconds, None if it has none."""
    if unit.pts is None or not unit.time_base:
        return None
    return Fraction(unit.pts * unit.time_base.numerator, unit.time_base.denominator)
