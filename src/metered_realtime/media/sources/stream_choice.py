"""Choosing which streams of a container to play."""

from __future__ import annotations

from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

Kind = Literal["audio", "video"]

MAX_PIXELS = 8_192 * 4_320
"""Pixels of a picture from a file at most: 8K. Each takes 53 MB, and a decoder keeps several."""

MAX_STREAMS = 128
"""Streams of a file at most. Probing a stream takes 0.2 MB for its decoder; films have about thirty."""

LIMITS = {"max_pixels": str(MAX_PIXELS), "max_streams": str(MAX_STREAMS)}
"""FFmpeg options for both limits while a file is probed."""

_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
_FOR_FEW = Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.comment | Disposition.descriptions


def chosen_streams(container: InputContainer) -> dict[Kind, av.stream.Stream]:
    """Return the stream of each kind to play.

    That is a forced one, else a default one, else the first that is neither a commentary nor made for impaired people.
    Attached pictures and streams that cannot be decoded are skipped.
    """
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
