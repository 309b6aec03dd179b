"""Mixing all participants of a channel on one time line. Blocking; belongs to one thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import av

from ..media.codecs.pcm import FRAME_SECONDS
from .mixing import Grid, SoundMixer, reduced

Source = tuple[str, int]
"""A participant's id and the number of its track."""


@dataclass(frozen=True, slots=True)
class MixedFrame:
    """A decoded frame of a source, and its second of the mix."""

    source: Source
    frame: Any
    at: float


@dataclass(frozen=True, slots=True)
class SourceGone:
    """A source has ended, at a second of the mix."""

    source: Source
    at: float


@dataclass(frozen=True, slots=True)
class MixTick:
    """Everything up to a second is to be mixed."""

    until: float


MixItem: TypeAlias = MixedFrame | SourceGone | MixTick


class Mix(ABC):
    """Mixes the frames of sources into a picture of a fixed size and rate, and one sound."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        self._size = width, height
        self._fps = fps
        self._grid = Grid(width, height)
        self._mixer = SoundMixer()
        self._coming: deque[MixedFrame | SourceGone] = deque()
        self._sounds = self._shown = 0

    def write(self, item: MixItem) -> None:
        """Take a frame, or mix what is due."""
        if isinstance(item, MixTick):
            self._advance(item.until)
        elif isinstance(item, MixedFrame) and isinstance(item.frame, av.AudioFrame):
            self._mixer.add_frame(item.source, item.frame, item.at)
        elif isinstance(item, MixedFrame):  # waits for its moment, up to a second of pictures per source
            self._coming.append(replace(item, frame=reduced(item.frame, *self._size)))
        else:
            self._coming.append(item)

    @abstractmethod
    def close(self) -> None:
        """Finish."""

    @abstractmethod
    def give_sound(self, frame: av.AudioFrame, at: float) -> None:
        """Take the next 20 ms of mixed sound."""

    @abstractmethod
    def give_picture(self, picture: av.VideoFrame, at: float) -> None:
        """Take the next mixed picture. It changes after this call."""

    def _advance(self, until: float) -> None:
        """Mix everything up to a second, sound and pictures in the order of time."""
        while (end := float((self._sounds + 1) * FRAME_SECONDS)) <= until:
            while self._shown / self._fps < end:
                at = self._shown / self._fps
                self._apply_due(at)
                self.give_picture(self._grid.picture, at)
                self._shown += 1
            self.give_sound(self._mixer.mix(), float(self._sounds * FRAME_SECONDS))
            self._sounds += 1

    def _apply_due(self, at: float) -> None:
        newest = {item.source: item for item in self._coming if item.at <= at}
        self._coming = deque(item for item in self._coming if item.at > at)
        for item in newest.values():
            if isinstance(item, MixedFrame):
                self._grid.show_picture(item.source, item.frame)
            else:
                self._grid.remove_source(item.source)
                self._mixer.remove_source(item.source)
