"""A live source that is opened again whenever it fails, ends or falls silent. Its time line continues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from av.container import InputContainer

from ...log import Logger
from .decoding import Decoded, FrameReader, Kind, Wanted
from .opening import described
from .passthrough import Passthrough

FIRST_PAUSE, MAX_PAUSE = 0.5, 10.0
"""Seconds before a source is opened again: at first, and at most after doubling. A camera restarts in about 20."""

LOOK_AGAIN = 0.05
"""Seconds between checks, during a pause, of whether frames are still wanted."""


class ReopeningReader:
    """Reads the source that `open` returns, and opens it again as long as frames are wanted. Never gives up.

    A source without a frame for `silence` seconds counts as dead, even if it still sends packets. `reopened` counts the
    openings after the first. Time advances while the source is away: `pts` stays continuous and close to the clock.
    """

    def __init__(
        self,
        open: Callable[[], InputContainer],
        *,
        shown: str,
        silence: float,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ended = False
        self.passed: dict[Kind, Passthrough] = {}
        self.reopened = 0
        self._errors = 0  # of previous readers
        self._open = open
        self._shown = shown
        self._silence = silence
        self._logger = logger
        self._clock = clock
        self._reader: FrameReader | None = FrameReader(open())
        self.has_audio, self.has_video = self._reader.has_audio, self._reader.has_video
        self._heard = clock()  # time of the last frame, or of opening
        self._began: float | None = None  # the clock at second 0 of the time line
        self._position = 0.0
        self._pause = FIRST_PAUSE

    @property
    def errors(self) -> int:
        """Packets that could not be decoded."""
        reader = self._reader
        return self._errors + (reader.errors if reader is not None else 0)

    def frames(self, wanted: Wanted) -> Iterator[Decoded]:
        """Yield frames until none are wanted."""
        if self._is_silent():
            self._lose("it was not read, and its data is out of date")
        while wanted():
            if self._reader is None and not self._reopen():
                self._wait(wanted)
                continue
            yield from self._until_lost(wanted)

    def holds(self, kind: Kind) -> bool:
        """Return False: late frames are not live."""
        return False

    def close(self) -> None:
        """Close the source."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._errors += reader.errors
            self._position = max(self._position, reader.position)
            reader.close()

    def _until_lost(self, wanted: Wanted) -> Iterator[Decoded]:
        reader, reason = self._reader, "it ended"
        assert reader is not None
        try:
            for decoded in reader.frames(lambda: () if self._is_silent() else wanted()):
                self._heard, self._pause = self._clock(), FIRST_PAUSE
                if self._began is None:
                    self._began = self._heard
                yield decoded
        except Exception as error:  # nothing that a camera sends may end the track
            reason = f"{type(error).__name__}: {described(error, self._shown, 'is it reachable?')}"
        if wanted():
            self._lose("it fell silent" if self._is_silent() else reason)

    def _is_silent(self) -> bool:
        return self._reader is not None and self._clock() - self._heard > self._silence

    def _lose(self, reason: str) -> None:
        self._logger.warning("source lost, opening it again", {"source": self._shown, "reason": reason})
        self.close()

    def _reopen(self) -> bool:
        try:
            container = self._open()
        except Exception as error:  # the errors of `open` contain no credentials
            self._logger.debug("source cannot be opened", {"source": self._shown, "error": str(error)})
            return False
        self._heard = self._clock()
        passed = 0.0 if self._began is None else self._heard - self._began
        self._reader = FrameReader(container, offset=max(self._position, passed))
        self.reopened += 1
        self._logger.info("source opened again", {"source": self._shown, "times": self.reopened})
        return True

    def _wait(self, wanted: Wanted) -> None:
        until = self._clock() + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE)
        while wanted() and (left := until - self._clock()) > 0:
            time.sleep(min(left, LOOK_AGAIN))
