"""Requesting a key frame from a sender: at once, not too often, and until one arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MIN_INTERVAL = 0.5
"""Seconds between two requests to one sender. A key frame costs as much as many pictures, and senders make no more than
this."""

MAX_INTERVAL = 2.0
"""Seconds between requests to a sender that does not answer: the interval doubles up to this."""


class KeyFrameRequests:
    """Sends key frame requests through `send`, which returns whether it could: before the first packet it cannot."""

    def __init__(self, send: Callable[[], bool]) -> None:
        self._send = send
        self._outstanding = False
        self._asked_at = float("-inf")
        self._interval = MIN_INTERVAL
        self._timer: asyncio.TimerHandle | None = None

    def request_key_frame(self) -> None:
        """Request a key frame, now or as soon as the last request is `MIN_INTERVAL` old."""
        self._outstanding = True
        if self._timer is None:
            self._interval = MIN_INTERVAL
            self._ask_at(self._asked_at + MIN_INTERVAL)

    def key_frame_arrived(self) -> None:
        """Handle the arrival of a key frame: stop requesting."""
        self._outstanding = False
        self.stop()

    def stop(self) -> None:
        """Stop requesting."""
        self._outstanding = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask_at(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            self._ask_now()
        else:
            self._timer = loop.call_at(due, self._ask_now)

    def _ask_now(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._outstanding:
            return
        if self._send():
            self._asked_at = loop.time()
            self._timer = loop.call_at(self._asked_at + self._interval, self._ask_now)
            self._interval = min(self._interval * 2, MAX_INTERVAL)
