"""The permission of a peer to signal: without it there are no calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..core.negotiation.delivery import NOT_PERMITTED
from ..errors import ServerRequestError
from ..events import FatalError

if TYPE_CHECKING:
    from ..connection.remote_connection import RemoteConnection
    from .remote_peer import RemotePeer

ADVICE = (
    "this key or token lacks the action `send`, without which there are no calls: "
    "`metered-realtime keys create --for calls` makes a key that has it"
)


class CallPermission:
    """Reports refused signals once for each connection to the server, and stops all further ones.

    Attributes:
        is_refused: Whether the server has refused a signal since the last token or connection.
    """

    def __init__(
        self,
        emit: Callable[[FatalError], None],
        is_heard: Callable[[type[FatalError]], bool],
        remotes: Iterable[RemotePeer],
    ) -> None:
        self.is_refused = False
        self._emit = emit
        self._is_heard = is_heard
        self._remotes = remotes

    def refuse(self, refusal: ServerRequestError) -> None:
        """Report, once, that a signal was refused."""
        if self.is_refused:
            return
        self.is_refused = True
        for connection in self._connections():
            connection.set_reachable(False)
        error = ServerRequestError(NOT_PERMITTED, ADVICE, refusal.request_id)
        error.__cause__ = refusal
        if not self._is_heard(FatalError):
            logging.getLogger("metered_realtime").error("%s", error)
        self._emit(FatalError(error, NOT_PERMITTED))

    def ask_again(self, *, is_reachable: bool) -> None:
        """Signal again: there is another connection to the server, or another token."""
        if not self.is_refused:
            return
        self.is_refused = False
        if is_reachable:
            for connection in self._connections():
                connection.set_reachable(True)

    def _connections(self) -> list[RemoteConnection]:
        return [remote._connection for remote in self._remotes if remote._connection is not None]
