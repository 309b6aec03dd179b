"""The resume token, in virtual time."""

from __future__ import annotations

import pytest

from .driver import SessionDriver


def test_the_token_is_held_from_the_welcome_on_and_replaced_by_the_next() -> None:
    driver = SessionDriver()
    assert driver.session.resume_token is None
    driver.connected(resumeToken="one")
    assert driver.session.resume_token == "one"
    driver.ended()
    assert driver.session.resume_token == "one"
    driver.advance(driver.session.next_deadline - driver.now)
    driver.opened()
    driver.welcome(resumeToken="two")
    assert driver.session.resume_token == "two"


def test_the_token_is_replaced_by_the_one_of_a_resume_frame() -> None:
    driver = SessionDriver().connected(resumeToken="one")
    driver.receive({"type": "resume", "resumeToken": "two"})
    assert driver.session.resume_token == "two"
    driver.receive({"type": "resume", "resumeToken": 7})
    assert driver.session.resume_token == "two"
    assert driver.events == []


@pytest.mark.parametrize("token", [None, "", 7, ["x"], "x" * 1_025, "é", "a\nb"])
def test_the_token_is_none_without_one_that_can_be_used(token: object) -> None:
    driver = SessionDriver().connected(resumeToken="one").reconnect(resumeToken=token)
    assert driver.session.resume_token is None
    assert driver.session.state == "connected"


def test_the_token_survives_attempts_that_fail() -> None:
    driver = SessionDriver().connected(resumeToken="one")
    driver.ended()
    driver.advance(driver.session.next_deadline - driver.now)
    driver.dial_failed()
    driver.advance(driver.session.next_deadline - driver.now)
    driver.opened()
    driver.ended(1006)
    assert driver.session.resume_token == "one"


def test_the_token_is_forgotten_when_another_connection_used_it() -> None:
    driver = SessionDriver().connected(resumeToken="one")
    driver.ended(4002, "resumed by another connection")
    assert driver.session.resume_token is None
    assert driver.session.state == "reconnecting"


def test_the_token_is_forgotten_by_close() -> None:
    driver = SessionDriver().connected(resumeToken="one")
    driver.close()
    assert driver.session.resume_token is None


def test_the_token_is_forgotten_by_a_connect_after_the_server_ended_it() -> None:
    driver = SessionDriver().connected(resumeToken="one")
    driver.ended(4020)
    driver.connect()
    assert driver.session.resume_token is None


def test_the_token_is_in_no_repr_and_no_attribute() -> None:
    driver = SessionDriver().connected(resumeToken="t0ken").reconnect(resumeToken="t0ken")
    assert "t0ken" not in repr(vars(driver.session)) + repr(driver.effects)
