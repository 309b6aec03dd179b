"""The base of all sources: a track that can be stopped at any time, from any thread, more than once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiortc.mediastreams import MediaStreamTrack


class SourceTrack(MediaStreamTrack):
    """The base class of local tracks. Subclasses release their resources in `_release`.

    `recv` of a subclass begins with `_attach`, so that `stop` knows which event loop to wake.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End the track. May be called at any time, from any thread, more than once.

        From a thread other than the event loop's it takes effect in the loop's next iteration.
        """
        call_on(self._loop, self._stop_here)

    def _attach(self) -> asyncio.AbstractEventLoop:
        """Record and return the running event loop, which reads the track."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _stop_here(self) -> None:
        try:
            super().stop()
        finally:  # an "ended" handler that raises must not leave a reader waiting
            self._release()

    def _release(self) -> None:
        """Release resources and wake waiting readers. Called on the event loop, possibly more than once."""


def call_on(loop: asyncio.AbstractEventLoop | None, callback: Callable[[], object]) -> None:
    """Call `callback` on an event loop: at once in its own thread, or if it does not run."""
    if loop is None or not loop.is_running() or loop is _running_loop():
        callback()
        return
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop has just been closed
        callback()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
