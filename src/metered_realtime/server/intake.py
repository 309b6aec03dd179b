"""What happens to a frame of a client before the hub sees it: its share of the rate, its form, its abuse.

The order is: size (the shell checks it before it has the text), JSON, type, request id, rate, fields; then the hub.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.frames import ClientFrame, FrameError, Ping, Refresh, decode_client_frame
from ..events import WsCloseCode
from .channel import Connection
from .hub import Hub
from .limits import FaultCounter, Limits, TokenBucket


@dataclass(frozen=True, slots=True)
class Close:
    """The connection has to end, with this code and reason."""

    code: int
    reason: str


class Intake:
    """Takes the frames of one connection. Times are of any clock that does not step back."""

    __slots__ = ("_bucket", "_connection", "_faults", "_hub")

    def __init__(self, hub: Hub, connection: Connection, limits: Limits, now: float) -> None:
        self._hub = hub
        self._connection = connection
        self._bucket = TokenBucket(limits.frames_per_second, limits.frame_burst, now)
        self._faults = FaultCounter(limits.malformed_frames, limits.malformed_window)

    def take(self, text: bytes, now: float) -> Close | Refresh | None:
        """Have a frame answered. Return a `Close` when the client has gone too far, and a `Refresh` to be decided."""
        try:
            frame: ClientFrame | FrameError = decode_client_frame(text)
        except FrameError as fault:
            frame = fault
        if not isinstance(frame, Ping) and not self._bucket.take(now):
            return Close(WsCloseCode.OVER_MESSAGE_RATE, "message rate exceeded")
        if isinstance(frame, FrameError):
            return self._refuse(frame, now)
        if isinstance(frame, Refresh):
            return frame
        self._hub.handle(self._connection, frame)
        return None

    def _refuse(self, fault: FrameError, now: float) -> Close | None:
        self._hub.refuse(self._connection, fault)
        if fault.code == "malformed_message" and self._faults.note(now):
            return Close(WsCloseCode.POLICY_VIOLATION, "too many malformed frames")
        return None
