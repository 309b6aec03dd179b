"""The encoders of this PyAV build: wheels differ, and some have no H.264."""

from __future__ import annotations

from collections.abc import Sequence

import av

H264_ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Video encoders for MP4 and Matroska, best first. Every build has MPEG-4 Part 2."""

AUDIO_ENCODERS = ("aac", "libopus", "ac3")
"""Audio encoders for MP4 and Matroska, best first."""


def first_encoder(names: Sequence[str]) -> str | None:
    """Return the first of `names` that this PyAV build can encode with, None if it has none."""
    for name in names:
        try:
            av.Codec(name, "w")
        except (ValueError, LookupError, av.FFmpegError):
            continue
        return name
    return None


def require_encoder(names: Sequence[str]) -> str:
    """Return the first of `names` that this PyAV build can encode with.

    Raises:
        RuntimeError: it has none of them.
    """
    name = first_encoder(names)
    if name is None:
        raise RuntimeError(f"this build of PyAV has none of the encoders {', '.join(names)}")
    return name


def encoder_options(name: str) -> dict[str, str]:
    """Return options for encoding live pictures: fast, and without look-ahead."""
    if name == "libx264":
        return {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
    return {}
