"""Signals of peers that presence has not announced yet: held for a moment instead of dropped.

The server may deliver a newcomer's offer before this end has worked through the presence that announces him. Dropping
it would leave the pair unconnected until somebody repeats himself.
"""

from __future__ import annotations

from collections import OrderedDict

from .signals import MetadataSignal, Signal

HOLD_SECONDS = 5.0
"""How long a signal may wait for its sender to appear."""

MAX_SENDERS = 64
MAX_SIGNALS_PER_SENDER = 64
"""What strangers can make this end keep: a browser's burst of candidates fits. The oldest sender goes first."""


class HeldSignals:
    """Signals by sender, each sender with the time of his first one."""

    def __init__(self) -> None:
        self.dropped = 0
        self._by_sender: OrderedDict[str, tuple[float, list[Signal | MetadataSignal]]] = OrderedDict()

    def hold(self, sender: str, signal: Signal | MetadataSignal, now: float) -> None:
        """Keep a signal."""
        self._expire(now)
        if sender not in self._by_sender:
            if len(self._by_sender) >= MAX_SENDERS:
                _, (_, lost) = self._by_sender.popitem(last=False)
                self.dropped += len(lost)
            self._by_sender[sender] = (now, [])
        _, signals = self._by_sender[sender]
        if len(signals) >= MAX_SIGNALS_PER_SENDER:
            self.dropped += 1
        else:
            signals.append(signal)

    def release(self, sender: str, now: float) -> list[Signal | MetadataSignal]:
        """Return what a sender who has been announced sent before, in order."""
        self._expire(now)
        _, signals = self._by_sender.pop(sender, (0.0, []))
        return signals

    def _expire(self, now: float) -> None:
        while self._by_sender:
            sender, (since, signals) = next(iter(self._by_sender.items()))
            if now - since < HOLD_SECONDS:
                return
            del self._by_sender[sender]
            self.dropped += len(signals)
