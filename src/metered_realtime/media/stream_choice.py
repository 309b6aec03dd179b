"""Which streams of a container are played: the ones that a player would begin with."""

from __future__ import annotations

from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

Kind = Literal["audio", "video"]

MAX_PIXELS = 8_192 * 4_320
"""Pixels of a picture that is decoded from a file: 8K. One has 53 MB, and a decoder keeps several."""

MAX_STREAMS = 128
"""Streams of a file. Each costs a decoder of 0.2 MB to find out about, and films have some thirty."""

LIMITS = {"max_pixels": str(MAX_PIXELS), "max_streams": str(MAX_STREAMS)}
"""Options of FFmpeg that keep to them while it looks into a file."""

_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
_FOR_FEW = Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.comment | Disposition.descriptions


def chosen_streams(container: InputContainer) -> dict[Kind, av.stream.Stream]:
    """Return the stream of each kind that is played: one that is forced, else one that is the default, else the first
    that is not a commentary or for impaired people. Covers, and what cannot be decoded, are none."""
    chosen: dict[Kind, av.stream.Stream] = {}
    kinds: tuple[tuple[Kind, Any], ...] = (("audio", container.streams.audio), ("video", container.streams.video))
    for kind, streams in kinds:
        usable = [stream for stream in streams if obstacle(stream) is None]
        if usable:
            chosen[kind] = max(usable, key=_rank)
    return chosen


def obstacle(stream: Any) -> str | None:
    """Return why a stream cannot be played, None if it can."""
    context = stream.codec_context
    if stream.disposition & _NO_FILM:
        return "an attached picture"
    if context is None:
        return "of a codec that cannot be decoded"
    if stream.type == "video" and context.width * context.height > MAX_PIXELS:
        return f"of {context.width}x{context.height} pixels"
    return None


def _rank(stream: Any) -> tuple[bool, bool, bool]:
    flags = stream.disposition
    return bool(flags & Disposition.forced), bool(flags & Disposition.default), not flags & _FOR_FEW
