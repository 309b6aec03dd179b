"""Signals of peers that presence has not announced yet."""

from __future__ import annotations

from metered_realtime.core.negotiation.held_signals import (
    HOLD_SECONDS,
    MAX_CHARACTERS_PER_SENDER,
    MAX_SENDERS,
    MAX_SIGNALS_PER_SENDER,
    HeldSignals,
)
from metered_realtime.core.negotiation.signals import CandidateSignal, DescriptionSignal, MetadataSignal


def signal(n: int = 0) -> CandidateSignal:
    return CandidateSignal(f"candidate:{n}")


def test_held_signals_are_released_once_and_in_order() -> None:
    held = HeldSignals()
    for n in range(3):
        held.hold_signal("a", signal(n), now=n)
    held.hold_signal("b", signal(9), now=3)
    assert held.release_signals("a", now=4) == [signal(0), signal(1), signal(2)]
    assert held.release_signals("a", now=4) == []
    assert held.release_signals("b", now=4) == [signal(9)]
    assert held.dropped == 0


def test_signals_that_wait_too_long_are_dropped() -> None:
    held = HeldSignals()
    held.hold_signal("a", signal(), now=0)
    held.hold_signal("a", signal(), now=HOLD_SECONDS - 0.1)
    held.hold_signal("b", signal(), now=1)
    assert held.release_signals("a", now=HOLD_SECONDS) == []
    assert held.dropped == 2
    assert held.release_signals("b", now=HOLD_SECONDS + 0.9) == [signal()]


def test_the_number_of_signals_held_for_a_sender_is_bounded() -> None:
    held = HeldSignals()
    for n in range(MAX_SIGNALS_PER_SENDER + 5):
        held.hold_signal("a", signal(n), now=0)
    released = held.release_signals("a", now=0)
    assert released == [signal(n) for n in range(MAX_SIGNALS_PER_SENDER)]
    assert held.dropped == 5


def test_the_signals_of_the_oldest_sender_are_dropped_for_a_new_one() -> None:
    held = HeldSignals()
    for n in range(MAX_SENDERS + 1):
        held.hold_signal(f"s{n}", signal(n), now=0)
    assert held.release_signals("s0", now=0) == []
    assert held.release_signals(f"s{MAX_SENDERS}", now=0) == [signal(MAX_SENDERS)]
    assert held.dropped == 1


def test_the_size_of_the_signals_held_for_a_sender_is_bounded() -> None:
    held = HeldSignals()
    large = DescriptionSignal("offer", "x" * (MAX_CHARACTERS_PER_SENDER // 2))
    for _ in range(3):
        held.hold_signal("a", large, 0.0)
    held.hold_signal("a", MetadataSignal("t", {"x": "y" * MAX_CHARACTERS_PER_SENDER}), 0.0)
    assert held.dropped == 2
    assert held.release_signals("a", 0.0) == [large, large]
