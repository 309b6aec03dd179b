"""Limits and the counters that enforce them; time is an argument."""

from __future__ import annotations

import math
from typing import Any

import pytest

from metered_realtime.server.limits import ConnectLimiter, FaultCounter, Limits, RateLimiter, TokenBucket


class TestLimits:
    def test_limits_have_the_numbers_of_the_protocol(self) -> None:
        limits = Limits()
        assert limits.max_message_size == 65_536
        assert limits.max_frame_size == 66_560
        assert limits.channels_per_connection == 100
        assert (limits.frames_per_second, limits.frame_burst) == (100, 200)
        assert (limits.connects_per_address, limits.connect_window) == (60, 60)
        assert (limits.metadata_size, limits.peer_metadata_size) == (8_192, 4_096)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "7", None, math.nan])
    def test_limits_refuse_a_count_that_is_none_and_name_it(self, value: Any) -> None:
        with pytest.raises(ValueError, match=f"frame_burst must be a whole number above 0, not {value!r}"):
            Limits(frame_burst=value)

    @pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "soon"])
    def test_limits_refuse_a_time_that_is_none(self, value: Any) -> None:
        with pytest.raises(ValueError, match="ping_interval must be a finite number above 0"):
            Limits(ping_interval=value)

    def test_limits_refuse_payloads_that_clients_could_not_take(self) -> None:
        with pytest.raises(ValueError, match="max_message_size"):
            Limits(max_message_size=1_048_576)

    def test_limits_refuse_to_wait_for_a_pong_beyond_the_next_ping(self) -> None:
        with pytest.raises(ValueError, match="pong_timeout must be below ping_interval"):
            Limits(pong_timeout=30.0)


class TestTokenBucket:
    def test_a_token_bucket_allows_the_burst_at_once_and_then_the_rate(self) -> None:
        bucket = TokenBucket(rate=10, burst=3, now=0.0)
        assert [bucket.take_tokens(0.0) for _ in range(4)] == [True, True, True, False]
        assert [bucket.take_tokens(0.1) for _ in range(2)] == [True, False]

    def test_a_token_bucket_never_holds_more_than_the_burst(self) -> None:
        bucket = TokenBucket(rate=10, burst=2, now=0.0)
        assert [bucket.take_tokens(1_000.0) for _ in range(3)] == [True, True, False]

    def test_a_token_bucket_survives_a_clock_that_steps_back(self) -> None:
        bucket = TokenBucket(rate=1, burst=2, now=100.0)
        assert bucket.take_tokens(0.0)
        assert bucket.take_tokens(0.0)


class TestFaultCounter:
    def test_a_fault_counter_reports_the_fault_that_is_one_too_many_within_the_window(self) -> None:
        faults = FaultCounter(3, window=10.0)
        assert [faults.count_fault(at) for at in (0.0, 5.0, 10.0)] == [False, False, True]

    def test_a_fault_counter_forgets_faults_outside_the_window(self) -> None:
        faults = FaultCounter(3, window=10.0)
        assert [faults.count_fault(at) for at in (0.0, 5.0, 10.1, 15.1)] == [False, False, False, False]


class TestConnectLimiter:
    def test_a_connect_limiter_allows_each_address_its_attempts_within_the_window(self) -> None:
        door = ConnectLimiter(2, window=60.0)
        assert [door.admit("a", at) for at in (0.0, 30.0, 59.9)] == [True, True, False]
        assert door.admit("b", 59.9)
        assert door.retry_after("a", 59.9) == pytest.approx(0.1)
        assert door.admit("a", 60.0)

    def test_a_connect_limiter_does_not_count_what_it_refused(self) -> None:
        door = ConnectLimiter(1, window=60.0)
        assert [door.admit("a", at) for at in (0.0, 50.0, 60.0)] == [True, False, True]

    def test_a_connect_limiter_forgets_addresses_whose_window_has_passed(self) -> None:
        door = ConnectLimiter(5, window=60.0)
        for number in range(50):
            door.admit(f"{number}", 0.0)
        door.admit("late", 61.0)
        assert len(door) == 1

    def test_a_connect_limiter_remembers_a_bounded_number_of_addresses(self) -> None:
        door = ConnectLimiter(5, window=60.0, max_addresses=10)
        for number in range(1_000):
            door.admit(f"{number}", 0.0)
        assert len(door) == 10


class TestRateLimiter:
    def test_a_rate_limiter_gives_each_caller_a_bucket(self) -> None:
        limiter = RateLimiter(0.5, 2)
        assert [limiter.admit("a", 0.0) for _ in range(3)] == [True, True, False]
        assert limiter.admit("b", 0.0)
        assert limiter.retry_after == 2
        assert limiter.admit("a", 2.0)

    def test_a_rate_limiter_remembers_a_bounded_number_of_callers(self) -> None:
        limiter = RateLimiter(0.001, 1, max_callers=2)
        assert [limiter.admit(caller, 0.0) for caller in "abac"] == [True, True, False, True]
        assert len(limiter) == 2
        assert not limiter.admit("a", 0.0)
