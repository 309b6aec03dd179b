"""Which encoders this PyAV build has: wheels differ, and H.264 is missing from some."""

from __future__ import annotations

from collections.abc import Sequence

import av

H264_ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Video encoders for MP4 and Matroska, best first. MPEG-4 Part 2 is the one that every build has."""

AUDIO_ENCODERS = ("aac", "libopus", "ac3")
"""Audio encoders for MP4 and Matroska, best first."""


def first_encoder(names: Sequence[str]) -> str | None:
    """Return the first of `names` that this PyAV build can encode with, or None."""
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
        RuntimeError: It has none of them.
    """
    name = first_encoder(names)
    if name is None:
        raise RuntimeError(f"this build of PyAV has none of the encoders {', '.join(names)}")
    return name


def encoder_options(name: str) -> dict[str, str]:
    """Return settings for encoding live pictures: fast, and nothing held back for look-ahead."""
    if name == "libx264":
        return {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
    return {}
