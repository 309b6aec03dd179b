"""Encoders for the codecs of WebRTC: raw frames of any size, format and rate in, packets out.

They encode copies. Encoding writes times and the picture type into a frame that other encoders may have as well:
aiortc's encoders change the frame itself, so that a key frame for one receiver becomes one for all.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import av
from aiortc.codecs.vpx import number_of_threads
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.video.frame import PictureType

from ...core.media.renditions import BitrateLimits
from .pictures import as_sent, copied, mark_as_sent

Packet: TypeAlias = "av.Packet[Any]"
Frame: TypeAlias = "av.VideoFrame | av.AudioFrame"

NOMINAL_RATE = Fraction(30)
"""Pictures per second that rate control starts with. It follows the timestamps from the second picture on."""

KEY_FRAME_DISTANCE = 3_000
"""Pictures between unrequested key frames, as in libwebrtc: a receiver that needs one requests it."""

OPUS_BITRATE = 96_000
"""Bits per second, as in aiortc: transparent for speech, good for music."""

LEVEL_STRIDE = 3
"""Every third sample is enough to measure the level of 20 ms, in a third of the time."""


@dataclass(frozen=True, slots=True)
class SendCodec:
    """A negotiated codec, as far as its encoding goes: sections with equal ones can share packets.

    `profile` is the first byte of H.264's profile-level-id: aiortc negotiates 42001f and 42e01f, and the encoder makes
    constrained baseline, which conforms to both (RFC 6184 section 8.1).
    """

    mime_type: str
    clock_rate: int
    profile: str = ""

    @classmethod
    def of(cls, parameters: RTCRtpCodecParameters) -> SendCodec:
        """Return the codec of negotiated parameters."""
        profile = str(parameters.parameters.get("profile-level-id", ""))[:2].lower()
        return cls(parameters.mimeType.lower(), parameters.clockRate, profile)

    @classmethod
    def usual(cls, parameters: RTCRtpCodecParameters) -> SendCodec:
        """Return the codec that sections of this MIME type usually negotiate."""
        profile = "42" if parameters.mimeType.lower() == "video/h264" else ""
        return cls(parameters.mimeType.lower(), parameters.clockRate, profile)


class FrameEncoder(Protocol):
    """Encodes frames. Used by one thread at a time."""

    def encode(self, frame: Any, at: Fraction, bitrate: int, *, key_frame: bool) -> list[Packet]:
        """Encode a frame at a time in seconds, later than the previous one. Raises if the frame cannot be encoded."""

    def reset(self) -> None:
        """Start over with the next frame."""


def make_encoder(codec: SendCodec, shrink: int = 1) -> FrameEncoder:
    """Return a new encoder. `shrink` divides the width and height of pictures.

    Raises:
        ValueError: there is no encoder for this codec.
    """
    if codec.mime_type in _VIDEO:
        return VideoEncoder(codec, shrink)
    if codec.mime_type in _AUDIO:
        return AudioEncoder(codec)
    raise ValueError(f"no encoder for {codec.mime_type}")


# --- pictures


@dataclass(frozen=True, slots=True)
class _Video:
    limits: BitrateLimits
    open: Callable[[int, int, int], av.VideoCodecContext]


class VideoEncoder:
    """Encodes VP8 or H.264 in yuv420p, at the size of the frames divided by `shrink`."""

    def __init__(self, codec: SendCodec, shrink: int = 1) -> None:
        self._settings = _VIDEO[codec.mime_type]
        self._clock_rate = codec.clock_rate
        self._shrink = shrink
        self._context: av.VideoCodecContext | None = None
        self._bitrate = 0

    def encode(self, frame: Any, at: Fraction, bitrate: int, *, key_frame: bool) -> list[Packet]:
        """Encode a picture. Codecs need even sizes: an odd row or column is scaled away."""
        if not isinstance(frame, av.VideoFrame):
            raise TypeError(f"a video encoder takes an av.VideoFrame, not {type(frame).__name__}")
        width, height = (max(2, side // self._shrink & ~1) for side in (frame.width, frame.height))
        picture = _own_picture(frame, width, height)
        picture.pts, picture.time_base = int(at * self._clock_rate), Fraction(1, self._clock_rate)
        picture.pict_type = PictureType.I if key_frame else PictureType.NONE
        return self._adapted(width, height, bitrate).encode(picture)

    def reset(self) -> None:
        """Start over with a key frame."""
        self._context = None

    def _adapted(self, width: int, height: int, bitrate: int) -> av.VideoCodecContext:
        """Return an encoder for this size and bitrate: the current one if they are unchanged.

        libvpx and x264 could change their bitrate while running, but FFmpeg does not pass it to libvpx, and x264 adapts
        over minutes unless the buffer size changes too, which PyAV cannot set.
        """
        context = self._context
        if context is None or (context.width, context.height) != (width, height) or bitrate != self._bitrate:
            context = self._context = self._settings.open(width, height, bitrate)
            self._bitrate = bitrate
        return context


# Floors, starts and ceilings of the full rendition are those of aiortc.
_VP8_LIMITS = BitrateLimits(250_000, 500_000, 1_500_000, low_floor=100_000, step=0.15, hold=2.0)
_H264_LIMITS = BitrateLimits(500_000, 1_000_000, 3_000_000, low_floor=150_000, step=0.15, hold=2.0)


def _own_picture(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    picture = as_sent(frame, width, height)
    return copied(picture) if picture is frame else picture


def _new_context(name: str, width: int, height: int, bitrate: int, options: dict[str, str]) -> av.VideoCodecContext:
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.bit_rate = bitrate
    context.time_base = Fraction(1, 90_000)
    context.framerate = NOMINAL_RATE
    context.gop_size = KEY_FRAME_DISTANCE
    context.thread_count = number_of_threads(width * height, multiprocessing.cpu_count())
    mark_as_sent(context)
    context.options = options
    return context


def _open_vp8(width: int, height: int, bitrate: int) -> av.VideoCodecContext:
    """Open libvpx as aiortc does, but without its noise filter: pictures also come from files and screens."""
    options = {
        "bufsize": str(bitrate),  # a buffer of one second
        "cpu-used": "-6",
        "deadline": "realtime",
        "lag-in-frames": "0",
        "minrate": str(bitrate),  # equal minimum, maximum and target mean a constant bitrate
        "maxrate": str(bitrate),
        "overshoot-pct": "15",
        "undershoot-pct": "100",
        "static-thresh": "1",
    }
    context = _new_context("libvpx", width, height, bitrate, options)
    context.qmin, context.qmax = 2, 56
    return context


def _open_h264(width: int, height: int, bitrate: int) -> av.VideoCodecContext:
    """Open x264 without any delay.

    aiortc uses the preset medium. Most of its gain over superfast comes from mode decision (subq); with that, and
    without adaptive quantization, the quality is the same in two fifths of the time. At a fixed bitrate, key frames at
    scene cuts cost more than they gain.
    """
    options = {
        "preset": "superfast",
        "subq": "6",
        "aq-mode": "0",
        "tune": "zerolatency",
        "sc_threshold": "0",
        "forced-idr": "1",
    }
    context = _new_context("libx264", width, height, bitrate, options)
    context.profile = "Baseline"
    return context


_VIDEO = {
    "video/vp8": _Video(_VP8_LIMITS, _open_vp8),
    "video/h264": _Video(_H264_LIMITS, _open_h264),
}


def video_limits(codec: SendCodec) -> BitrateLimits | None:
    """Return the bounds of a codec's bitrate, None if its bitrate is fixed."""
    settings = _VIDEO.get(codec.mime_type)
    return settings.limits if settings is not None else None


# --- sound


@dataclass(frozen=True, slots=True)
class _Audio:
    name: str
    rate: int
    layout: str


_AUDIO = {
    "audio/opus": _Audio("libopus", 48_000, "stereo"),
    "audio/g722": _Audio("g722", 16_000, "mono"),
    "audio/pcmu": _Audio("pcm_mulaw", 8_000, "mono"),
    "audio/pcma": _Audio("pcm_alaw", 8_000, "mono"),
}


class AudioEncoder:
    """Encodes sound of any format, rate and layout in packets of 20 ms.

    The `opaque` of a packet is its audio level in dBov, from -127 to 0 (RFC 6464).
    """

    def __init__(self, codec: SendCodec) -> None:
        self._settings = _AUDIO[codec.mime_type]
        self._clock_rate = codec.clock_rate
        self._context: av.AudioCodecContext | None = None
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None

    def encode(self, frame: Any, at: Fraction, bitrate: int, *, key_frame: bool) -> list[Packet]:
        """Encode sound: no packet before there are 20 ms of it, several if it is longer."""
        if not isinstance(frame, av.AudioFrame):
            raise TypeError(f"an audio encoder takes an av.AudioFrame, not {type(frame).__name__}")
        sound = _own_sound(frame)
        sound.pts, sound.time_base = int(at * frame.sample_rate), Fraction(1, frame.sample_rate)
        return [packet for piece in self._pieces(sound) for packet in self._encode(piece)]

    def reset(self) -> None:
        """Start over."""
        self._context = self._resampler = None

    def _pieces(self, sound: av.AudioFrame) -> list[av.AudioFrame]:
        """Return the complete pieces of 20 ms, in the format of the encoder."""
        heard = sound.format.name, sound.layout.name, sound.sample_rate
        if self._resampler is None or heard != self._format:
            rate = self._settings.rate
            self._resampler = av.AudioResampler("s16", self._settings.layout, rate, frame_size=rate // 50)
            self._format = heard
        return self._resampler.resample(sound)

    def _encode(self, piece: av.AudioFrame) -> list[Packet]:
        if self._context is None:
            self._context = _open_audio(self._settings)
        assert piece.pts is not None
        clock, level = piece.pts * self._clock_rate // self._settings.rate, _level(piece)
        packets: list[Packet] = self._context.encode(piece)
        for packet in packets:
            packet.pts = packet.dts = clock  # libopus counts from minus its look-ahead
            packet.time_base = Fraction(1, self._clock_rate)
            packet.opaque = level
        return packets


def _own_sound(frame: av.AudioFrame) -> av.AudioFrame:
    copy = av.AudioFrame(format=frame.format.name, layout=frame.layout.name, samples=frame.samples)
    copy.sample_rate = frame.sample_rate
    for ours, theirs in zip(copy.planes, frame.planes, strict=True):
        ours.update(bytes(theirs)[: ours.buffer_size].ljust(ours.buffer_size, b"\0"))
    return copy


def _open_audio(settings: _Audio) -> av.AudioCodecContext:
    context = av.CodecContext.create(settings.name, "w")
    assert isinstance(context, av.AudioCodecContext)
    context.format, context.layout, context.sample_rate = "s16", settings.layout, settings.rate
    context.time_base = Fraction(1, settings.rate)
    if settings.name == "libopus":
        context.bit_rate = OPUS_BITRATE
        context.options = {"application": "voip"}
    return context


def _level(piece: av.AudioFrame) -> int:
    """Return the audio level of s16 sound in dBov."""
    count = piece.samples * len(piece.layout.channels)
    samples = memoryview(piece.planes[0]).cast("B")[: 2 * count].cast("h")[::LEVEL_STRIDE].tolist()
    power = sum(sample * sample for sample in samples) / max(1, len(samples)) / 32_767**2
    return max(-127, min(0, round(10 * math.log10(power)))) if power else -127
