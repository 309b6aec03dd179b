"""The token with which a client comes back as the peer that it was. It is a credential: nothing here shows it."""

from __future__ import annotations

from ...events import WsCloseCode

RESUMED_ELSEWHERE = WsCloseCode.TOKEN_EXPIRED
"""How a server ends a connection whose resume token another one has come with."""


class Resumption:
    """Holds the resume token that a server gave last, within one life of a client."""

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token: str | None = None

    def __repr__(self) -> str:
        return f"<Resumption {'held' if self.token is not None else 'none'}>"

    def hold(self, token: str | None) -> None:
        """Use this token from now on. None: the server has none to give."""
        self.token = token

    def forget(self) -> None:
        """Come back as somebody new."""
        self.token = None

    def note_end(self, code: int) -> None:
        """Forget a token that another connection goes on with, or the two would evict each other for ever."""
        if code == RESUMED_ELSEWHERE:
            self.forget()
