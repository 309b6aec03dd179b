"""Decoding one track in a thread, while it has readers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from aiortc.codecs import get_decoder
from aiortc.jitterbuffer import JitterFrame

from ..codecs.encoded import EncodedFrame
from .mailbox import Tally

MAX_UNDECODED = {"video": 30, "audio": 50}
"""Encoded frames that wait for the thread: one second. On a machine that is too slow more are dropped."""


class FrameDecoder:
    """Decodes from the first key frame on. `deliver` is called with the decoded frames on the event loop,
    `need_key_frame` when one is needed.

    `drops` counts frames that were not decoded: those before the first key frame, those that the thread was too slow
    for, and broken ones.
    """

    def __init__(
        self, kind: str, deliver: Callable[[list[Any]], None], need_key_frame: Callable[[], None], drops: Tally
    ) -> None:
        self._drops = drops
        self._deliver = deliver
        self._need_key_frame = need_key_frame
        self._limit = MAX_UNDECODED[kind]
        self._waits_for_key = True
        self._mime_type: str | None = None
        self._waiting = 0
        self._catching_up = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[EncodedFrame | None] = queue.SimpleQueue()
        name = f"metered-realtime-{kind}-decoder"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def queue_length(self) -> int:
        """Frames that wait to be decoded."""
        return self._waiting

    def push_frame(self, frame: EncodedFrame) -> None:
        """Queue the next frame. It is dropped if the queue is full, or a key frame is needed first."""
        if frame.codec.mimeType != self._mime_type or self._is_full:
            self._mime_type = frame.codec.mimeType
            self._waits_for_key = True
        if self._waits_for_key and (not frame.is_key or self._is_full):
            self._drops.add()
            self._need_key_frame()
            return
        self._waits_for_key = False
        self._waiting += 1
        self._inbox.put(frame)

    def catch_up(self, frames: Sequence[EncodedFrame]) -> None:
        """Queue what came since the last key frame, however much that is, before the first frame of a new decoder."""
        for frame in frames:
            self._mime_type, self._waits_for_key = frame.codec.mimeType, False
            self._inbox.put(frame)
        self._waiting += len(frames)
        self._catching_up = len(frames)

    @property
    def _is_full(self) -> bool:
        return self._waiting - self._catching_up >= self._limit

    def close(self) -> None:
        """Stop decoding. The thread ends by itself and drops what waits for it."""
        self._closed = True
        self._inbox.put(None)

    def _took(self, frames: list[Any] | None) -> None:
        """Handle a decoded or failed frame, on the event loop."""
        self._waiting -= 1
        self._catching_up = max(0, self._catching_up - 1)
        if self._closed:
            return
        if frames is None:
            self._drops.add()
            self._need_key_frame()
        else:
            self._deliver(frames)

    # --- in the thread

    def _run(self) -> None:
        decoder: Any = None
        mime_type = None
        while (frame := self._inbox.get()) is not None and not self._closed:
            frames: list[Any] | None = None
            # Broken data must not end the thread: the next key frame starts over. The decoder keeps its state, because
            # what follows a broken picture can still be shown.
            with contextlib.suppress(Exception):
                if frame.codec.mimeType != mime_type:
                    decoder, mime_type = _new_decoder(frame), frame.codec.mimeType
                frames = decoder.decode(JitterFrame(frame.data, frame.timestamp))
            with contextlib.suppress(RuntimeError):  # the event loop has been closed
                self._loop.call_soon_threadsafe(self._took, frames)


def _new_decoder(frame: EncodedFrame) -> Any:
    decoder = get_decoder(frame.codec)
    codec = getattr(decoder, "codec", None)
    if codec is not None:
        # PyAV's default is one thread per core and track: at the picture sizes of calls that costs more than it gains.
        codec.thread_count = 1
    return decoder
