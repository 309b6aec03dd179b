"""A connection that the server ends because a frame was too big (RFC 6455 section 7.4.1, 1009)."""

from __future__ import annotations

import pytest

from metered_realtime.errors import DisconnectedError, PayloadTooLargeError
from tests.core.session.driver import SessionDriver


def test_the_largest_request_is_too_large_and_the_others_are_lost() -> None:
    driver = SessionDriver().connected().subscribed("a")
    done, small, large = driver.send("bob", "x" * 900), driver.send("bob", "x"), driver.send("bob", "x" * 500)
    driver.ack(done)
    asked = driver.subscribe("b")
    driver.ended(1009)
    outcomes = driver.outcomes
    assert isinstance(outcomes[large], PayloadTooLargeError)
    assert (outcomes[large].size, outcomes[large].cap) == (502, 501)
    assert isinstance(outcomes[small], DisconnectedError)
    assert isinstance(outcomes[asked], DisconnectedError)
    assert outcomes[done] is None


@pytest.mark.parametrize("code", [1006, 1009])
def test_without_a_payload_nothing_was_too_large(code: int) -> None:
    driver = SessionDriver().connected()
    asked = driver.subscribe("b")
    driver.ended(code)
    assert isinstance(driver.outcomes[asked], DisconnectedError)
