"""What ends a peer, or may: codes of `FatalError`."""

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
"""Ends that the server gave a reason for."""

FATAL_ERROR_CODES = frozenset(
    {"account_suspended", "channel_not_authorized", "action_not_permitted", "invalid_token", "token_expired"}
)
"""Errors that are fatal when the server sends them without being asked. Those of a request are raised there."""


def code_of_close(code: int) -> str:
    """Return what it was that ended the connection for good: `reconnect_exhausted` if the server did not say."""
    return _CLOSE_CODES.get(code, "reconnect_exhausted")
