"""A track of audio that the application pushes, for instance the voice of an agent.

Invariants:
- The buffer holds whole samples of 48 kHz stereo s16. `recv` takes at most one frame from its front.
- One push at a time converts and appends; the others wait in order.
- A push continues while the track is live and its epoch is current. `flush` starts a new epoch, so that what was being
  said before a barge-in cannot resume after it.
- After `end`, pushes in progress finish without waiting for room; then the buffer drains and the track stops.
- `pts` stays on the clock: time for which the event loop was blocked is caught up with or skipped, and moves nothing
  that follows.
- Continuous audio is never interrupted by padding: an incomplete frame gets its silence in front when sound begins, and
  behind when it stops.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError

from ...log import Logger, NoopLogger
from ..codecs.pcm import (
    FRAME_BYTES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    RATE,
    SAMPLE_BYTES,
    PcmConverter,
    pcm_frame,
    s16_frame,
)
from ..pacing import SKIP_AFTER, Pacer
from .source_track import SourceTrack, call_on

CHANNELS = {"mono": 1, "stereo": 2}
MIN_RATE, MAX_RATE = 1000, 384_000  # Hz; anything else is a mistake, such as kHz for Hz
MIN_DELAY = 0.04
"""Seconds: with less than two frames the jitter of the pushes alone would drop sound."""

CATCH_UP_PAUSE = float(FRAME_SECONDS) / 4
"""Seconds between late frames: four times as fast as real time, which overflows no queue on the way."""

MAX_ROUNDS = 40
"""Pauses that a late frame waits at most (0.2 s) while blocked pushes arrive faster than they are played."""

AWAY_AFTER = SKIP_AFTER / 2
"""Seconds behind its deadline from which a reader counts as away, if the event loop is running."""

SLICES_PER_SECOND = 50  # pushed bytes are converted and checked against the cap in steps of 20 ms


class AudioSource(SourceTrack):
    """A track that plays pushed audio in real time, with silence on underrun.

    Frames are 48 kHz stereo s16 of 960 samples (20 ms). The first comes at once, the others by absolute deadlines, and
    `pts` counts samples of the clock since then. When the event loop was blocked for more than 100 ms, sound that was
    queued for that time, or is pushed late, follows four times as fast, and silence of that time is skipped: `pts`
    jumps. Sound that is queued without a reader is played from its beginning to the first one.

    `input_rate` (Hz) and `input_layout` ("mono" or "stereo") describe pushed bytes; pushed frames describe themselves.
    `max_buffered_seconds` is how far ahead of real time `push` may run before it waits.

    `max_delay` (seconds) is for sound that is pushed in real time: when more is queued, for instance after the event
    loop was blocked, the oldest is dropped down to half of it and counted in `dropped_seconds`. By default nothing is
    dropped.

    Raises:
        ValueError: a rate, layout or limit is out of range.
    """

    kind = "audio"

    def __init__(
        self,
        *,
        input_rate: int = 16000,
        input_layout: str = "mono",
        max_buffered_seconds: float = 5.0,
        max_delay: float | None = None,
        logger: Logger | None = None,
    ) -> None:
        super().__init__()
        _check_input(input_rate, input_layout, max_buffered_seconds)
        _check_delay(max_delay)
        self.dropped_seconds = 0.0
        self._rate, self._layout = input_rate, input_layout
        self._cap = max_buffered_seconds * RATE * SAMPLE_BYTES
        self._late = math.inf if max_delay is None else max_delay * RATE * SAMPLE_BYTES
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._sample_bytes = 2 * CHANNELS[input_layout]
        self._slice_bytes = self._sample_bytes * max(1, input_rate // SLICES_PER_SECOND)
        self._converter = PcmConverter()
        self._carry = b""  # the first bytes of a sample that the next push completes
        self._buffer = bytearray()
        self._pushing = 0
        self._epoch = 0
        self._ending = False
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._pacer = Pacer(FRAME_SECONDS)
        self._making_up = False  # for time during which the event loop was blocked
        self._is_away = False  # whether the reader is late although the event loop runs
        self._look: asyncio.TimerHandle | None = None
        self._sounding = False  # the last frame ended with audio, not with silence

    @property
    def buffered_seconds(self) -> float:
        """Seconds of audio that was pushed and not yet played."""
        return len(self._buffer) / (RATE * SAMPLE_BYTES)

    async def push(self, data: bytes | Any) -> None:
        """Queue audio: s16le bytes, which may end within a sample, or an `av.AudioFrame` of any format.

        Waits while more than `max_buffered_seconds` are queued. Concurrent pushes play in the order of the calls. Does
        nothing after `end` or `stop`, and drops the rest if `flush` or `stop` is called meanwhile. Cancellation keeps
        what was queued by then.

        Raises:
            TypeError: `data` is neither bytes nor an audio frame.
            ValueError: a frame has no sample rate, or samples that are not finite.
        """
        if not isinstance(data, bytes | bytearray | memoryview | av.AudioFrame):
            raise TypeError(f"push takes s16le bytes or an av.AudioFrame, not {data!r}")
        if self._ending or self.readyState != "live":
            return
        self._attach()
        epoch = self._epoch
        self._pushing += 1
        self._drained.clear()
        try:
            async with self._turn:
                await self._push_in_turn(data if isinstance(data, av.AudioFrame) else bytes(data), epoch)
        finally:
            self._pushing -= 1
            self._settle()

    def flush(self) -> float:
        """Drop what is queued and the rest of pushes in progress. Return the queued seconds.

        For barge-in: silence follows within 20 ms. The next push starts on a sample boundary. Not thread-safe.
        """
        dropped = self.buffered_seconds
        self._epoch += 1
        self._buffer.clear()
        self._carry = b""
        self._converter = PcmConverter()
        self._room.set()
        self._settle()
        return dropped

    def end(self) -> None:
        """End the track after playing what is queued, including pushes in progress. Later pushes do nothing.

        May be called from any thread.
        """
        call_on(self._loop, self._end_here)

    def _end_here(self) -> None:
        self._ending = True
        self._room.set()
        self._settle()

    async def wait_drained(self) -> None:
        """Wait until the reader has received everything that was pushed, or the track has stopped.

        The last frame then still takes 20 ms to play. Without a reader this waits for one.
        """
        await self._drained.wait()

    def _release(self) -> None:
        """Drop what is queued and wake waiting pushes."""
        self._stop_looking()
        self._buffer.clear()
        self._room.set()
        self._drained.set()

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due.

        Raises:
            MediaStreamError: the track has ended.
        """
        self._attach()
        self._stop_if_played_out()
        self._stop_looking()
        await self._until_due()
        self._stop_if_played_out()  # `stop` or `end` may have been called meanwhile
        frame = pcm_frame(self._next_20_ms(), self._pacer.take_deadline() * FRAME_SAMPLES)
        self._look_for_reader()
        return frame

    async def _until_due(self) -> None:
        await self._pacer.wait_until_due()
        if self._pacer.lateness <= SKIP_AFTER:
            self._making_up = self._is_away = False
        elif self._is_away:
            self._is_away = False
            self._pacer.skip_late_deadlines()
        else:
            await self._make_up()

    async def _make_up(self) -> None:
        """Catch up after the event loop was blocked: with the sound of that time, or by skipping silence.

        Programs that push by the clock push late sound when they run again; others push what is due now.
        """
        begins, self._making_up = not self._making_up, True
        if begins:
            seconds = self._pacer.lateness
            self._logger.debug("audio source: event loop was blocked", {"track": self.id, "seconds": seconds})
            await self._wait_for_pushes()
        if not self._buffer and not self._pushing:
            self._pacer.skip_late_deadlines()
        elif begins and self.buffered_seconds < self._pacer.lateness / 2:
            self._pacer.skip_late_deadlines(spared=self.buffered_seconds)
        if self._pacer.lateness > SKIP_AFTER:
            await asyncio.sleep(CATCH_UP_PAUSE)

    async def _wait_for_pushes(self) -> None:
        """Wait while pushes arrive faster than they are played."""
        for _ in range(MAX_ROUNDS):
            before = len(self._buffer)
            await asyncio.sleep(CATCH_UP_PAUSE)
            if len(self._buffer) - before <= FRAME_BYTES:
                return

    def _look_for_reader(self) -> None:
        """Check later whether a late read means an absent reader or a blocked event loop."""
        loop = asyncio.get_running_loop()
        late_at = loop.time() - self._pacer.lateness + AWAY_AFTER
        self._look = loop.call_at(late_at, self._reader_is_late)

    def _reader_is_late(self) -> None:
        self._is_away = self._pacer.lateness <= SKIP_AFTER

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _next_20_ms(self) -> bytes:
        if not self._buffer and not self._pushing:
            self._buffer += self._converter.drain()  # underrun: the rest must not wait for the next push
        data = bytes(self._buffer[:FRAME_BYTES])
        del self._buffer[:FRAME_BYTES]
        self._room.set()
        self._settle()
        begins = not self._sounding and not self._ending
        self._sounding = len(data) == FRAME_BYTES or (bool(data) and begins)
        return data.rjust(FRAME_BYTES, b"\0") if begins else data.ljust(FRAME_BYTES, b"\0")

    async def _push_in_turn(self, data: bytes | av.AudioFrame, epoch: int) -> None:
        if epoch != self._epoch:
            return
        if isinstance(data, av.AudioFrame):
            await self._append(self._converter.convert(data), epoch)
            return
        data = self._carry + data
        whole = len(data) - len(data) % self._sample_bytes
        self._carry = data[whole:]
        for start in range(0, whole, self._slice_bytes):
            piece = data[start : min(start + self._slice_bytes, whole)]
            frame = s16_frame(piece, self._rate, self._layout)
            if not await self._append(self._converter.convert(frame), epoch):
                return

    async def _append(self, pcm: bytes, epoch: int) -> bool:
        """Queue converted audio as room becomes free. Return whether the push may continue."""
        for start in range(0, len(pcm), FRAME_BYTES):
            if not await self._room_for(epoch):
                return False
            self._buffer += pcm[start : start + FRAME_BYTES]
            if len(self._buffer) > self._late:
                self._catch_up()
        return True

    def _catch_up(self) -> None:
        """Drop late sound down to half of the limit, so that this does not repeat at once."""
        late = len(self._buffer) - int(self._late / 2)
        late -= late % SAMPLE_BYTES
        del self._buffer[:late]
        seconds = late / (RATE * SAMPLE_BYTES)
        self.dropped_seconds += seconds
        self._pacer.skip_late_deadlines(spared=max(0.0, self._pacer.lateness - seconds))  # the rest keeps its place
        self._logger.debug("audio source: late sound dropped", {"track": self.id, "seconds": self.dropped_seconds})

    async def _room_for(self, epoch: int) -> bool:
        """Wait until the buffer is below the cap. Return whether the epoch is still current."""
        while self._is_current(epoch) and not self._ending and len(self._buffer) >= self._cap:
            self._room.clear()
            await self._room.wait()
        return self._is_current(epoch)

    def _is_current(self, epoch: int) -> bool:
        return epoch == self._epoch and self.readyState == "live"

    def _settle(self) -> None:
        """Append the resampler's rest once no push can follow. Wake `wait_drained` if the buffer is empty."""
        if self._pushing or self.readyState != "live":
            return
        if self._ending:
            self._buffer += self._converter.drain()
        if self._buffer:
            self._drained.clear()
        else:
            self._drained.set()

    def _stop_if_played_out(self) -> None:
        if self._ending and not self._buffer and not self._pushing:
            self.stop()
        if self.readyState != "live":
            raise MediaStreamError("the audio source has ended")


def _check_input(rate: Any, layout: Any, cap: Any) -> None:
    if type(rate) is not int or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"input_rate must be an int from {MIN_RATE} to {MAX_RATE} Hz, not {rate!r}")
    if not isinstance(layout, str) or layout not in CHANNELS:
        raise ValueError(f"input_layout must be 'mono' or 'stereo', not {layout!r}")
    if not isinstance(cap, int | float) or isinstance(cap, bool) or not (math.isfinite(cap) and cap > 0):
        raise ValueError(f"max_buffered_seconds must be a positive number of seconds, not {cap!r}")


def _check_delay(delay: Any) -> None:
    if delay is None:
        return
    if not isinstance(delay, int | float) or not (math.isfinite(delay) and delay >= MIN_DELAY):
        raise ValueError(f"max_delay must be a number of seconds from {MIN_DELAY}, or None, not {delay!r}")
