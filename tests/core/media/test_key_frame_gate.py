"""Key frames are forced soon after a request, and not too often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.key_frame_gate import MIN_INTERVAL, KeyFrameGate


def test_the_first_request_is_met_at_once_and_the_next_ones_together_later() -> None:
    gate = KeyFrameGate()
    assert not gate.force_key_frame(0)
    gate.request_key_frame()
    assert gate.force_key_frame(1)
    for _ in range(3):
        gate.request_key_frame()
    assert not gate.force_key_frame(1.4)
    assert gate.is_requested
    assert gate.force_key_frame(1 + MIN_INTERVAL)
    assert not gate.force_key_frame(10)


def test_an_unrequested_key_frame_meets_the_requests() -> None:
    gate = KeyFrameGate()
    gate.request_key_frame()
    gate.key_frame_made()
    assert not gate.force_key_frame(0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.3)), max_size=60))
def test_there_are_never_two_within_the_interval_and_every_request_is_met(steps: list[tuple[bool, float]]) -> None:
    gate, now, forced, waiting = KeyFrameGate(), 0.0, -1.0, 0.0
    for asked, passed in steps:
        now += passed
        if asked:
            gate.request_key_frame()
        waiting = waiting + passed if gate.is_requested else 0.0
        if gate.force_key_frame(now):
            assert now - forced >= MIN_INTERVAL - 1e-9
            forced, waiting = now, 0.0
        assert waiting <= MIN_INTERVAL + 0.3
