"""Tracks of packets that are encoded already, each of which can be recognised wherever it arrives unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from metered_realtime.media.pacing import Pacer
from tests.support.patience import PATIENCE

FPS = 20
PICTURES = 20
"""Pictures of a clip, which is shown again and again. The first one is a key frame."""

ENCODERS = {"video/VP8": ("libvpx", {"deadline": "realtime"}), "video/H264": ("libx264", {"tune": "zerolatency"})}


class Clip:
    """Some encoded pictures of 160x120. `seed` tells clips apart."""

    def __init__(self, seed: int, codec: str = "video/VP8") -> None:
        self.codec = codec
        self._seed = seed

    @cached_property
    def packets(self) -> tuple[bytes, ...]:
        """The pictures, which are encoded when they are first wanted: many programs import clips and show none."""
        return _encode(self._seed, self.codec)

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {_units(data): number for number, data in enumerate(self.packets)}

    def number_of(self, packet: Any) -> int | None:
        """Return which picture this is, None if it is none of this clip."""
        return self._numbers.get(_units(bytes(packet)))


class ClipTrack(MediaStreamTrack):
    """Sends a clip, without encoding. A request for a key frame starts it from the beginning; otherwise the last
    picture is repeated, unless it `loops`."""

    kind = "video"

    def __init__(self, clip: Clip, *, loops: bool = True) -> None:
        super().__init__()
        self.clip = clip
        self.codec = clip.codec
        self._after_last = 0 if loops else PICTURES - 1
        self._next = self._sent = 0
        self._pacer = Pacer(Fraction(1, FPS))

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        await self._pacer.wait()
        packet: Any = av.Packet(self.clip.packets[self._next])
        packet.pts = packet.dts = self._sent * 90_000 // FPS
        packet.time_base, packet.is_keyframe = Fraction(1, 90_000), self._next == 0
        self._next = self._next + 1 if self._next < PICTURES - 1 else self._after_last
        self._sent += 1
        return packet

    def request_key_frame(self) -> None:
        self._next = 0


async def starts_again(track: Any, clip: Clip) -> None:
    """Read a track to the last picture of a clip, request a key frame, and return when the first picture comes."""
    reader = track.encoded()
    async with asyncio.timeout(PATIENCE):
        while clip.number_of(await reader.recv()) != PICTURES - 1:
            pass
        reader.request_key_frame()
        while clip.number_of(await reader.recv()) != 0:
            pass
    reader.stop()


async def clip_numbers(track: Any, clips: Iterable[Clip], count: int) -> tuple[Clip, list[int]]:
    """Read packets of a track, all of one clip. Return the clip and the numbers of the pictures."""
    reader, shown = track.encoded(), None
    numbers: list[int] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while len(numbers) < count:
                packet = await reader.recv()
                shown = shown or next((it for it in clips if it.number_of(packet) is not None), None)
                assert shown is not None, "these are not the bytes of any clip: they were encoded again"
                number = shown.number_of(packet)
                assert number is not None, "a picture of another clip, or one that was encoded again"
                numbers.append(number)
    finally:
        reader.stop()
    assert shown is not None
    return shown, numbers


def _units(data: bytes) -> bytes:
    """Return a picture with short start codes, which H.264 in RTP has none of (RFC 6184 section 5.3)."""
    return data.replace(b"\0\0\0\1", b"\0\0\1")


@cache
def _encode(seed: int, codec: str) -> tuple[bytes, ...]:
    name, options = ENCODERS[codec]
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 160, 120, "yuv420p"
    encoder.framerate, encoder.time_base, encoder.gop_size = FPS, Fraction(1, FPS), PICTURES
    encoder.bit_rate, encoder.options, encoder.max_b_frames = 100_000, options, 0
    if codec == "video/H264":
        encoder.profile = "Baseline"
    packets = []
    for number in range(PICTURES):
        frame = av.VideoFrame(160, 120, "yuv420p")
        values = 10 * seed + 40, number * (11 + 6 * seed) % 220, number * (7 + 4 * seed) % 220
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple(bytes(packet) for packet in packets)
