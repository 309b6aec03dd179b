"""When to force a key frame: soon after a request, but no more often than receivers can use."""

from __future__ import annotations

MIN_INTERVAL = 0.5
"""Seconds between two forced key frames. A key frame has many times the size of another picture, so more of them would
lower the quality for everybody, and every receiver that lost the same packet requests one."""


class KeyFrameGate:
    """Turns the requests of many receivers into few key frames. Time is an argument, in seconds of any clock."""

    def __init__(self) -> None:
        self._is_requested = False
        self._forced_at: float | None = None

    @property
    def is_requested(self) -> bool:
        """Whether a requested key frame is still to come."""
        return self._is_requested

    def request_key_frame(self) -> None:
        """Request a key frame."""
        self._is_requested = True

    def force_key_frame(self, now: float) -> bool:
        """Return whether the next picture has to be a key frame. It then counts as forced at `now`."""
        if not self._is_requested or self.seconds_left(now) > 0:
            return False
        self._is_requested = False
        self._forced_at = now
        return True

    def key_frame_made(self) -> None:
        """Handle a key frame from the encoder, forced or not: it answers all requests."""
        self._is_requested = False

    def seconds_left(self, now: float) -> float:
        """Return the seconds until a key frame may be forced, 0 if it may be now."""
        return max(0.0, self._forced_at + MIN_INTERVAL - now) if self._forced_at is not None else 0.0
