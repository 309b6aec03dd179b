"""Pictures from the jitter buffer of a receiver, without avoidable delay.

aiortc recognises the end of a picture by the first packet of the next one, which delays all video by one interval. It
requests a lost packet once. If that fails it holds everything behind the gap until 512 packets have arrived, which
takes many seconds at a low rate, and then releases one picture for each packet that arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from aiortc.jitterbuffer import JitterBuffer, JitterFrame

from ..media.codecs.encoded import is_key_frame
from .version import Guard, KnownPart

ASK_AGAIN = 0.1
"""Seconds after which a missing packet is requested again: the round trip of a good path, half of that of a bad one. A
request is lost as easily as a packet."""

GIVE_UP = 0.5
"""Seconds that a picture waits for missing packets: longer than a round trip between continents and a repetition. After
that a key frame comes sooner."""


GUARD = Guard(
    "using aiortc's own jitter buffer, which releases media later",
    KnownPart(JitterBuffer, "f485c3c78df73622"),
    KnownPart(JitterFrame, "b75a82a72b912fe3"),
)


class Several(JitterFrame):
    """Frames that the buffer releases together: the first one, and `more`."""

    def __init__(self, frames: list[JitterFrame]) -> None:
        super().__init__(frames[0].data, frames[0].timestamp)
        self.more = frames[1:]


class PromptPictures:
    """Releases a picture with its last packet, which carries the marker bit (RFC 7741 section 4.1, RFC 6184).

    `codecs` are the receiver's by payload type. `ask` is called with a source and the sequence numbers of packets to
    request again, `lost` when a picture is given up: the following ones depend on it, up to a key frame.
    """

    def __init__(
        self,
        buffer: JitterBuffer,
        codecs: Mapping[int, Any],
        lost: Callable[[], None],
        ask: Callable[[int, list[int]], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._buffer = buffer
        self._codecs = codecs
        self._lost = lost
        self._ask = ask
        self._clock = clock
        self._by_timestamp = buffer._remove_frame
        self._released: int | None = None
        self._broken: int | None = None
        self._trusts_marks = True
        self._newest = 0
        self._since: dict[int, float] = {}  # when each packet was found missing
        self._asked_at = 0.0
        patched: Any = buffer
        patched._remove_frame = self._remove

    def _remove(self, sequence_number: int) -> JitterFrame | None:
        """Return the pictures that are complete: replaces what the buffer calls after each packet."""
        if not (self._has(self._newest) and self._distance(sequence_number) <= self._distance(self._newest)):
            self._newest = sequence_number
        frames = self._complete()
        while self._gives_up():
            frames += self._complete()
        return Several(frames) if frames else None

    def _complete(self) -> list[JitterFrame]:
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> JitterFrame | None:
        self._skip_rest()
        frame = self._by_timestamp(self._origin)
        if frame is None and self._trusts_marks:
            frame = self._marked()
        if frame is not None:
            self._released = frame.timestamp
        return frame

    def _skip_rest(self) -> None:
        """Drop the rest of a picture that was given up, and padding behind a marker.

        If a sender puts media behind a marker its markers are ignored from then on.
        """
        while (packet := self._packet(self._origin)) is not None and packet.timestamp in (self._released, self._broken):
            if packet._data and packet.timestamp != self._broken:
                self._trusts_marks = False
            self._buffer.remove(1)

    def _marked(self) -> JitterFrame | None:
        """Remove and return the first picture if all its packets are there, up to the marker."""
        packets: list[Any] = []
        while len(packets) < self._buffer.capacity:
            packet = self._packet(self._origin + len(packets))
            if packet is None or (packets and packet.timestamp != packets[0].timestamp):
                return None
            packets.append(packet)
            if packet.marker:
                self._buffer.remove(len(packets))
                return JitterFrame(b"".join(it._data for it in packets), packet.timestamp)
        return None

    # --- what is missing

    def _gives_up(self) -> bool:
        """Request missing packets again. Return whether some were given up: pictures behind them may be complete."""
        now = self._clock()
        missing = self._missing()
        self._since = {number: self._since.get(number, now) for number in missing}
        if not missing:
            return False
        if now - self._since[missing[0]] >= GIVE_UP:
            self._give_up()
            return True
        # aiortc has just requested those that were found missing now.
        late = [number for number in missing if now - self._since[number] >= ASK_AGAIN]
        if late and now - self._asked_at >= ASK_AGAIN:
            self._asked_at = now
            self._ask(self._packet(self._newest).ssrc, late)
        return False

    def _missing(self) -> list[int]:
        """Return the sequence numbers of the packets missing before the newest one."""
        numbers = ((self._origin + offset) % 65_536 for offset in range(self._distance(self._newest)))
        return [number for number in numbers if self._packet(number) is None]

    def _give_up(self) -> None:
        """Drop the picture with the gap, and the next one unless it starts with the first packet of a key frame."""
        while self._packet(self._origin) is not None:
            self._buffer.remove(1)
        while self._packet(self._origin) is None:
            self._buffer.remove(1)
        packet = self._packet(self._origin)
        codec = self._codecs.get(packet.payload_type)
        if codec is None or not is_key_frame(codec, packet._data):
            self._broken = packet.timestamp
            self._skip_rest()
        self._lost()

    def _distance(self, sequence_number: int) -> int:
        """Return the offset of a sequence number from the first one in the buffer, negative for earlier ones."""
        distance = (sequence_number - self._origin) % 65_536
        return distance if distance < 32_768 else distance - 65_536

    @property
    def _origin(self) -> int:
        origin = self._buffer._origin
        assert origin is not None, "the buffer has had a packet"
        return origin

    def _has(self, sequence_number: int) -> bool:
        """Return whether a packet is in the buffer, which is cleared when the sequence numbers jump."""
        packet = self._packet(sequence_number)
        return packet is not None and packet.sequence_number == sequence_number

    def _packet(self, sequence_number: int) -> Any:
        return self._buffer._packets[sequence_number % self._buffer.capacity]
