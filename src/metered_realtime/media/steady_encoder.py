"""An encoder under which the source may change, start over or bring a bad frame.

aiortc ends a sender for good when its encoder raises, and libvpx and x264 raise when time goes back, as it does when
a track is replaced by one that starts at 0. Receivers, too, need RTP timestamps that rise steadily (RFC 3550 section
5.1): a browser shows no picture that is older than the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiortc.codecs.base import Encoder

from ..log import Logger

MAX_LEAP = 1.0
"""Seconds by which the time line of a source may run ahead of the clock before it counts as another source."""


class SteadyEncoder(Encoder):
    """Wraps the encoders that `create` makes, one after the other: a source that starts over gets a fresh one.

    A fresh one begins with a key frame. Its timestamps go on where those of the last one ended, by the time that has
    passed. A frame that cannot be encoded is left out; the first of a row is logged.
    """

    def __init__(
        self,
        create: Callable[[], Encoder],
        clock_rate: int,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.frames_failed = 0
        self._create = create
        self._clock_rate = clock_rate
        self._logger = logger
        self._clock = clock
        self._encoder: Any = None
        self._bitrate: int | None = None
        self._source: tuple[float, float] | None = None  # time of the last frame: in its source, and on the clock
        self._sent: tuple[int, float] | None = None  # the last timestamp, and when it was made
        self._shift: int | None = None  # from the encoder's timestamps to those that are sent
        self._failing = False

    @property
    def target_bitrate(self) -> int | None:
        """The bits per second that the receivers can take, None for codecs whose rate is fixed."""
        return getattr(self._encoder, "target_bitrate", self._bitrate)

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._bitrate = bitrate
        if hasattr(self._encoder, "target_bitrate"):
            self._encoder.target_bitrate = bitrate

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Encode a frame. No payloads if it gave none or could not be encoded."""
        return self._run(frame, lambda encoder: encoder.encode(frame, force_keyframe))

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        """Pack what is encoded already. No payloads if it could not be packed."""
        return self._run(packet, lambda encoder: encoder.pack(packet))

    def _run(self, unit: Any, work: Callable[[Any], tuple[list[bytes], int]]) -> tuple[list[bytes], int]:
        try:
            self._follow(unit)
            payloads, timestamp = work(self._encoder)
        except Exception as error:  # whatever is wrong with a frame must not end the sender
            self._fail(error)
            return [], 0
        self._failing = False
        return (payloads, self._steady(timestamp)) if payloads else ([], 0)

    def _follow(self, unit: Any) -> None:
        """Begin anew if this does not come after the last one on the time line of one source."""
        now = self._clock()
        at = float(unit.pts * unit.time_base)
        if self._encoder is None or self._source is None or not _follows(self._source, (at, now)):
            self._encoder = self._create()
            self._shift = None
            if self._bitrate is not None:
                self.target_bitrate = self._bitrate
        self._source = at, now

    def _steady(self, timestamp: int) -> int:
        now = self._clock()
        if self._shift is None:
            self._shift = 0
            if self._sent is not None:
                last, since = self._sent
                self._shift = last + max(1, round((now - since) * self._clock_rate)) - timestamp
        self._sent = timestamp + self._shift, now
        return self._sent[0]

    def _fail(self, error: Exception) -> None:
        self.frames_failed += 1
        self._encoder = None
        if not self._failing:
            self._logger.warning("frames cannot be sent", {"error": f"{type(error).__name__}: {error}"})
        self._failing = True


def _follows(last: tuple[float, float], this: tuple[float, float]) -> bool:
    ahead, passed = this[0] - last[0], this[1] - last[1]
    return ahead > 0 and ahead - passed <= MAX_LEAP
