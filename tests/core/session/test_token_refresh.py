"""Token refreshes on a live connection, in virtual time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from metered_realtime.core.session.effects import HangUp, Transmit
from metered_realtime.core.session.renewal import MAX_MARGIN, RETRIES, SLACK
from metered_realtime.core.wire.frames import Refresh
from metered_realtime.errors import ServerRequestError
from metered_realtime.events import Disconnected, TokenProviderError, TokenRefreshed
from metered_realtime.options import IceServerConfig

from .driver import SessionDriver

SERVER_TIME = 1_800_000_000
HOUR = 3_600


def refreshing(lifetime: int = HOUR, **options: Any) -> SessionDriver:
    """Connect with a token of this lifetime in seconds."""
    options.setdefault("refresh_tokens", True)
    return SessionDriver(**options).connected(serverTime=SERVER_TIME, expiresAt=SERVER_TIME + lifetime)


def until_fetch(driver: SessionDriver) -> float:
    """Let time pass until a token is fetched. Return the seconds."""
    before = driver.now
    fetches = len(driver.fetches)
    while len(driver.fetches) == fetches:
        assert driver.session.next_deadline < math.inf
        driver.advance(driver.session.next_deadline - driver.now)
    return driver.now - before


def consent(driver: SessionDriver, expires_at: int | None, **fields: Any) -> None:
    driver.receive({"type": "ack", "requestId": driver.written[-1]["requestId"], "expiresAt": expires_at, **fields})


@pytest.mark.parametrize(
    ("lifetime", "spread", "margin"), [(HOUR, 0, MAX_MARGIN), (HOUR, 1, 1.5 * MAX_MARGIN), (31, 0, (31 - SLACK) / 3)]
)
def test_a_token_is_wanted_a_margin_before_the_old_one_ends(lifetime: int, spread: float, margin: float) -> None:
    driver = refreshing(lifetime, spread=spread)
    assert until_fetch(driver) == pytest.approx(lifetime - SLACK - margin)


def test_the_token_travels_in_a_frame_and_the_next_refresh_is_planned_by_the_answer() -> None:
    driver = refreshing()
    passed = until_fetch(driver)
    driver.token_fetched("t0ken")
    assert driver.written[-1] == {"type": "refresh", "token": "t0ken", "requestId": "1"}
    consent(driver, SERVER_TIME + 2 * HOUR)
    assert driver.events == [TokenRefreshed(SERVER_TIME + 2 * HOUR)]
    assert until_fetch(driver) == pytest.approx(2 * HOUR - passed - SLACK - MAX_MARGIN)
    assert driver.take(HangUp) == []


def test_ice_servers_that_come_with_the_answer_replace_the_old_ones() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    servers = (IceServerConfig("turn:relay.example", "ann", "s"),)
    listed = [{"urls": "turn:relay.example", "username": "ann", "credential": "s"}]
    consent(driver, SERVER_TIME + 2 * HOUR, metadata={"iceServers": listed})
    assert driver.events == [TokenRefreshed(SERVER_TIME + 2 * HOUR, servers)]
    assert driver.session.ice_servers == servers


def test_an_answer_without_an_expiry_ends_the_planning() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.ack("1")
    assert driver.events == [TokenRefreshed(None)]
    assert driver.session.next_deadline == math.inf


@pytest.mark.parametrize(
    "welcome", [{"expiresAt": None}, {"expiresAt": SERVER_TIME}, {"expiresAt": 10**400}, {"expiresAt": -(10**400)}]
)
def test_a_token_that_ends_never_or_already_is_left_alone(welcome: dict[str, Any]) -> None:
    driver = SessionDriver(refresh_tokens=True).connected(serverTime=SERVER_TIME, **welcome)
    assert driver.session.next_deadline == math.inf


def test_without_a_provider_nothing_is_planned() -> None:
    assert refreshing(refresh_tokens=False).session.next_deadline == math.inf


def test_failures_are_tried_again_told_from_the_third_and_not_for_ever() -> None:
    driver = refreshing()
    until_fetch(driver)
    waits = []
    for _ in range(RETRIES):
        driver.token_failed()
        waits.append(until_fetch(driver))
    driver.token_failed()
    assert waits == pytest.approx([30, 15, 7.5, 3.75])
    assert [event.consecutive_failures for event in driver.events] == [3, 4, 5]  # type: ignore[attr-defined]
    assert driver.session.next_deadline == math.inf
    assert driver.session.state == "connected"


def test_a_success_forgets_the_failures() -> None:
    driver = refreshing()
    for _ in range(2):
        until_fetch(driver)
        driver.token_failed()
        driver.advance(driver.session.next_deadline - driver.now)
        driver.token_failed()
        until_fetch(driver)
        driver.token_fetched()
        consent(driver, SERVER_TIME + HOUR + int(driver.now))
    assert [type(event) for event in driver.events] == [TokenRefreshed, TokenRefreshed]


def test_a_refusal_and_silence_count_as_failures() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.refuse("1", "action_not_permitted")
    until_fetch(driver)
    driver.token_fetched()
    until_fetch(driver)  # 15 s without an answer later
    driver.token_fetched()
    driver.refuse("3", "invalid_peer_id")
    (told,) = driver.events
    assert isinstance(told, TokenProviderError)
    assert told.consecutive_failures == 3
    assert isinstance(told.err, ServerRequestError)
    assert (told.err.code, told.err.request_id) == ("invalid_peer_id", "3")
    assert driver.outcomes == {}


def test_a_late_answer_to_a_refresh_that_timed_out_changes_nothing() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.advance(15)
    due = driver.session.next_deadline
    driver.receive({"type": "ack", "requestId": "1", "expiresAt": SERVER_TIME + 2 * HOUR})
    assert (driver.events, driver.session.next_deadline) == ([], due)


def test_a_provider_that_still_hands_out_the_old_token_is_asked_again_later_and_not_blamed() -> None:
    driver = refreshing()
    until_fetch(driver)
    for wait in (30, 15, 7.5, 3.75):
        driver.token_fetched()
        consent(driver, SERVER_TIME + HOUR)
        assert until_fetch(driver) == pytest.approx(wait)
    driver.token_fetched()
    consent(driver, SERVER_TIME + HOUR)
    assert (driver.events, driver.session.next_deadline) == ([], math.inf)


def test_no_try_comes_after_the_end_of_the_token() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.advance(MAX_MARGIN + 1)  # the provider takes its time
    driver.token_failed()
    assert driver.session.next_deadline == math.inf


@pytest.mark.parametrize("request_id", ["1", None])
def test_a_server_that_knows_no_refresh_is_not_asked_again(request_id: str | None) -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.refuse(request_id, "unknown_type")
    assert (driver.events, driver.session.pending_requests) == ([], 0)
    assert driver.session.next_deadline == math.inf
    driver.ended(4002, "token expired")
    assert driver.events[0] == Disconnected(4002, "token expired", True)
    assert driver.session.state == "reconnecting"


def test_the_next_connection_is_refreshed_again() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.refuse("1", "unknown_type")
    driver.reconnect(serverTime=SERVER_TIME, expiresAt=SERVER_TIME + HOUR)
    assert until_fetch(driver) == pytest.approx(HOUR - SLACK - MAX_MARGIN)


def test_what_a_fetch_reports_after_its_connection_ended_is_ignored() -> None:
    driver = refreshing()
    until_fetch(driver)
    stale = driver.fetches[-1]
    driver.reconnect(serverTime=SERVER_TIME, expiresAt=SERVER_TIME + HOUR)
    driver.effects.clear()
    assert driver.session.token_fetched(stale, "old", driver.now) == []
    assert driver.session.token_failed(stale, OSError(), driver.now) == []


@pytest.mark.parametrize("failed", [False, True])
def test_what_a_fetch_reports_without_a_connection_is_ignored(failed: bool) -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.ended()
    before = len(driver.effects)
    driver.token_failed() if failed else driver.token_fetched()
    assert (driver.effects[before:], driver.session.pending_requests) == ([], 0)


def test_a_refresh_under_way_when_the_connection_ends_settles_nothing() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched()
    driver.ended()
    assert driver.outcomes == {}
    assert driver.session.pending_requests == 0


def test_a_token_too_large_for_a_frame_is_not_sent() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched("x" * 65_536)
    assert driver.take(Transmit) == []
    assert driver.session.next_deadline == math.inf


def test_nothing_but_the_frame_holds_the_token() -> None:
    driver = refreshing()
    until_fetch(driver)
    driver.token_fetched("s3cret")
    driver.refuse("1", "action_not_permitted")
    assert "s3cret" not in repr([effect for effect in driver.effects if not isinstance(effect, Transmit)])
    assert "s3cret" not in repr(Refresh("s3cret", "1"))


def test_a_silent_server_ends_the_refresh_with_the_connection() -> None:
    driver = refreshing(inactivity_timeout=20)
    driver.advance(20)
    assert driver.fetches == []
    assert driver.session.state == "reconnecting"
