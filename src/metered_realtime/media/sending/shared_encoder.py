"""One encoder for everybody who gets its packets: a queue of frames, a task, and a thread of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import inf
from typing import Any, Protocol

from ...core.media.key_frame_gate import KeyFrameGate
from ...core.media.rates import RateWindow
from ...log import Logger, log_exception
from ..codecs.encoders import FrameEncoder, Packet

MAX_WAITING_VIDEO = 2
"""Frames that wait for a slow video encoder. Late pictures are worthless: the newest win."""

MAX_WAITING_AUDIO = 25
"""Frames that wait for a slow audio encoder: half a second at 20 ms each."""

LOG_PAUSE = 60.0
"""Seconds between log lines on frames of one track that cannot be sent: there may be 50 of them in a second."""

THREAD_NAME = "metered-realtime-encoder"


class Outlet(Protocol):
    """Where an encoder's work goes, on the event loop and in order."""

    def packet(self, packet: Packet) -> None: ...
    def frame_dropped(self) -> None: ...
    def frame_failed(self) -> None: ...


class SharedEncoder:
    """Encodes what it is fed. `bitrate`, in bits per second, may be set at any time.

    A frame that cannot be encoded is left out and logged, once in `LOG_PAUSE`; the next one meets a fresh encoder.
    """

    def __init__(self, encoder: FrameEncoder, kind: str, bitrate: int, outlet: Outlet, logger: Logger) -> None:
        self.bitrate = bitrate
        self._encoder = encoder
        self._outlet = outlet
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._gate = KeyFrameGate()
        self._waiting: deque[tuple[Any, Fraction]] = deque(
            maxlen=MAX_WAITING_VIDEO if kind == "video" else MAX_WAITING_AUDIO
        )
        self._arrived = asyncio.Event()
        self._logged_at = -inf
        self._bytes = 0
        self._rate = RateWindow(self._loop.time())
        self._thread = ThreadPoolExecutor(1, THREAD_NAME)
        self._task = asyncio.ensure_future(self._run())

    @property
    def queue_length(self) -> int:
        """Tell how many frames wait."""
        return len(self._waiting)

    def feed(self, frame: Any, at: Fraction) -> None:
        """Take a frame that stands at a time in seconds, later than the one before."""
        if len(self._waiting) == self._waiting.maxlen:
            self._outlet.frame_dropped()
        self._waiting.append((frame, at))
        self._arrived.set()

    def request_key_frame(self) -> None:
        """Have a key frame made, soon: `KeyFrameGate` says when."""
        self._gate.request()

    @property
    def wants_key_frame(self) -> bool:
        """Tell whether somebody waits for a key frame."""
        return self._gate.wanted

    def carries(self) -> float:
        """Return the bits per second of what comes out, 0 while that is not known."""
        return 8 * (self._rate.rate(self._bytes, self._loop.time()) or 0.0)

    def close(self) -> asyncio.Task[None]:
        """Stop. The task that is returned ends once the thread has."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        work: asyncio.Future[list[Packet]] | None = None
        try:
            while True:
                frame, at = await self._next()
                key_frame = self._gate.take(self._loop.time())
                work = self._loop.run_in_executor(self._thread, self._encode, frame, at, self.bitrate, key_frame)
                self._take(await asyncio.shield(work))
        except asyncio.CancelledError:
            if work is not None:
                await asyncio.wait([work])
        finally:
            self._thread.shutdown()  # it has nothing to do any more: this does not block

    async def _next(self) -> tuple[Any, Fraction]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _encode(self, frame: Any, at: Fraction, bitrate: int, key_frame: bool) -> list[Packet]:
        """Encode, in the thread."""
        try:
            packets = self._encoder.encode(frame, at, bitrate, key_frame=key_frame)
        except Exception as error:  # whatever is wrong with a frame must not end the others
            self._encoder.reset()
            self._loop.call_soon_threadsafe(self._fail, error)
            return []
        return packets

    def _take(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._bytes += packet.size
            if packet.is_keyframe:
                self._gate.came()
            self._outlet.packet(packet)

    def _fail(self, error: Exception) -> None:
        self._outlet.frame_failed()
        now = self._loop.time()
        if now - self._logged_at >= LOG_PAUSE:
            self._logged_at = now
            log_exception(self._logger, "frames cannot be sent", error, level="warning")
