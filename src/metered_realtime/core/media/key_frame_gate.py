"""When to force a key frame: soon after it is asked for, and not more often than receivers can use."""

from __future__ import annotations

MIN_INTERVAL = 0.5
"""Seconds between two forced key frames. One is many times the size of another picture: more of them would lower the
quality for all, and every receiver that lost the same packet asks for one."""


class KeyFrameGate:
    """Turns requests of any number of receivers into few key frames. Time is an argument, in seconds of any clock."""

    def __init__(self) -> None:
        self._wanted = False
        self._forced_at: float | None = None

    @property
    def wanted(self) -> bool:
        """Tell whether somebody waits for a key frame."""
        return self._wanted

    def request(self) -> None:
        """Ask for a key frame."""
        self._wanted = True

    def take(self, now: float) -> bool:
        """Tell whether the next picture is to be a key frame, and count it as forced if so."""
        if not self._wanted or self.wait(now) > 0:
            return False
        self._wanted = False
        self._forced_at = now
        return True

    def came(self) -> None:
        """Note that a key frame has come by itself: whoever asked has it."""
        self._wanted = False

    def wait(self, now: float) -> float:
        """Return the seconds until one may be forced, 0 if that is now."""
        return max(0.0, self._forced_at + MIN_INTERVAL - now) if self._forced_at is not None else 0.0
