"""Whether a source answers requests for key frames. Time is an argument, in seconds of one clock.

Encoders that stream to an ingest often make key frames at fixed distances alone: a new viewer of one has to be shown
the pictures since the last key frame.
"""

from __future__ import annotations

ANSWER_TIME = 0.7
"""Seconds in which a source that answers has sent its key frame: a round trip and a picture or two. Sources whose key
frames are this close together anyway need not answer."""

PROBE_AFTER = 0.5
"""Seconds after the first key frame until the source is asked for another one, to find out."""


class KeyFrameAnswers:
    """Follows the key frames of one source, and the requests for them."""

    def __init__(self) -> None:
        self.answers: bool | None = None
        """Whether the last request was answered. None while that is not known."""
        self._asked_at: float | None = None
        self._first: float | None = None
        self._probed = False

    def asked(self, now: float) -> None:
        """Handle a request. The first picture comes on its own, so that requests before it show nothing."""
        if self._first is not None and self._asked_at is None:
            self._asked_at = now
            self._probed = True

    def picture(self, now: float, *, is_key: bool) -> bool:
        """Handle a picture. Return whether to request a key frame, to find out whether the source answers."""
        if is_key and self._first is None:
            self._first = now
        elif self._asked_at is not None:
            if now - self._asked_at > ANSWER_TIME:
                self.answers = False
            elif is_key:
                self.answers = True
            if is_key or self.answers is False:
                self._asked_at = None
        return not self._probed and self._first is not None and now - self._first >= PROBE_AFTER
