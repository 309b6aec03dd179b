"""One encoder for all receivers of its packets, with a queue, a task and a thread of its own."""

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
"""Frames that wait for a slow video encoder. Late pictures are worthless: the oldest is dropped."""

MAX_WAITING_AUDIO = 25
"""Frames that wait for a slow audio encoder: half a second at 20 ms each."""

LOG_PAUSE = 60.0
"""Seconds between log lines about frames that cannot be sent: there may be 50 of them per second."""

THREAD_NAME = "metered-realtime-encoder"


class Outlet(Protocol):
    """Where an encoder's packets go. Called on the event loop, in order."""

    def push_packet(self, packet: Packet) -> None:
        """Send a packet."""

    def count_dropped_frame(self) -> None:
        """Count a frame that was dropped because the encoder was too slow."""

    def count_failed_frame(self) -> None:
        """Count a frame that could not be encoded."""


class SharedEncoder:
    """Encodes frames in a thread. `bitrate`, in bits per second, may be set at any time.

    A frame that cannot be encoded is skipped, counted, and logged once per `LOG_PAUSE`. The encoder is then reset.
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
        """Frames that wait to be encoded."""
        return len(self._waiting)

    def push_frame(self, frame: Any, at: Fraction) -> None:
        """Queue a frame at a time in seconds, later than the previous one. A full queue drops its oldest frame."""
        if len(self._waiting) == self._waiting.maxlen:
            self._outlet.count_dropped_frame()
        self._waiting.append((frame, at))
        self._arrived.set()

    def request_key_frame(self) -> None:
        """Have a key frame made soon. `KeyFrameGate` decides when."""
        self._gate.request_key_frame()

    @property
    def wants_key_frame(self) -> bool:
        """Whether a requested key frame is still to come."""
        return self._gate.is_requested

    def output_bitrate(self) -> float:
        """Return the actual bits per second of the packets, 0 while unknown."""
        return 8 * (self._rate.rate(self._bytes, self._loop.time()) or 0.0)

    def close(self) -> asyncio.Task[None]:
        """Stop encoding. The returned task ends after the thread."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        work: asyncio.Future[list[Packet]] | None = None
        try:
            while True:
                frame, at = await self._next()
                key_frame = self._gate.force_key_frame(self._loop.time())
                work = self._loop.run_in_executor(self._thread, self._encode, frame, at, self.bitrate, key_frame)
                self._take(await asyncio.shield(work))
        except asyncio.CancelledError:
            if work is not None:
                await asyncio.wait([work])
        finally:
            self._thread.shutdown()  # it is idle, so this does not block

    async def _next(self) -> tuple[Any, Fraction]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _encode(self, frame: Any, at: Fraction, bitrate: int, key_frame: bool) -> list[Packet]:
        """Encode a frame, in the thread."""
        try:
            packets = self._encoder.encode(frame, at, bitrate, key_frame=key_frame)
        except Exception as error:  # a bad frame must not end the encoder
            self._encoder.reset()
            self._loop.call_soon_threadsafe(self._fail, error)
            return []
        return packets

    def _take(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._bytes += packet.size
            if packet.is_keyframe:
                self._gate.key_frame_made()
            self._outlet.push_packet(packet)

    def _fail(self, error: Exception) -> None:
        self._outlet.count_failed_frame()
        now = self._loop.time()
        if now - self._logged_at >= LOG_PAUSE:
            self._logged_at = now
            log_exception(self._logger, "frames cannot be sent", error, level="warning")
