"""A picture that flashes and sound that clicks when a second begins, and how far they are apart in a file."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

RATE, CLOCK = 48_000, 90_000
FPS = 25
FLASH = 0.08  # seconds
CLICK = 0.01
DARK, BRIGHT = 40, 220
LOUD = 4_000
PACKET = RATE // 50


class Metronome:
    """The beat that both tracks follow: second 0 is the first time that either is asked."""

    def __init__(self) -> None:
        self._began: float | None = None

    async def until(self, second: float) -> None:
        """Wait until a second, or return at once if it is past."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self.began + second - loop.time()))

    @property
    def began(self) -> float:
        """When second 0 was, on the clock of the event loop."""
        if self._began is None:
            self._began = asyncio.get_running_loop().time()
        return self._began

    @property
    def now(self) -> float:
        """The second that it is."""
        return asyncio.get_running_loop().time() - self.began


class FlashTrack(MediaStreamTrack):
    """Dark pictures with something that moves, and bright ones when a second begins."""

    kind = "video"

    def __init__(self, beat: Metronome, *, width: int = 640, height: int = 480) -> None:
        super().__init__()
        self._beat = beat
        self._size = width, height
        self._number: int | None = None

    async def recv(self) -> av.VideoFrame:
        """Return the next picture when it is due. Late ones are left out."""
        if self.readyState != "live":
            raise MediaStreamError
        self._number = self._number + 1 if self._number is not None else ceil(self._beat.now * FPS)
        self._number = max(self._number, int(self._beat.now * FPS))
        await self._beat.until(self._number / FPS)
        frame = av.VideoFrame(*self._size, "yuv420p")
        level = BRIGHT if self._number % FPS < FLASH * FPS else DARK
        for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        bar = memoryview(frame.planes[0])
        start = self._number * 7 % (frame.height - 16) * frame.planes[0].line_size
        bar[start : start + 8 * frame.planes[0].line_size] = bytes([128]) * (8 * frame.planes[0].line_size)
        frame.pts, frame.time_base = self._number * CLOCK // FPS, Fraction(1, CLOCK)
        return frame


class ClickTrack(MediaStreamTrack):
    """Silence, and a click when a second begins."""

    kind = "audio"

    def __init__(self, beat: Metronome) -> None:
        super().__init__()
        self._beat = beat
        self._number: int | None = None

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due."""
        if self.readyState != "live":
            raise MediaStreamError
        self._number = ceil(self._beat.now * 50) if self._number is None else self._number + 1
        await self._beat.until(self._number / 50)
        samples = array("h", bytes(2 * PACKET))
        if self._number % 50 == 0:
            for index in range(round(CLICK * RATE)):
                samples[index] = 20_000 if index // 24 % 2 else -20_000  # 1 kHz
        frame = av.AudioFrame("s16", "mono", PACKET)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._number * PACKET, Fraction(1, RATE)
        return frame


@contextmanager
def losing(pc: Any, share: float, seed: int = 1) -> Iterator[None]:
    """Lose this share of what the sockets of a connection send."""
    dice = random.Random(seed)
    taken = []
    for protocol in pc.sctp.transport.transport._connection._protocols:
        transport = protocol.transport
        taken.append((transport, transport.sendto))

        def sendto(data: bytes, address: Any, send: Any = transport.sendto) -> None:
            if dice.random() >= share:
                send(data, address)

        transport.sendto = sendto
    try:
        yield
    finally:
        for transport, send in taken:
            transport.sendto = send


def flashes(path: Path) -> list[float]:
    """Return the seconds of a file at which its picture becomes bright."""
    found, was_bright = [], True
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.to_ndarray(format="gray")
            is_bright = float(plane.mean()) > (DARK + BRIGHT) / 2
            if is_bright and not was_bright:
                found.append(float(frame.time))
            was_bright = is_bright
    return found


def clicks(path: Path) -> list[float]:
    """Return the seconds of a file at which its sound becomes loud."""
    found: list[float] = []
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                assert piece.pts is not None
                samples = array("h", bytes(piece.planes[0])[: 2 * piece.samples])
                for index, sample in enumerate(samples):
                    at = (piece.pts + index) / RATE
                    if abs(sample) > LOUD and (not found or at - found[-1] > 0.5):
                        found.append(at)
    return found


def offsets(path: Path) -> list[float]:
    """Return by how many seconds each click of a file comes after its flash. One without the other is left out."""
    heard = clicks(path)
    pairs = ((min(heard, key=lambda it: abs(it - at)), at) for at in flashes(path)) if heard else ()
    return [click - flash for click, flash in pairs if abs(click - flash) < 0.5]


def seconds_of(path: Path) -> float:
    """Return how long a file is, by its header or else by its last packet."""
    with av.open(str(path)) as container:
        if container.duration is not None:
            return container.duration / av.time_base
        return max(
            float((it.pts + (it.duration or 0)) * it.time_base) for it in container.demux() if it.pts is not None
        )
