"""What the end of a connection means: whether another attempt can help, and the code of a `FatalError`."""

from __future__ import annotations

from ...errors import TokenExpiredError
from ...events import WsCloseCode

TERMINAL_CODES = frozenset({4001, 4003, 4012, 4020})
"""Close codes after which the same credential cannot succeed, or must not."""

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


class CloseRules:
    """What close codes mean to one client. `token_is_fixed`: it has one token, and no way to get another."""

    def __init__(self, *, token_is_fixed: bool) -> None:
        self._token_is_fixed = token_is_fixed

    def is_final(self, code: int) -> bool:
        """Return whether another attempt cannot succeed, or must not be made."""
        return code in TERMINAL_CODES or self._is_expiry(code)

    def error(self, code: int, reason: str) -> TokenExpiredError | None:
        """Return the error of a token that has expired and cannot be replaced, None for any other end."""
        return TokenExpiredError(code, reason) if self._is_expiry(code) else None

    def _is_expiry(self, code: int) -> bool:
        return self._token_is_fixed and code == WsCloseCode.TOKEN_EXPIRED


def code_of_close(code: int) -> str:
    """Return the code for a connection that ended for good: `reconnect_exhausted` if the server gave no reason."""
    return _CLOSE_CODES.get(code, "reconnect_exhausted")
