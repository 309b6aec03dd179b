"""The decisions of the client session, in virtual time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from metered_realtime.core.session.effects import Emit, EnterState, FinishConnect, HangUp, Log, TearDown, Transmit
from metered_realtime.core.session.liveness import ANSWER_TIMEOUT
from metered_realtime.core.wire.ice_servers import parse_ice_servers
from metered_realtime.errors import (
    AckTimeoutError,
    DisconnectedError,
    NotConnectedError,
    PayloadTooLargeError,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
)
from metered_realtime.events import (
    Connected,
    Direct,
    Disconnected,
    GoingAway,
    Message,
    Presence,
    PresencePeer,
    Reconnecting,
    Resubscribed,
    ServerError,
    SubscriptionLost,
    TokenProviderError,
)
from metered_realtime.options import IceServerConfig, ReconnectOptions
from metered_realtime.signalling.client import _reconnect_options

from .driver import STEADY, WELCOME, SessionDriver

# --- connecting


def test_connect_dials_once_and_finishes_after_connected_was_told() -> None:
    driver = SessionDriver()
    driver.connect()
    driver.opened()
    driver.welcome(expiresAt=9, serverTime=5, maxMessageSize=100)
    assert driver.dials == 1
    assert [type(effect) for effect in driver.effects[-3:]] == [EnterState, Emit, FinishConnect]
    assert driver.events == [Connected("ann", 5, 9, False, 100, None)]
    assert driver.states == ["connecting", "connected"]
    assert (driver.session.peer_id, driver.session.max_message_size) == ("ann", 100)


@pytest.mark.parametrize("phase", ["connecting", "connected", "reconnecting"])
def test_connect_is_refused_unless_idle_or_closed(phase: str) -> None:
    driver = SessionDriver()
    driver.connect()
    if phase != "connecting":
        driver.opened()
        driver.welcome()
    if phase == "reconnecting":
        driver.ended()
    assert driver.session.state == phase
    with pytest.raises(SignallingError):
        driver.connect()


def test_a_first_dial_that_fails_is_not_repeated_and_tells_no_disconnected() -> None:
    driver = SessionDriver()
    driver.connect()
    driver.dial_failed("handshake rejected", http_status=429)
    [finish] = driver.take(FinishConnect)
    assert isinstance(finish.error, SignallingConnectError)
    assert (finish.error.close_code, finish.error.http_status) == (1006, 429)
    assert finish.error.close_reason == "handshake rejected"
    assert (driver.session.state, driver.events) == ("closed", [])
    assert driver.session.next_deadline == math.inf


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4001, 4002, 4010])
def test_a_first_connection_closed_before_the_welcome_fails_connect_with_its_code(code: int) -> None:
    driver = SessionDriver()
    driver.connect()
    driver.opened()
    driver.ended(code, "why")
    [finish] = driver.take(FinishConnect)
    assert isinstance(finish.error, SignallingConnectError)
    assert (finish.error.close_code, finish.error.close_reason, finish.error.http_status) == (code, "why", None)
    assert driver.events == [Disconnected(code, "why", False)]
    assert driver.take(TearDown) == []


def test_no_welcome_in_time_hangs_up_with_1000() -> None:
    driver = SessionDriver()
    driver.connect()
    driver.opened()
    driver.receive("{}")
    driver.receive(WELCOME | {"maxMessageSize": 0})
    driver.advance(9.9)
    assert driver.session.state == "connecting"
    driver.advance(0.1)
    assert driver.take(HangUp) == [HangUp(1000, "no welcome")]
    [finish] = driver.take(FinishConnect)
    assert isinstance(finish.error, SignallingConnectError)
    assert (finish.error.close_code, finish.error.close_reason) == (1000, "no welcome")


def test_frames_before_the_welcome_and_a_second_welcome_are_skipped_and_counted() -> None:
    driver = SessionDriver()
    driver.connect()
    driver.opened()
    driver.receive({"type": "message", "channel": "a", "from": "bob", "data": 1})
    driver.welcome()
    driver.welcome(peerId="eve")
    assert driver.session.peer_id == "ann"
    assert [type(event) for event in driver.events] == [Connected]
    assert driver.session.dropped_frames == 2


@pytest.mark.parametrize("welcomed", [False, True])
def test_an_abandoned_connect_hangs_up_and_may_be_followed_by_another(welcomed: bool) -> None:
    driver = SessionDriver()
    driver.connect()
    driver.opened()
    if welcomed:
        driver.welcome()
    driver.effects += driver.session.abandon_connect()
    assert len(driver.take(HangUp)) == 1
    assert driver.session.state == "closed"
    driver.connected()
    assert driver.session.state == "connected"


# --- losing and finding the connection


def test_a_lost_connection_fails_requests_then_tells_then_waits() -> None:
    driver = SessionDriver().connected()
    request_id = driver.publish()
    driver.effects.clear()
    driver.ended(1011, "oops")
    assert isinstance(driver.outcomes[request_id], DisconnectedError)
    order = [effect.event if isinstance(effect, Emit) else effect for effect in driver.effects[1:]]
    assert order == [Disconnected(1011, "oops", True), EnterState("connected", "reconnecting"), Reconnecting(1, 1.0)]
    driver.advance(0.9)
    assert driver.dials == 0
    driver.advance(0.1)
    assert driver.dials == 1


def test_attempts_wait_longer_and_longer_up_to_the_maximum_and_start_over_after_a_welcome() -> None:
    options = ReconnectOptions(initial_delay=1, multiplier=3, max_delay=8, jitter_ratio=0, max_attempts=math.inf)
    driver = SessionDriver(reconnect=options).connected()
    driver.ended()
    for _ in range(2_000):  # a power would overflow
        driver.advance(8)
        driver.dial_failed()
    delays = [event.delay for event in driver.events if isinstance(event, Reconnecting)]
    assert delays[:5] == [1, 3, 8, 8, 8]
    driver.advance(8)
    driver.opened()
    driver.welcome()
    driver.ended()
    assert driver.events[-1] == Reconnecting(1, 1)


def times_of_attempts(reconnect: ReconnectOptions, chance: float, until: float) -> list[float]:
    """Return the times, in seconds after a loss, of the attempts to reach an unreachable server."""
    driver = SessionDriver(reconnect=reconnect).connected()
    driver.chance = chance
    lost_at = driver.now
    driver.ended()
    times = []
    while driver.now - lost_at < until:
        driver.advance(driver.session.next_deadline - driver.now)
        times.append(driver.now - lost_at)
        driver.dial_failed()
    return times


def test_options_of_ones_own_grow_as_they_say() -> None:
    times = times_of_attempts(ReconnectOptions(), 0.5, 60)
    assert times == pytest.approx([0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5])


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_by_default_a_server_is_found_within_5_s_after_an_outage_of_up_to_a_minute(chance: float) -> None:
    times = times_of_attempts(_reconnect_options(True) or ReconnectOptions(), chance, 400)
    for back_at in range(60):
        assert next(time for time in times if time >= back_at) - back_at < 5
    assert max(later - earlier for earlier, later in pairwise(times)) == pytest.approx(30 * (0.8 + 0.4 * chance))


def test_a_cap_below_that_of_short_outages_counts() -> None:
    options = ReconnectOptions(max_delay=2, jitter_ratio=0, short_outage=5)
    assert times_of_attempts(options, 0.5, 6) == pytest.approx([0.5, 1.5, 3.5, 5.5, 7.5])


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_jitter_varies_the_delay_in_both_directions(chance: float, delay: float) -> None:
    driver = SessionDriver(reconnect=ReconnectOptions(initial_delay=1, jitter_ratio=0.2)).connected()
    driver.chance = chance
    driver.ended()
    [waiting] = [event for event in driver.events if isinstance(event, Reconnecting)]
    assert waiting.delay == pytest.approx(delay)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_over_the_connection_limit_the_floor_holds_after_the_jitter_and_once(chance: float) -> None:
    driver = SessionDriver(reconnect=ReconnectOptions(jitter_ratio=0.2)).connected()
    driver.chance = chance
    driver.ended(4010)
    driver.advance(40)
    driver.dial_failed()
    first, second = (event.delay for event in driver.events if isinstance(event, Reconnecting))
    assert 30 <= first <= 36
    assert second < 2


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 5.0), (0.5, 4.5), (1.0, 4.0)])
def test_going_away_is_told_and_nobody_waits_for_longer_than_it_says(chance: float, delay: float) -> None:
    driver = SessionDriver(reconnect=ReconnectOptions(jitter_ratio=0.2)).connected()
    driver.chance = chance
    driver.receive({"type": "going_away", "retryAfterMs": 5000})
    driver.ended(1001)
    assert driver.events[0] == GoingAway(5000)
    [waiting] = [event for event in driver.events if isinstance(event, Reconnecting)]
    assert waiting.delay == pytest.approx(delay)


def test_going_away_shortens_the_first_wait_only() -> None:
    driver = SessionDriver().connected()
    driver.receive({"type": "going_away", "retryAfterMs": 50})
    driver.ended(1001)
    driver.advance(0.05)
    driver.dial_failed()
    assert [event.delay for event in driver.events if isinstance(event, Reconnecting)] == [0.05, 2.0]


def test_a_refused_handshake_that_names_a_time_is_obeyed_within_reason() -> None:
    driver = SessionDriver().connected()
    driver.ended()
    driver.advance(1)
    driver.dial_failed(http_status=503, retry_after=20.0)
    assert driver.events[-1] == Reconnecting(2, 20.0)
    driver.advance(20)
    driver.dial_failed(http_status=503, retry_after=1e9)
    assert driver.events[-1] == Reconnecting(3, 300.0)


@pytest.mark.parametrize("code", [4001, 4003, 4012, 4020])
def test_terminal_codes_end_the_client(code: int) -> None:
    driver = SessionDriver().connected()
    driver.ended(code, "no")
    assert driver.events == [Disconnected(code, "no", False)]
    assert driver.states == ["closed"]
    assert isinstance(driver.effects[-1], TearDown)
    assert driver.session.next_deadline == math.inf


def test_terminal_codes_end_the_client_while_it_reconnects_too() -> None:
    driver = SessionDriver().connected()
    driver.ended()
    driver.advance(1)
    driver.opened()
    driver.effects.clear()
    driver.ended(4001, "revoked")
    assert driver.events == [Disconnected(4001, "revoked", False)]
    assert driver.states == ["closed"]


def test_giving_up_is_told_although_the_last_attempt_never_opened() -> None:
    driver = SessionDriver().connected()
    driver.ended()
    for _ in range(3):
        driver.advance(10)
        driver.effects.clear()
        driver.dial_failed("gaierror")
    assert [type(effect) for effect in driver.effects] == [Emit, EnterState, TearDown]
    assert driver.events == [Disconnected(1006, "gaierror", False)]
    assert driver.session.state == "closed"


def test_a_failed_attempt_in_between_tells_reconnecting_only() -> None:
    driver = SessionDriver().connected()
    driver.ended()
    driver.advance(1)
    driver.effects.clear()
    driver.dial_failed()
    assert driver.events == [Reconnecting(2, 2.0)]
    assert driver.states == []


@pytest.mark.parametrize("reconnect", [None, ReconnectOptions(max_attempts=0)])
def test_without_attempts_the_first_loss_is_the_end(reconnect: ReconnectOptions | None) -> None:
    driver = SessionDriver(reconnect=reconnect).connected()
    driver.ended()
    assert driver.events == [Disconnected(1006, "", False)]
    assert driver.states == ["closed"]


def test_token_failures_are_told_from_the_third_on_and_use_attempts_up() -> None:
    driver = SessionDriver().connected()
    driver.ended(4002, "expired")
    error = RuntimeError("login expired")
    for _ in range(3):
        driver.advance(10)
        driver.dial_failed("token provider failed", token_error=error)
    told = [event for event in driver.events if isinstance(event, TokenProviderError)]
    assert told == [TokenProviderError(3, error)]
    assert driver.events[-1] == Disconnected(4002, "token provider failed", False)


def test_a_token_that_came_starts_the_count_of_failures_over() -> None:
    driver = SessionDriver(reconnect=ReconnectOptions(jitter_ratio=0)).connected()
    driver.ended()
    for token_error in (OSError(), OSError(), None, OSError(), OSError()):
        driver.advance(60)
        driver.dial_failed(token_error=token_error)
    assert not any(isinstance(event, TokenProviderError) for event in driver.events)


def test_a_token_failure_of_the_first_connect_is_raised_as_it_is() -> None:
    driver = SessionDriver()
    driver.connect()
    error = KeyError("who")
    driver.dial_failed("token provider failed", token_error=error)
    assert driver.take(FinishConnect) == [FinishConnect(error)]


# --- silence


def test_silence_is_asked_about_and_then_ends_the_connection() -> None:
    driver = SessionDriver(inactivity_timeout=60).connected()
    driver.advance(59.9)
    assert [frame["type"] for frame in driver.written] == ["ping", "ping"]
    driver.advance(0.1)
    assert driver.take(HangUp) == [HangUp(4000, "inactivity")]
    assert driver.events[0] == Disconnected(4000, "inactivity", True)


def test_any_text_frame_is_a_sign_of_life_but_a_binary_one_is_not() -> None:
    driver = SessionDriver(inactivity_timeout=60).connected()
    for _ in range(10):
        driver.advance(19)
        driver.receive("garbage")
    assert driver.written == []
    driver.advance(59)
    driver.effects += driver.session.receive_binary()
    driver.advance(1)
    assert driver.session.state == "reconnecting"


@pytest.mark.parametrize("timeout", [0, -1, math.inf, -math.inf])
def test_without_a_timeout_silence_is_fine(timeout: float) -> None:
    driver = SessionDriver(inactivity_timeout=timeout).connected()
    driver.advance(1e9)
    assert driver.effects == []
    assert driver.session.state == "connected"


def test_a_connection_that_is_doubted_has_to_answer_soon() -> None:
    driver = SessionDriver(inactivity_timeout=60).connected()
    driver.effects += driver.session.check_connection(driver.now)
    assert driver.written == [{"type": "ping"}]
    driver.advance(ANSWER_TIMEOUT - 0.1)
    driver.effects += driver.session.check_connection(driver.now)  # doubting again does not extend the time
    assert driver.session.state == "connected"
    driver.advance(0.1)
    assert driver.take(HangUp) == [HangUp(4000, "inactivity")]
    assert driver.session.check_connection(driver.now) == [], "there is nothing to doubt"


def test_an_answer_ends_the_doubt() -> None:
    driver = SessionDriver(inactivity_timeout=60).connected()
    driver.effects += driver.session.check_connection(driver.now)
    driver.receive({"type": "pong"})
    driver.advance(ANSWER_TIMEOUT)
    assert driver.session.state == "connected"


@pytest.mark.parametrize("timeout", [0.2, 1, 2, 3.5])
def test_however_short_the_timeout_a_ping_comes_first(timeout: float) -> None:
    driver = SessionDriver(inactivity_timeout=timeout).connected()
    driver.advance(timeout * 0.99)
    assert driver.written == [{"type": "ping"}] * len(driver.written)
    assert driver.written


def test_a_timeout_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        SessionDriver(inactivity_timeout=math.nan)


# --- requests


def test_requests_end_with_their_own_answers_in_any_order() -> None:
    driver = SessionDriver().connected()
    first, second, third = driver.subscribe("a"), driver.publish("a", {"n": 1}), driver.send("bob", [1])
    assert [frame["requestId"] for frame in driver.written] == [first, second, third]
    driver.ack(third)
    driver.refuse(second, "over_message_quota")
    driver.ack(first)
    assert driver.outcomes[first] is None
    assert driver.outcomes[third] is None
    refusal = driver.outcomes[second]
    assert isinstance(refusal, ServerRequestError)
    assert (refusal.code, refusal.request_id) == ("over_message_quota", second)


def test_an_unanswered_request_times_out_and_its_late_answers_are_told_apart() -> None:
    driver = SessionDriver().connected()
    request_id = driver.publish()
    driver.advance(14.9)
    assert driver.outcomes == {}
    driver.advance(0.1)
    error = driver.outcomes[request_id]
    assert isinstance(error, AckTimeoutError)
    assert (error.request_id, error.timeout) == (request_id, 15.0)
    driver.ack(request_id)
    assert driver.events == []
    driver.refuse(request_id, "backend_error")
    assert driver.events == [ServerError("backend_error", None, request_id)]


def test_an_abandoned_request_is_settled_no_more_but_its_refusal_is_told() -> None:
    driver = SessionDriver().connected()
    acked, refused = driver.publish(), driver.publish()
    driver.session.abandon(acked)
    driver.session.abandon(refused)
    driver.ack(acked)
    driver.refuse(refused, "backend_error")
    assert driver.outcomes == {}
    assert driver.events == [ServerError("backend_error", None, refused)]
    assert driver.session.pending_requests == 0


def test_uncorrelated_errors_are_told_except_the_answer_of_old_servers_to_a_ping() -> None:
    driver = SessionDriver().connected()
    driver.receive({"type": "error", "code": "unknown_type"})
    driver.receive({"type": "error", "code": "brand_new", "message": "hm"})
    assert driver.events == [ServerError("brand_new", "hm", None)]


@pytest.mark.parametrize("state", ["idle", "connecting", "reconnecting", "closed"])
def test_requests_need_a_connection(state: str) -> None:
    driver = SessionDriver()
    if state != "idle":
        driver.connect()
    if state in ("reconnecting", "closed"):
        driver.opened()
        driver.welcome()
        driver.ended(1006 if state == "reconnecting" else 4001)
    assert driver.session.state == state
    for request in (driver.subscribe, driver.unsubscribe, driver.publish, driver.send):
        with pytest.raises(NotConnectedError):
            request()
    assert driver.written == []


def test_a_payload_beyond_the_cap_is_not_sent() -> None:
    driver = SessionDriver().connected(maxMessageSize=10)
    driver.publish("a", "12345678")
    driver.send("bob", "123456é")
    with pytest.raises(PayloadTooLargeError) as caught:
        driver.send("bob", "1234567é")
    assert (caught.value.size, caught.value.cap) == (11, 10)


def test_the_largest_payload_fits_a_servers_frame() -> None:
    driver = SessionDriver().connected()
    driver.publish('"' * 256, "x" * (65_536 - 2))
    [effect] = driver.take(Transmit)
    assert len(effect.frame) <= 65_536 + 1_024


# --- subscriptions


def test_after_a_reconnect_the_subscriptions_are_replayed_in_order_and_told() -> None:
    driver = SessionDriver().connected().subscribed("a")
    driver.ack(driver.subscribe("b", include=True))
    driver.reconnect()
    assert driver.written == [
        {"type": "subscribe", "channel": "a", "requestId": "3", "recover": True},
        {"type": "subscribe", "channel": "b", "includeSenderMetadata": True, "requestId": "4", "recover": True},
    ]
    assert driver.effects.index(Emit(driver.events[0])) < driver.effects.index(driver.take(Transmit)[0])
    driver.ack("4")
    driver.ack("3")
    assert driver.events[1:] == [Resubscribed("b"), Resubscribed("a")]
    assert driver.outcomes == {}


def test_without_auto_resubscribe_nothing_is_replayed() -> None:
    driver = SessionDriver(auto_resubscribe=False).connected().subscribed("a").reconnect()
    assert driver.written == []


def test_a_refused_subscription_is_not_remembered() -> None:
    driver = SessionDriver().connected().subscribed("b")
    driver.refuse(driver.subscribe("a"))
    assert driver.session.subscriptions == ("b",)
    driver.reconnect()
    assert [frame["channel"] for frame in driver.written] == ["b"]


def test_a_refused_change_of_options_leaves_the_old_ones() -> None:
    driver = SessionDriver().connected().subscribed("a")
    driver.refuse(driver.subscribe("a", include=True))
    driver.reconnect()
    assert driver.written == [{"type": "subscribe", "channel": "a", "requestId": "3", "recover": True}]


def test_of_two_pipelined_subscribes_the_accepted_one_counts() -> None:
    driver = SessionDriver().connected()
    first, second = driver.subscribe("a", include=True), driver.subscribe("a")
    driver.ack(first)
    driver.refuse(second)
    driver.reconnect()
    assert driver.written[0]["includeSenderMetadata"] is True


@pytest.mark.parametrize("fate", ["timeout", "drop", "abandoned"])
def test_a_subscribe_without_an_answer_is_remembered(fate: str) -> None:
    driver = SessionDriver().connected()
    request_id = driver.subscribe("a")
    if fate == "timeout":
        driver.advance(15)
    if fate == "abandoned":
        driver.session.abandon(request_id)
        driver.ack(request_id)
    driver.reconnect()
    assert [frame["channel"] for frame in driver.written] == ["a"]


def test_unsubscribe_forgets_even_when_it_cannot_be_sent() -> None:
    driver = SessionDriver().connected().subscribed("a", "b")
    driver.unsubscribe("a")
    driver.ended()
    with pytest.raises(NotConnectedError):
        driver.unsubscribe("b")
    assert driver.session.subscriptions == ()


def test_an_unsubscribe_that_overtakes_the_answer_to_a_subscribe_wins() -> None:
    driver = SessionDriver().connected()
    request_id = driver.subscribe("a")
    driver.unsubscribe("a")
    driver.ack(request_id)
    assert driver.session.subscriptions == ()


def test_close_clears_the_memory() -> None:
    driver = SessionDriver().connected().subscribed("a")
    driver.close()
    driver.connected().reconnect()
    assert driver.written == []


def test_a_new_connect_after_a_terminal_end_revives_no_old_channel() -> None:
    driver = SessionDriver().connected().subscribed("a")
    driver.ended(4001)
    assert driver.session.subscriptions == ("a",)
    driver.connected().reconnect()
    assert driver.written == []


def test_a_refused_replay_is_tried_three_more_times_and_then_told_as_lost() -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    for _ in range(3):
        driver.refuse(driver.written[-1]["requestId"])
        tried = len(driver.written)
        driver.advance(1.9)
        assert len(driver.written) == tried
        driver.advance(0.1)
        assert len(driver.written) == tried + 1
    driver.refuse(driver.written[-1]["requestId"])
    driver.advance(10)
    assert len(driver.written) == 4
    lost = driver.events[-1]
    assert isinstance(lost, SubscriptionLost)
    assert isinstance(lost.err, ServerRequestError)
    assert (lost.channel, lost.err.code) == ("a", "channel_not_authorized")
    driver.reconnect()
    assert [frame["channel"] for frame in driver.written] == ["a"]


@pytest.mark.parametrize("code", ["backend_error", "internal_error"])
@pytest.mark.parametrize(("chance", "intervals"), [(0.0, [2, 4, 8, 16, 16, 16]), (1.0, [1, 2, 4, 8, 8, 8])])
def test_a_replay_that_the_server_cannot_serve_is_repeated_until_it_can(
    code: str, chance: float, intervals: list[float]
) -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    driver.chance = chance
    for interval in intervals:
        driver.refuse(driver.written[-1]["requestId"], code)
        assert driver.session.next_deadline == driver.now + interval
        driver.advance(interval)
    assert len(driver.written) == 1 + len(intervals)
    driver.ack(driver.written[-1]["requestId"])
    assert driver.events[1:] == [Resubscribed("a")]
    assert driver.session.next_deadline == math.inf


def test_a_subscribe_of_the_program_that_fails_in_an_outage_ends_no_replay() -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    driver.chance = 0.0
    driver.refuse(driver.written[-1]["requestId"], "backend_error")
    driver.refuse(driver.subscribe("a"), "backend_error")
    tried = len(driver.written)
    driver.advance(2)
    assert len(driver.written) == tried + 1
    driver.ack(driver.written[-1]["requestId"])
    assert driver.events[-1] == Resubscribed("a")


def test_refusals_in_an_outage_of_the_server_still_end_a_replay() -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    for code in ["backend_error", "x", "backend_error", "x", "backend_error", "x", "backend_error", "x"]:
        driver.refuse(driver.written[-1]["requestId"], code)
        driver.advance(16)
    assert isinstance(driver.events[-1], SubscriptionLost)
    tried = len(driver.written)
    driver.advance(60)
    assert len(driver.written) == tried == 8


def test_an_unanswered_replay_is_tried_again() -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    driver.advance(17)
    assert len(driver.written) == 2
    driver.ack(driver.written[-1]["requestId"])
    assert driver.events[-1] == Resubscribed("a")


@pytest.mark.parametrize("code", ["channel_not_authorized", "backend_error"])
@pytest.mark.parametrize("decision", ["unsubscribe", "subscribe", "loss"])
def test_a_retry_is_dropped_when_something_newer_decides_about_the_channel(decision: str, code: str) -> None:
    driver = SessionDriver().connected().subscribed("a").reconnect()
    driver.refuse(driver.written[-1]["requestId"], code)
    driver.effects.clear()
    if decision == "unsubscribe":
        driver.ack(driver.unsubscribe("a"))
    elif decision == "subscribe":
        driver.ack(driver.subscribe("a"))
    else:
        driver.ended()
    driver.effects.clear()
    driver.advance(0.9 if decision == "loss" else 10)
    assert driver.written == []


# --- the queue


def test_publishes_and_sends_wait_for_the_connection_up_to_the_limit_and_follow_the_replays() -> None:
    driver = SessionDriver(queue_limit=2).connected().subscribed("a")
    driver.ended()
    first, second = driver.publish("a", 1), driver.send("bob", 2)
    with pytest.raises(NotConnectedError):
        driver.publish("a", 3)
    with pytest.raises(NotConnectedError):
        driver.subscribe("b")
    driver.advance(1)
    driver.opened()
    driver.effects.clear()
    driver.welcome()
    later = driver.publish("a", 4)
    assert [frame["type"] for frame in driver.written] == ["subscribe", "publish", "send", "publish"]
    assert [frame["requestId"] for frame in driver.written[1:]] == [first, second, later]
    driver.ack(second)
    assert driver.outcomes == {second: None}


def test_the_time_in_the_queue_does_not_count_as_waiting_for_an_answer() -> None:
    options = ReconnectOptions(initial_delay=100, max_delay=100, jitter_ratio=0)
    driver = SessionDriver(queue_limit=1, reconnect=options).connected()
    driver.ended()
    request_id = driver.publish()
    driver.advance(100)
    driver.opened()
    driver.welcome()
    driver.advance(14)
    assert driver.outcomes == {}
    driver.ack(request_id)
    assert driver.outcomes == {request_id: None}


@pytest.mark.parametrize("end", ["close", "terminal", "give up"])
def test_queued_requests_fail_when_the_client_ends(end: str) -> None:
    driver = SessionDriver(queue_limit=1, reconnect=ReconnectOptions(max_attempts=1)).connected()
    driver.ended()
    request_id = driver.publish()
    if end == "close":
        driver.close()
    else:
        driver.advance(1)
        if end == "terminal":
            driver.opened()
            driver.ended(4001)
        else:
            driver.dial_failed()
    assert isinstance(driver.outcomes[request_id], DisconnectedError)
    assert driver.session.pending_requests == 0


def test_a_queued_request_whose_caller_is_gone_is_not_sent() -> None:
    driver = SessionDriver(queue_limit=1).connected()
    driver.ended()
    driver.session.abandon(driver.publish())
    driver.publish("a", "the place is free again")
    driver.advance(1)
    driver.opened()
    driver.welcome()
    assert [frame["data"] for frame in driver.written] == ["the place is free again"]


def test_a_queued_payload_that_the_new_connection_does_not_take_fails_alone() -> None:
    driver = SessionDriver(queue_limit=2).connected()
    driver.ended()
    large, small = driver.publish("a", "x" * 50), driver.publish("a", "x")
    driver.advance(1)
    driver.opened()
    driver.welcome(maxMessageSize=20)
    assert isinstance(driver.outcomes[large], PayloadTooLargeError)
    assert [frame["requestId"] for frame in driver.written] == [small]


# --- frames and the end


def test_frames_become_events() -> None:
    driver = SessionDriver().connected()
    driver.receive({"type": "message", "channel": "a", "from": "bob", "data": None, "fromMetadata": {"role": "host"}})
    driver.receive({"type": "direct", "from": "bob", "data": [1], "fromMetadata": 7})
    driver.receive(
        {
            "type": "presence",
            "channel": "a",
            "joined": [{"peerId": "bob", "metadata": {"n": 1}}],
            "left": [{"peerId": "eve"}],
        }
    )
    assert driver.events == [
        Message("a", "bob", None, {"role": "host"}),
        Direct("bob", [1], None),
        Presence("a", (PresencePeer("bob", {"n": 1}),), (PresencePeer("eve"),)),
    ]


@pytest.mark.parametrize(
    ("servers", "parsed"),
    [
        ([], ()),
        ([{"urls": "stun:s"}], (IceServerConfig("stun:s"),)),
        (
            [{"urls": ["TURN:t", "turns:t"], "username": "u", "credential": "c"}],
            (IceServerConfig(["TURN:t", "turns:t"], "u", "c"),),
        ),
        ([{"urls": "stun:s", "username": 5, "credential": None}], (IceServerConfig("stun:s"),)),
        ([{"urls": "stun:s"}, {"urls": "http://s"}], None),
        ([{"urls": []}], None),
        ([{"urls": "stun:" + "x" * 508}], None),
        ([{"urls": "stun:s", "credential": "x" * 1025}], None),
        ([{"urls": "stun:s"}] * 17, None),
        ([{"urls": ["stun:s"] * 16}] * 2, (IceServerConfig(["stun:s"] * 16),) * 2),
        ([{"urls": ["stun:s"] * 16}, {"urls": ["stun:s"] * 17}], None),
        ({"urls": "stun:s"}, None),
        (["stun:s"], None),
        (None, None),
    ],
)
def test_ice_servers_of_the_welcome_are_taken_all_or_not_at_all(servers: Any, parsed: Any) -> None:
    driver = SessionDriver().connected(metadata={"iceServers": servers})
    assert driver.session.ice_servers == parsed


@pytest.mark.parametrize("servers", [[{"urls": ["stun:s"] * 2_000}], "x"])
def test_ice_servers_that_are_not_taken_are_logged(servers: Any) -> None:
    driver = SessionDriver().connected(metadata={"iceServers": servers})
    driver.reconnect(metadata={"iceServers": servers})
    assert [effect.level for effect in driver.take(Log)] == ["warning"]
    driver.reconnect(metadata={"other": 1})
    assert driver.take(Log) == []


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (None, (IceServerConfig("stun:s"),)),
        ({"iceServers": "x"}, (IceServerConfig("stun:s"),)),
        ({"iceServers": []}, ()),
    ],
)
def test_ice_servers_stay_over_a_reconnect_unless_the_welcome_names_others(metadata: Any, kept: Any) -> None:
    driver = SessionDriver().connected(metadata={"iceServers": [{"urls": "stun:s"}]})
    driver.reconnect(metadata=metadata)
    assert driver.session.ice_servers == kept
    [told] = [event for event in driver.events if isinstance(event, Connected)]
    assert told.ice_servers == parse_ice_servers(metadata)


@pytest.mark.parametrize("state", ["idle", "connecting", "connected", "reconnecting"])
def test_close_ends_in_one_state_change_whatever_was_going_on(state: str) -> None:
    driver = SessionDriver()
    if state != "idle":
        driver.connect()
    if state in ("connected", "reconnecting"):
        driver.opened()
        driver.welcome()
    if state == "reconnecting":
        driver.ended()
    driver.effects.clear()
    driver.close()
    driver.close()
    driver.advance(100)
    assert driver.states == ["closed"]
    assert driver.events == []
    assert len(driver.take(FinishConnect)) == (state == "connecting")
    assert driver.dials == 0


def test_what_a_dead_socket_still_says_is_ignored() -> None:
    driver = SessionDriver().connected()
    driver.close()
    driver.effects.clear()
    driver.receive({"type": "direct", "from": "bob", "data": 1})
    driver.opened()
    driver.ended()
    driver.dial_failed()
    driver.tick()
    assert driver.effects == []


def test_a_second_life_counts_as_a_first_connection() -> None:
    driver = SessionDriver(reconnect=STEADY).connected()
    driver.close()
    driver.connect()
    driver.opened()
    driver.welcome()
    [connected] = [event for event in driver.events if isinstance(event, Connected)]
    assert connected.is_reconnect is False
