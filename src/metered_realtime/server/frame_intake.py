"""Checks a client's frames before the hub handles them: rate limits, format, and repeated faults.

The order of checks: size (in `ClientSocket`), byte rate, JSON, type, request id, frame rate, fields; then the hub.
There are three buckets: of bytes, which also pays the charges of the hub; of frames; and of pings, those of WebSocket
included, which do not count as frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.wire.frames import ClientFrame, FrameError, Ping, Refresh, decode_client_frame
from ..events import WsCloseCode
from .limits import FaultCounter, Limits, TokenBucket
from .routing import Subscriber
from .telemetry.hooks import FrameHandler


@dataclass(frozen=True, slots=True)
class Close:
    """The connection must be closed, with this code and reason."""

    code: int
    reason: str


PING_RATE_EXCEEDED = Close(WsCloseCode.OVER_MESSAGE_RATE, "ping rate exceeded")


class FrameIntake:
    """Handles the frames of one connection. Times are those of a monotonic clock."""

    __slots__ = ("_bytes", "_faults", "_frames", "_hub", "_pings", "_subscriber")

    def __init__(self, hub: FrameHandler, subscriber: Subscriber, limits: Limits, now: float) -> None:
        self._hub = hub
        self._subscriber = subscriber
        self._frames = TokenBucket(limits.frames_per_second, limits.frame_burst, now)
        self._bytes = TokenBucket(limits.bytes_per_second, limits.byte_burst, now)
        self._pings = TokenBucket(limits.pings_per_second, limits.ping_burst, now)
        self._faults = FaultCounter(limits.malformed_frames, limits.malformed_window)

    def handle_frame(self, text: bytes, now: float) -> Close | Refresh | None:
        """Handle a frame. Return a `Close` if the client exceeded a limit, or a `Refresh` for the caller to decide
        on."""
        self._bytes.charge(self._subscriber.collect_charges())
        if not self._bytes.take_tokens(now, len(text)):
            return Close(WsCloseCode.OVER_MESSAGE_RATE, "byte rate exceeded")
        try:
            frame: ClientFrame | FrameError = decode_client_frame(text)
        except FrameError as fault:
            frame = fault
        if isinstance(frame, Ping):
            if not self._pings.take_tokens(now):
                return PING_RATE_EXCEEDED
        elif not self._frames.take_tokens(now):
            return Close(WsCloseCode.OVER_MESSAGE_RATE, "message rate exceeded")
        if isinstance(frame, FrameError):
            return self._refuse(frame, now)
        if isinstance(frame, Refresh):
            return frame
        self._hub.handle(self._subscriber, frame)
        return None

    def count_control_frame(self, now: float) -> Close | None:
        """Count a WebSocket ping or pong. Return a `Close` if there were too many."""
        return None if self._pings.take_tokens(now) else PING_RATE_EXCEEDED

    def _refuse(self, fault: FrameError, now: float) -> Close | None:
        self._hub.refuse(self._subscriber, fault)
        if fault.code == "malformed_message" and self._faults.count_fault(now):
            return Close(WsCloseCode.POLICY_VIOLATION, "too many malformed frames")
        return None
