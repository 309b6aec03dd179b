"""What happens to a frame of a client before the hub sees it: its share of the rates, its form, its abuse.

The order is: size (the shell checks it before it has the text), rate of bytes, JSON, type, request id, rate of frames,
fields; then the hub. Three buckets: bytes, with what the hub charges for beyond them; frames; and pings, which are free
of the second, the pings and pongs of WebSocket included.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.wire.frames import ClientFrame, FrameError, Ping, Refresh, decode_client_frame
from ..events import WsCloseCode
from .hub import Hub
from .limits import FaultCounter, Limits, TokenBucket
from .routing import Subscriber


@dataclass(frozen=True, slots=True)
class Close:
    """The connection has to end, with this code and reason."""

    code: int
    reason: str


PING_RATE_EXCEEDED = Close(WsCloseCode.OVER_MESSAGE_RATE, "ping rate exceeded")


class FrameIntake:
    """Takes the frames of one connection. Times are of any clock that does not step back."""

    __slots__ = ("_bytes", "_faults", "_frames", "_hub", "_pings", "_subscriber")

    def __init__(self, hub: Hub, subscriber: Subscriber, limits: Limits, now: float) -> None:
        self._hub = hub
        self._subscriber = subscriber
        self._frames = TokenBucket(limits.frames_per_second, limits.frame_burst, now)
        self._bytes = TokenBucket(limits.bytes_per_second, limits.byte_burst, now)
        self._pings = TokenBucket(limits.pings_per_second, limits.ping_burst, now)
        self._faults = FaultCounter(limits.malformed_frames, limits.malformed_window)

    def take(self, text: bytes, now: float) -> Close | Refresh | None:
        """Have a frame answered. Return a `Close` when the client has gone too far, and a `Refresh` to be decided."""
        self._bytes.charge(self._subscriber.collect_charges())
        if not self._bytes.take(now, len(text)):
            return Close(WsCloseCode.OVER_MESSAGE_RATE, "byte rate exceeded")
        try:
            frame: ClientFrame | FrameError = decode_client_frame(text)
        except FrameError as fault:
            frame = fault
        if isinstance(frame, Ping):
            if not self._pings.take(now):
                return PING_RATE_EXCEEDED
        elif not self._frames.take(now):
            return Close(WsCloseCode.OVER_MESSAGE_RATE, "message rate exceeded")
        if isinstance(frame, FrameError):
            return self._refuse(frame, now)
        if isinstance(frame, Refresh):
            return frame
        self._hub.handle(self._subscriber, frame)
        return None

    def take_control_frame(self, now: float) -> Close | None:
        """Count a ping or a pong of WebSocket itself. Return a `Close` when there were too many."""
        return None if self._pings.take(now) else PING_RATE_EXCEEDED

    def _refuse(self, fault: FrameError, now: float) -> Close | None:
        self._hub.refuse(self._subscriber, fault)
        if fault.code == "malformed_message" and self._faults.note(now):
            return Close(WsCloseCode.POLICY_VIOLATION, "too many malformed frames")
        return None
