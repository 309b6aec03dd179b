"""Programs that flash and click each second, and continue in different ways after losing time."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any

import av
from aiortc.mediastreams import MediaStreamTrack
from benchmarks.flash_and_click import BRIGHT, CLICK, DARK, FLASH, PACKET, RATE, ClickTrack, FlashTrack, Metronome

from metered_realtime import AudioSource, VideoSource

TICKS = 50
"""Packets of sound per second. Every second one comes with a picture."""

REANCHOR_AFTER = 0.1

Program = tuple[Any, Any, list[asyncio.Task[None]]]


def sound(number: int) -> bytes:
    """Return 20 ms of sound that click at the start of a second."""
    samples = array("h", bytes(2 * PACKET))
    if number % TICKS == 0:
        for index in range(round(CLICK * RATE)):
            samples[index] = 20_000 if index // 24 % 2 else -20_000
    return samples.tobytes()


def picture(number: int) -> av.VideoFrame:
    """Return a picture that is bright at the start of a second."""
    frame = av.VideoFrame(64, 64, "yuv420p")
    level = BRIGHT if number % TICKS < FLASH * TICKS else DARK
    for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


async def push(sounds: AudioSource, pictures: VideoSource, next_number: Callable[[int, float], int]) -> None:
    """Push what is due now, or what was due next."""
    beat, number = Metronome(), 0
    while True:
        number = next_number(number, beat.now)
        await beat.until(number / TICKS)
        await sounds.push(sound(number))
        if number % 2 == 0:
            pictures.push(picture(number))


def _pushed(next_number: Callable[[int, float], int], **options: Any) -> Program:
    sounds, pictures = AudioSource(input_rate=RATE, **options), VideoSource(fps=TICKS // 2)
    return sounds, pictures, [asyncio.ensure_future(push(sounds, pictures, next_number))]


def goes_on_with_the_present() -> Program:
    return _pushed(lambda number, now: max(number + 1, ceil(now * TICKS)))


def makes_up_for_it() -> Program:
    return _pushed(lambda number, now: number + 1)


def makes_up_for_some() -> Program:
    return _pushed(lambda number, now: number + 1, max_delay=0.2)


class CountingTrack(MediaStreamTrack):
    """A microphone whose timestamps count the samples that were read, and so do not include lost time."""

    kind = "audio"

    def __init__(self, beat: Metronome) -> None:
        super().__init__()
        self._beat = beat
        self._count = 0
        self._due: float | None = None

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self._due = loop.time() if self._due is None else self._due + 1 / TICKS
        if loop.time() - self._due > REANCHOR_AFTER:
            self._due = loop.time()
        await asyncio.sleep(max(0.0, self._due - loop.time()))
        frame = av.AudioFrame("s16", "mono", PACKET)
        frame.planes[0].update(sound(round(self._beat.now * TICKS)))
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * PACKET, Fraction(1, RATE)
        self._count += 1
        return frame


def counts_samples() -> Program:
    beat = Metronome()
    return CountingTrack(beat), FlashTrack(beat, width=64, height=64), []


def knows_the_time() -> Program:
    beat = Metronome()
    return ClickTrack(beat), FlashTrack(beat, width=64, height=64), []


PROGRAMS = [goes_on_with_the_present, makes_up_for_it, makes_up_for_some, counts_samples, knows_the_time]
