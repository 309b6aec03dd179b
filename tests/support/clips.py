"""Files of many kinds with numbered pictures and a click each second."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from metered_realtime.media.sources.pattern import Pattern

FPS = 25


def write(path: Path, video: str | None, audio: str | None, seconds: float = 1.0, **options: Any) -> Path:
    """Write numbered pictures and a click at the start of each second, with a key frame each 0.4 s."""
    with av.open(str(path), "w") as container:
        pictures: Any = None
        sound: Any = None
        if video:
            pictures = container.add_stream(video, rate=FPS, options=options.get("options", {}))
            pictures.width, pictures.height, pictures.pix_fmt, pictures.gop_size = 128, 96, "yuv420p", 10
            pictures.profile = options.get("profile")
        if audio:
            sound = container.add_stream(audio, rate=options.get("rate", 48_000))
            sound.layout = "stereo"
        _fill(container, pictures, sound, seconds, options.get("audio_seconds", seconds))
    return path


def _fill(container: Any, pictures: Any, sound: Any, seconds: float, audio_seconds: float) -> None:
    if pictures is not None:
        pattern = Pattern(128, 96)
        for number in range(round(seconds * FPS)):
            frame = pattern.frame(number)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    if sound is not None:
        rate = sound.rate
        samples = array("h", (0 if n % rate > rate // 100 else 20_000 for n in range(round(audio_seconds * rate))))
        for start in range(0, len(samples), rate // 50):
            piece = samples[start : start + rate // 50]
            frame = av.AudioFrame("s16", "stereo", len(piece))
            frame.planes[0].update(array("h", (v for v in piece for _ in "lr")).tobytes())
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
