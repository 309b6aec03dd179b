"""When an SCTP association acknowledges data (RFC 9260 section 6.2): pure, time is an argument."""

from __future__ import annotations

ACKNOWLEDGE_EVERY = 4
"""Packets with data that share an acknowledgement in a steady flow, if they are read at once. RFC 9260 section 6.2
recommends two, and each costs as much to handle as a packet of data."""

PROMPT_ANSWERS = 128
"""Packets after a pause, or a sign of loss, that are acknowledged one by one: a window opens by acknowledgements
(section 7.2.1), not by what they cover. So many open it as far as `MIN_FLIGHT`."""

PAUSE = 0.005
"""Seconds without data that count as a pause. A sender whose window does not fill the path makes one each
round trip."""


class AcknowledgementPolicy:
    """Counts packets with data, and decides when an acknowledgement `is_due`."""

    def __init__(self) -> None:
        self.is_due = False
        self._unanswered = 0
        self._prompt = PROMPT_ANSWERS
        self._batch_at = 0.0

    def begin_batch(self, now: float) -> None:
        """Begin a batch of packets that are read at once."""
        if now - self._batch_at > PAUSE:
            self._prompt = PROMPT_ANSWERS
        self._batch_at = now

    def count_packet(self, *, shows_loss: bool) -> None:
        """Count a packet with data."""
        self._unanswered += 1
        if shows_loss:
            self._prompt = PROMPT_ANSWERS
        if self._prompt:
            self._prompt -= 1
            self.is_due = True
        elif self._unanswered >= ACKNOWLEDGE_EVERY:
            self.is_due = True

    def end_batch(self) -> None:
        """Have what has not been acknowledged acknowledged now."""
        self.is_due = self._unanswered > 0

    def answered(self) -> None:
        """Note that everything that has arrived is acknowledged."""
        self.is_due = False
        self._unanswered = 0
