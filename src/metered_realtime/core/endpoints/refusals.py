"""Refused HTTP requests, as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TITLES = {
    "credential_missing": (401, "A bearer token is needed"),
    "credential_refused": (401, "The bearer token is not accepted"),
    "not_permitted": (403, "The bearer token does not permit this"),
    "no_such_session": (404, "There is no such session"),
    "no_such_participant": (404, "There is no such participant"),
    "not_found": (404, "There is nothing here"),
    "method_not_allowed": (405, "This method is not for this resource"),
    "precondition_failed": (412, "The ICE session is another one by now"),
    "too_large": (413, "The body is too large"),
    "wrong_content_type": (415, "The body has another content type than needed"),
    "malformed_description": (400, "The body is not a session description"),
    "malformed_fragment": (400, "The body is not a fragment of a session description"),
    "malformed_request": (400, "The request has an unusable parameter"),
    "unusable_description": (422, "The session description cannot be answered"),
    "unusable_candidate": (422, "A candidate cannot be used"),
    "precondition_required": (428, "If-Match is missing"),
    "too_many_requests": (429, "Too many requests"),
    "failed": (500, "The session failed"),
    "server_unreachable": (502, "The signalling server did not admit the session"),
    "too_many_sessions": (503, "There are too many sessions"),
    "closing": (503, "The bridge is closing"),
    "timed_out": (504, "The session was not set up in time"),
}
"""HTTP status and title of each code of a refusal."""


@dataclass(eq=False)
class RefusedRequestError(Exception):
    """A request that is answered with a problem. `code` is one of `TITLES`; `detail` contains no credential."""

    code: str
    detail: str = ""
    retry_after: int | None = None
    """Seconds after which another attempt makes sense."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return TITLES[self.code][0]

    @property
    def title(self) -> str:
        """What is wrong, in general."""
        return TITLES[self.code][1]

    def body(self) -> dict[str, object]:
        """Return the members of the problem document."""
        members: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
        }
        return {**members, "detail": self.detail} if self.detail else members


_BY_CLOSE_CODE = {
    4001: "credential_refused",  # invalid
    4002: "credential_refused",  # expired
    4003: "not_permitted",  # no channel in scope
    4012: "not_permitted",  # account suspended
    4020: "not_permitted",  # disconnected by an administrator
}

BUSY_RETRY = 30
"""Seconds until another attempt after the server refused one for its own limits: it asks the same of its clients."""


def refusal_of_connection(close_code: int | None, http_status: int | None, reason: str) -> RefusedRequestError:
    """Return the refusal for a credential with which the signalling server did not admit a connection."""
    if close_code in _BY_CLOSE_CODE:
        return RefusedRequestError(_BY_CLOSE_CODE[close_code], reason)
    busy = http_status in (429, 503) or close_code in (4010, 4011, 1012, 1013)
    return RefusedRequestError("server_unreachable", reason, retry_after=BUSY_RETRY if busy else None)


def refusal_of_request(code: str, reason: str) -> RefusedRequestError:
    """Return the refusal for an error with which the signalling server answered a request."""
    denied = code in ("channel_not_authorized", "action_not_permitted", "channel_reserved")
    return RefusedRequestError("not_permitted" if denied else "server_unreachable", f"{code}: {reason}")
