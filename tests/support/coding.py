"""Encoded frames as a remote sends them, and decoding without the package."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
from aiortc.codecs import depayload, get_encoder
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import VideoFrame

from metered_realtime.media.codecs.encoded import EncodedFrame, is_key_frame
from metered_realtime.media.codecs.pcm import pcm_frame
from metered_realtime.media.receiving.remote_track import RemoteTrack
from tests.support.patience import PATIENCE

VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=96)
H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90_000, payloadType=97)
OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=111)

STEP = {"video": 3_000, "audio": 960}
"""Ticks from one frame to the next: 30 pictures a second, 20 ms of sound."""

DECODERS = {"video/VP8": "libvpx", "video/H264": "h264", "audio/opus": "libopus"}


def picture(number: int, level: int = 128) -> VideoFrame:
    """Return a grey picture."""
    frame = VideoFrame(64, 48, "yuv420p")
    for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.pts, frame.time_base = number * 3_000, Fraction(1, 90_000)
    return frame


def pictures(count: int, *, keys: Iterable[int] = (0,), codec: RTCRtpCodecParameters = VP8) -> list[EncodedFrame]:
    """Return encoded pictures, with key frames at these numbers. Picture n is grey at level 40 + n."""
    encoder, wanted = get_encoder(codec), set(keys)
    frames = []
    for number in range(count):
        payloads, _ = encoder.encode(picture(number, 40 + number % 160), number in wanted)  # type: ignore[arg-type]
        data = b"".join(depayload(codec, payload) for payload in payloads)
        frames.append(EncodedFrame(codec, data, number * STEP["video"], is_key_frame(codec, data)))
    assert wanted <= {number for number, frame in enumerate(frames) if frame.is_key}
    return frames


def sound(count: int, start: int = 0) -> list[EncodedFrame]:
    """Return encoded silence in packets of 20 ms."""
    encoder = get_encoder(OPUS)
    payloads: list[bytes] = []
    for number in range(count + 5):
        payloads += encoder.encode(pcm_frame(bytes(3_840), number * 960), False)[0]
    return [EncodedFrame(OPUS, data, (start + n) * STEP["audio"], True) for n, data in enumerate(payloads[:count])]


def decode(packets: Iterable[av.Packet[Any]], mime_type: str) -> list[Any]:
    """Decode packets with a decoder of FFmpeg's own."""
    decoder: Any = av.CodecContext.create(DECODERS[mime_type], "r")
    return [frame for packet in packets for frame in decoder.decode(packet)]


class Remote:
    """A remote track and its upstream, which records the requests for key frames."""

    def __init__(self, kind: str = "video", *, reachable: bool = True) -> None:
        self.requests: list[float] = []
        self.is_reachable = reachable
        self.is_wanted = False
        self.track = RemoteTrack(kind, "t", upstream=self)

    def set_wanted(self, wanted: bool) -> None:
        self.is_wanted = wanted

    def request_key_frame(self) -> bool:
        if self.is_reachable:
            self.requests.append(asyncio.get_running_loop().time())
        return self.is_reachable

    async def send(self, *frames: EncodedFrame) -> None:
        """Let frames arrive, and wait for the decoder."""
        for frame in frames:
            self.track.push_frame(frame)
        await settle(self.track)


async def settle(track: RemoteTrack) -> None:
    """Wait until the decoder is idle."""
    async with asyncio.timeout(PATIENCE):
        while track.frames_undecoded:  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.001)
