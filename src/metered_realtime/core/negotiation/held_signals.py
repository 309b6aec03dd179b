"""Signals of peers that presence has not announced yet: held for a moment instead of dropped.

The server may deliver a newcomer's offer before this end has worked through the presence that announces him. Dropping
it would leave the pair unconnected until somebody repeats himself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from .signals import CandidateSignal, DescriptionSignal, MetadataSignal, Signal

HOLD_SECONDS = 5.0
"""How long a signal may wait for its sender to appear."""

MAX_SENDERS = 64
MAX_SIGNALS_PER_SENDER = 64
MAX_CHARACTERS_PER_SENDER = 262_144
"""What strangers can make this end keep, 16 million characters in all: a large offer and a burst of candidates
fit. The oldest sender goes first."""


@dataclass(slots=True)
class _Sender:
    since: float
    characters: int = 0
    signals: list[Signal | MetadataSignal] = field(default_factory=list)


class HeldSignals:
    """Signals by sender, each sender with the time of his first one."""

    def __init__(self) -> None:
        self.dropped = 0
        self._by_id: OrderedDict[str, _Sender] = OrderedDict()

    def hold(self, sender: str, signal: Signal | MetadataSignal, now: float) -> None:
        """Keep a signal, or count it as dropped."""
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

    def release(self, sender: str, now: float) -> list[Signal | MetadataSignal]:
        """Return what a sender who has been announced sent before, in order."""
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
