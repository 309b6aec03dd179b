"""Signals of peers that presence has not announced yet, held for a moment instead of dropped.

The server may deliver the offer of a newcomer before this end has processed the presence that announces it. Dropping
the offer would leave the pair unconnected until one of them repeats itself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from .signals import CandidateSignal, DescriptionSignal, MetadataSignal, Signal

HOLD_SECONDS = 5.0
"""Seconds that the signals of a sender wait for its announcement, from the first one on."""

MAX_SENDERS = 64
MAX_SIGNALS_PER_SENDER = 64
MAX_CHARACTERS_PER_SENDER = 262_144
"""Bounds of what unannounced peers can make this end keep, 16 million characters in all. They leave room for a large
offer and a burst of candidates of each. The oldest sender is dropped first."""


@dataclass(slots=True)
class _Sender:
    since: float
    characters: int = 0
    signals: list[Signal | MetadataSignal] = field(default_factory=list)


class HeldSignals:
    """Signals by sender, each sender with the time of its first signal.

    Attributes:
        dropped: The number of signals that waited too long, or found no room.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._by_id: OrderedDict[str, _Sender] = OrderedDict()

    def hold_signal(self, sender: str, signal: Signal | MetadataSignal, now: float) -> None:
        """Keep a signal, or drop and count it if its sender has too many."""
        self._expire(now)
        if sender not in self._by_id:
            if len(self._by_id) >= MAX_SENDERS:
                self._drop_oldest()
            self._by_id[sender] = _Sender(now)
        held = self._by_id[sender]
        size = _size(signal)
        if len(held.signals) >= MAX_SIGNALS_PER_SENDER or held.characters + size > MAX_CHARACTERS_PER_SENDER:
            self.dropped += 1
        else:
            held.characters += size
            held.signals.append(signal)

    def release_signals(self, sender: str, now: float) -> list[Signal | MetadataSignal]:
        """Return the signals of a sender that has been announced, in order, and hold them no longer."""
        self._expire(now)
        held = self._by_id.pop(sender, None)
        return held.signals if held is not None else []

    def _expire(self, now: float) -> None:
        while self._by_id and now - next(iter(self._by_id.values())).since >= HOLD_SECONDS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, held = self._by_id.popitem(last=False)
        self.dropped += len(held.signals)


def _size(signal: Signal | MetadataSignal) -> int:
    match signal:
        case DescriptionSignal(sdp=sdp):
            return len(sdp)
        case CandidateSignal(candidate=candidate):
            return len(candidate or "")
    return len(repr(signal.metadata))
