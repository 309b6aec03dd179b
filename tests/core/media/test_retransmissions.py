"""Lost packets are retransmitted once per round trip, within a share of what is sent."""

from __future__ import annotations

import random

from metered_realtime.core.media.retransmissions import (
    BURST,
    FLOOR,
    MAX_REMEMBERED,
    MAX_ROUND_TRIP,
    SHARE,
    Retransmissions,
)

SIZE = 1_200


def test_a_packet_comes_once_in_a_round_trip() -> None:
    requests = Retransmissions()
    assert requests.admit(7, SIZE, 0.0, round_trip=0.2)
    assert not any(requests.admit(7, SIZE, at / 100, round_trip=0.2) for at in range(1, 18))
    assert requests.admit(7, SIZE, 0.19, round_trip=0.2), "the next request is about a round trip later"
    assert (requests.sent, requests.refused) == (2, 17)


def test_a_path_that_is_said_to_be_very_slow_does_not_stop_recovery() -> None:
    requests = Retransmissions()
    assert requests.admit(7, SIZE, 0.0, round_trip=3_000.0)
    assert requests.admit(7, SIZE, MAX_ROUND_TRIP, round_trip=3_000.0)


def test_a_whole_key_frame_comes_again_at_once() -> None:
    requests = Retransmissions()
    assert all(requests.admit(number, SIZE, 0.0) for number in range(128))


def test_bytes_are_bounded_whatever_is_requested() -> None:
    requests, sent = Retransmissions(), 0
    for step in range(10_000):  # 10 s
        sent += SIZE * requests.admit(step, SIZE, step / 1_000, rate=50_000.0)
    assert sent <= BURST + 10 * FLOOR
    assert sent >= 0.9 * (BURST + 10 * FLOOR)
    assert requests.refused == 10_000 - sent // SIZE


def test_a_fast_sender_may_retransmit_much() -> None:
    requests, sent, rate = Retransmissions(), 0, 2_000_000.0
    for step in range(20_000):
        sent += SIZE * requests.admit(step, SIZE, step / 2_000, rate=rate)
    assert 10 * SHARE * rate * 0.9 <= sent <= 11 * SHARE * rate


def test_loss_of_a_third_in_each_direction_is_within_the_bounds() -> None:
    """Each packet is requested until it arrives, once per round trip. 1 Mbit/s on a path of 50 ms."""
    chance, requests, pending = random.Random(3), Retransmissions(), list[tuple[float, int]]()
    for step in range(1_000):
        now = step * 0.0096
        if chance.random() < 0.3:
            pending.append((now + 0.05, step))
        for due in [it for it in pending if it[0] <= now]:
            pending.remove(due)
            assert requests.admit(due[1], SIZE, now, round_trip=0.05, rate=125_000.0)
            if chance.random() < 0.3:
                pending.append((now + 0.05, due[1]))
    assert requests.refused == 0


def test_remembered_requests_are_bounded() -> None:
    requests = Retransmissions()
    for number in range(65_536):
        requests.admit(number, 1, number / 10_000)
    assert len(requests._sent_at) <= MAX_REMEMBERED
