"""What endpoints decide: refusals, links, preconditions and places."""

from __future__ import annotations

import pytest

from metered_realtime import IceServerConfig
from metered_realtime.core.endpoints.links import MAX_LINKS, links
from metered_realtime.core.endpoints.places import Places
from metered_realtime.core.endpoints.preconditions import is_restart
from metered_realtime.core.endpoints.refusals import (
    TITLES,
    RefusedRequestError,
    refusal_of_connection,
    refusal_of_request,
)


@pytest.mark.parametrize(
    ("close_code", "http_status", "code", "retry"),
    [
        (4001, None, "credential_refused", None),
        (4002, None, "credential_refused", None),
        (4003, None, "not_permitted", None),
        (4012, None, "not_permitted", None),
        (4010, None, "server_unreachable", 30),
        (1006, 429, "server_unreachable", 30),
        (1006, 500, "server_unreachable", None),
        (1006, None, "server_unreachable", None),
    ],
)
def test_a_refused_connection_has_a_status(
    close_code: int, http_status: int | None, code: str, retry: int | None
) -> None:
    refusal = refusal_of_connection(close_code, http_status, "why")
    assert (refusal.code, refusal.retry_after) == (code, retry)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("channel_not_authorized", "not_permitted"),
        ("action_not_permitted", "not_permitted"),
        ("channel_limit_exceeded", "server_unreachable"),
    ],
)
def test_a_refused_request_has_a_status(error: str, code: str) -> None:
    assert refusal_of_request(error, "why").code == code


@pytest.mark.parametrize("code", TITLES)
def test_a_refusal_is_a_problem_document(code: str) -> None:
    refusal = RefusedRequestError(code, "a reason")
    assert refusal.body() == {
        "type": "about:blank",
        "title": TITLES[code][1],
        "status": TITLES[code][0],
        "code": code,
        "detail": "a reason",
    }
    assert "detail" not in RefusedRequestError(code).body()
    assert 400 <= refusal.status < 600


def test_ice_servers_become_links() -> None:
    turn = IceServerConfig(["turn:a.example?transport=udp", "turns:a.example"], "user", 'pass"word\\')
    assert links([IceServerConfig("stun:a.example"), turn]) == [
        '<stun:a.example>; rel="ice-server"',
        '<turn:a.example?transport=udp>; rel="ice-server"; username="user"; credential="pass\\"word\\\\"; '
        'credential-type="password"',
        '<turns:a.example>; rel="ice-server"; username="user"; credential="pass\\"word\\\\"; '
        'credential-type="password"',
    ]


def test_links_hold_nothing_that_breaks_a_header_and_are_bounded() -> None:
    assert links([IceServerConfig("stun:a>\r\nX: y")]) == []
    assert "\n" not in links([IceServerConfig("turn:a", "us\r\ner", "b")])[0]
    assert len(links([IceServerConfig([f"stun:{number}" for number in range(50)])])) == MAX_LINKS


@pytest.mark.parametrize(
    ("if_match", "ufrag", "restarts"),
    [
        ('"1"', None, False),
        ('"1"', "same", False),
        ('"0", "1"', None, False),
        ("*", "same", False),
        ("*", "other", True),
        ('"1"', "other", True),
        (None, "same", False),
    ],
)
def test_a_fragment_for_the_current_ice_session_is_taken(
    if_match: str | None, ufrag: str | None, restarts: bool
) -> None:
    assert is_restart(if_match, ufrag, "same", '"1"') is restarts


@pytest.mark.parametrize(
    ("if_match", "ufrag", "status"), [(None, None, 428), (None, "other", 428), ('"0"', None, 412), ('"0"', "same", 412)]
)
def test_a_fragment_for_another_ice_session_is_refused(if_match: str | None, ufrag: str | None, status: int) -> None:
    with pytest.raises(RefusedRequestError) as refused:
        is_restart(if_match, ufrag, "same", '"1"')
    assert refused.value.status == status


def test_places_are_bounded_in_all_and_for_each_address() -> None:
    places = Places(3, 2)
    places.take("a")
    places.take("a")
    with pytest.raises(RefusedRequestError, match="2 of one address"):
        places.take("a")
    places.take("b")
    with pytest.raises(RefusedRequestError, match="3 in all"):
        places.take("c")
    places.give_back("a")
    places.take("c")
    assert places.taken == 3
