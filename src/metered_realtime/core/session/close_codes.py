"""The codes of `FatalError`: what ends a peer, or may end it."""

from __future__ import annotations

from ...events import WsCloseCode

_CLOSE_CODES: dict[int, str] = {
    WsCloseCode.INVALID_TOKEN: "invalid_token",
    WsCloseCode.TOKEN_EXPIRED: "token_expired",
    WsCloseCode.CHANNEL_NOT_AUTHORIZED: "channel_not_authorized",
    WsCloseCode.ACCOUNT_SUSPENDED: "account_suspended",
    WsCloseCode.ADMIN_DISCONNECT: "admin_disconnect",
}

FATAL_CLOSES = frozenset(_CLOSE_CODES.values())
"""Close codes that end a peer for good, and the code of the `FatalError`."""

FATAL_ERROR_CODES = frozenset(
    {"account_suspended", "channel_not_authorized", "action_not_permitted", "invalid_token", "token_expired"}
)
"""Error codes that are fatal when the server sends them unasked. An error that answers a request is raised there."""


def code_of_close(code: int) -> str:
    """Return the code for a connection that ended for good: `reconnect_exhausted` if the server gave no reason."""
    return _CLOSE_CODES.get(code, "reconnect_exhausted")
