"""The resume token, with which a client reconnects under its former peer id. It is a credential and is never shown."""

from __future__ import annotations

from ...events import WsCloseCode

RESUMED_ELSEWHERE = WsCloseCode.TOKEN_EXPIRED
"""The close of a connection whose resume token another connection has used."""


class Resumption:
    """Holds the latest resume token, from one `connect()` of a client to its end."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: str | None = None

    def __repr__(self) -> str:
        return f"<Resumption {'held' if self.token is not None else 'none'}>"

    def replace_token(self, token: str | None) -> None:
        """Replace the token. None if the server issues none."""
        self.token = token

    def forget(self) -> None:
        """Forget the token: the next connection gets a new peer id."""
        self.token = None

    def record_end(self, code: int) -> None:
        """Forget a token that another connection uses now. Otherwise the two would evict each other for ever."""
        if code == RESUMED_ELSEWHERE:
            self.forget()
