"""How much may be in flight, and how long an acknowledgement is waited for."""

from __future__ import annotations

import pytest
from aiortc.rtcsctptransport import USERDATA_MAX_LENGTH

from metered_realtime.core.sctp.congestion import (
    CHUNK_SIZE,
    MAX_BURST,
    MAX_RATE,
    MIN_FLIGHT,
    RTO_INITIAL,
    RTO_MAX,
    RTO_MIN,
    CongestionControl,
)
from metered_realtime.core.sctp.outbound import Acknowledged


def acknowledge(control: CongestionControl, size: int = CHUNK_SIZE, *, lost: bool = False, sacked: int = 1) -> None:
    result = Acknowledged(bytes=size, advanced=True, lost=lost)
    control.acknowledge(result, was_full=not lost, sacked=sacked, highest_sent=10)


def test_a_full_chunk_is_as_large_as_aiortcs() -> None:
    assert CHUNK_SIZE == USERDATA_MAX_LENGTH


def test_the_window_opens_by_what_is_acknowledged_up_to_the_threshold() -> None:
    control = CongestionControl()
    control.threshold = 5 * CHUNK_SIZE
    windows = []
    for _ in range(9):
        acknowledge(control, 4 * CHUNK_SIZE)
        windows.append(control.window // CHUNK_SIZE)
    assert windows == [4, 5, 6, 6, 7, 7, 8, 8, 9], "slow start to 6, then a chunk for each window"


def test_a_window_that_is_not_used_does_not_open() -> None:
    control = CongestionControl()
    before = control.window
    control.acknowledge(Acknowledged(bytes=100, advanced=True), was_full=False, sacked=1, highest_sent=10)
    assert control.window == before


def test_a_loss_halves_the_window_once_until_what_was_in_flight_is_acknowledged() -> None:
    control = CongestionControl()
    control.window = 40 * CHUNK_SIZE
    acknowledge(control, lost=True)
    assert (control.window, control.retransmits_at_once) == (20 * CHUNK_SIZE, True)
    acknowledge(control, lost=True, sacked=9)
    assert control.window == 20 * CHUNK_SIZE
    acknowledge(control, sacked=10)
    acknowledge(control, lost=True, sacked=11)
    assert control.window == 10 * CHUNK_SIZE


def test_a_timeout_begins_again_with_one_chunk_and_doubles() -> None:
    control = CongestionControl()
    control.window = 40 * CHUNK_SIZE
    timeouts = []
    for _ in range(4):
        control.expire()
        timeouts.append(control.timeout)
    assert timeouts == [2 * RTO_INITIAL, RTO_MAX, RTO_MAX, RTO_MAX]
    assert (control.window, control.threshold) == (CHUNK_SIZE, 4 * CHUNK_SIZE)


def test_the_timeout_follows_the_round_trip_within_bounds() -> None:
    control = CongestionControl()
    control.measure(0.5)
    assert control.timeout == pytest.approx(0.5 + 4 * 0.25)
    for _ in range(100):
        control.measure(0.001)
    assert control.timeout == RTO_MIN
    control.measure(30.0)
    assert control.timeout == RTO_MAX


def test_no_more_is_in_flight_than_the_shortest_round_trip_fills() -> None:
    control = CongestionControl()
    control.window = 100_000_000
    acknowledge(control, 100_000_000)
    control.measure(0.01)
    assert control.allowance(0) == MAX_RATE * 0.01
    control = CongestionControl()
    control.measure(0.000_1)
    assert control.bound == MIN_FLIGHT


def test_a_burst_is_bounded_beyond_what_was_acknowledged() -> None:
    control = CongestionControl()
    control.window = 100 * CHUNK_SIZE
    assert control.allowance(10 * CHUNK_SIZE) == (10 + MAX_BURST) * CHUNK_SIZE
    control.acknowledge(Acknowledged(bytes=7 * CHUNK_SIZE), was_full=False, sacked=0, highest_sent=10)
    assert control.allowance(10 * CHUNK_SIZE) == (10 + MAX_BURST + 7) * CHUNK_SIZE
    assert control.allowance(10 * CHUNK_SIZE) == (10 + MAX_BURST) * CHUNK_SIZE
