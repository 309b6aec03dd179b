"""Reading the tracks of a peer as frames, as samples for speech models, or as arrays."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ...missing import require
from ..codecs.pcm_chunks import LAYOUTS, PcmChunks
from .remote_track import RemoteTrack

if TYPE_CHECKING:
    import numpy

MIN_RATE, MAX_RATE = 4_000, 192_000
"""Sample rates of `iter_pcm`, in Hz: from half of a telephone's to the highest of sound cards."""

MAX_CHUNK = 10.0
"""Seconds of one chunk of `iter_pcm` at most. A longer chunk would pile up in memory like a recording."""

PICTURE_FORMATS = ("rgb24", "bgr24", "rgba", "bgra", "gray")
SOUND_FORMATS = ("s16", "flt")


async def iter_frames(track: MediaStreamTrack) -> AsyncGenerator[av.AudioFrame | av.VideoFrame, None]:
    """Yield the track's frames until it ends.

    Never stops the track: leaving the loop, cancelling it or closing the generator only stops reading. Each call is an
    independent reader of a remote track: each gets every frame, and they share the frame objects. Other tracks have one
    reader at a time; give a second one its own relay.
    """
    with reader_of(track) as reader:
        while True:
            try:
                frame = await reader.recv()
            except MediaStreamError:
                return
            yield frame


def iter_pcm(
    track: MediaStreamTrack, rate: int = 16_000, channels: int = 1, *, chunk: float = 0.02
) -> AsyncGenerator[bytes, None]:
    """Yield the track's sound as interleaved s16le, `chunk` seconds at a time, until it ends.

    The chunks are continuous in time: a gap of up to 5 s is filled with silence as soon as the sound continues; a
    longer gap is skipped. The last chunk is padded with silence. Never stops the track, and is an independent reader of
    a remote one.

    Raises:
        TypeError: `track` is not an audio track, or an argument is not a number.
        ValueError: `rate` is not from 4000 to 192000, `channels` is neither 1 nor 2, or `chunk` is shorter than a
            sample or longer than 10 s.
    """
    _require_kind("iter_pcm", track, "audio")
    _require_number("rate", rate, MIN_RATE, MAX_RATE, int)
    _require_number("channels", channels, min(LAYOUTS), max(LAYOUTS), int)
    _require_number("chunk", chunk, 1 / rate, MAX_CHUNK, int | float)
    return _pcm(track, PcmChunks(rate, channels, round(rate * chunk)))


def track_to_numpy(track: MediaStreamTrack, format: str | None = None) -> AsyncGenerator[numpy.ndarray[Any, Any], None]:
    """Yield each frame of the track as a numpy array until it ends.

    Pictures are `uint8` of (height, width, 3) in RGB; `format` may also be `bgr24` (as in OpenCV), `rgba` or `bgra`
    (height, width, 4), or `gray` (height, width). Sound is `int16` of (samples, channels); with `format="flt"` it is
    `float32` from -1 to 1. The arrays belong to the caller. For timestamps use `iter_frames` and `frame.to_ndarray`.
    Never stops the track, and is an independent reader of a remote one.

    Raises:
        ImportError: numpy is not installed.
        TypeError: `track` is neither an audio nor a video track.
        ValueError: `format` is none of these.
    """
    _require_numpy()
    _require_kind("track_to_numpy", track, "audio", "video")
    known = PICTURE_FORMATS if track.kind == "video" else SOUND_FORMATS
    if format is not None and format not in known:
        raise ValueError(f"a format of {track.kind} is one of {', '.join(known)}, not {format!r}")
    return _arrays(track, format or known[0])


async def _pcm(track: MediaStreamTrack, chunks: PcmChunks) -> AsyncGenerator[bytes, None]:
    async with aclosing(iter_frames(track)) as frames:
        async for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            for chunk in chunks.push_frame(frame):
                yield chunk
    for chunk in chunks.flush():
        yield chunk


async def _arrays(track: MediaStreamTrack, format: str) -> AsyncGenerator[numpy.ndarray[Any, Any], None]:
    async with aclosing(iter_frames(track)) as frames:
        async for frame in frames:
            yield frame.to_ndarray(format=format) if isinstance(frame, av.VideoFrame) else _samples(frame, format)


def _samples(frame: Any, format: str) -> Any:
    """Return the samples of a frame as an array of (samples, channels)."""
    if frame.format.name != format:
        (frame,) = av.AudioResampler(format=format, layout=frame.layout.name, rate=frame.sample_rate).resample(frame)
    return frame.to_ndarray().reshape(frame.samples, -1)


@contextmanager
def reader_of(track: MediaStreamTrack) -> Iterator[Any]:
    """Yield a reader of its own for a remote track, or any other track itself."""
    if not isinstance(track, RemoteTrack):
        yield track
        return
    reader = track.decoded()
    try:
        yield reader
    finally:
        reader.stop()


def _require_kind(function: str, track: MediaStreamTrack, *kinds: str) -> None:
    if getattr(track, "kind", None) not in kinds or not callable(getattr(track, "recv", None)):
        raise TypeError(f"{function} takes {' and '.join(kinds)} tracks, not {track!r}")


def _require_number(name: str, value: Any, least: float, most: float, kind: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, not {value!r}")


def _require_numpy() -> None:
    require("numpy", part="track_to_numpy")
