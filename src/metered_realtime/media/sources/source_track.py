"""What every source has in common: it can be stopped at any time, from any thread, and more than once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiortc.mediastreams import MediaStreamTrack


class SourceTrack(MediaStreamTrack):
    """A track of this program's own. Subclasses free what they hold in `_released`.

    `recv` of a subclass begins with `_attach`, so that `stop` knows which event loop to wake.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End the track. May be called at any time, from any thread, more than once.

        From a thread other than the event loop's it takes effect in the loop's next turn.
        """
        call_on(self._loop, self._stop_here)

    def _attach(self) -> asyncio.AbstractEventLoop:
        """Note that this event loop reads the track, and return it."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _stop_here(self) -> None:
        try:
            super().stop()
        finally:  # a handler of "ended" that raises must not leave a reader waiting
            self._released()

    def _released(self) -> None:
        """Drop what is held and wake who waits. Called on the event loop, perhaps more than once."""


def call_on(loop: asyncio.AbstractEventLoop | None, callback: Callable[[], object]) -> None:
    """Call back on the event loop, at once if this is its thread. One that does not run has nobody to protect."""
    if loop is None or not loop.is_running() or loop is _running_loop():
        callback()
        return
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # it was closed just now
        callback()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
