"""The refreshes of a client's token on its live connection: fetched, asked for, answered, tried again.

When one is due is up to `Renewal`. Failures of the token provider are counted here over all connections, whether it
was asked for a refresh or for an attempt to connect: it is the same provider.
"""

from __future__ import annotations

from ...errors import ServerRequestError
from ...events import TokenProviderError
from ..wire import frames
from .effects import Effects, Emit, FetchToken, Log
from .exchange import Exchange
from .renewal import Renewal

UNKNOWN = "the server knows no refresh"

TOKEN_FAILURES_TO_REPORT = 3
"""Consecutive failures of the token provider from which on the program is told: one may be a hiccup."""


class Refreshes:
    """Keeps the token of one connection at a time fresh."""

    def __init__(self, exchange: Exchange, *, enabled: bool, spread: float) -> None:
        self._exchange = exchange
        self._renewal = Renewal(enabled=enabled, spread=spread)
        self._failures = 0

    @property
    def due_at(self) -> float:
        """When `fetch` is due."""
        return self._renewal.due_at

    def start(self, expires_at: int | None, server_time: int, now: float) -> None:
        """Begin with a new connection and what its welcome said."""
        self._renewal.start(expires_at, server_time, now)

    def stop(self) -> None:
        """Plan nothing more for this connection."""
        self._renewal.stop()

    def fetch(self) -> Effects:
        """Ask for a token."""
        return [FetchToken(self._renewal.fetch())]

    def fetched(self, number: int, token: str, now: float) -> Effects:
        """Take the token that a `FetchToken` asked for."""
        if number != self._renewal.fetching:
            return []
        asked = self._exchange.refresh(token, now)
        if asked is None:
            return self._give_up("the token is too large for a frame")
        request_id, effects = asked
        self._renewal.ask(request_id)
        return effects

    def not_fetched(self, number: int, error: Exception, now: float) -> Effects:
        """Note that a `FetchToken` could not be carried out."""
        return [] if number != self._renewal.fetching else self.fail(error, now)

    # --- the server's answer

    def asked(self, request_id: str | None) -> bool:
        """Tell whether it is the request that is under way."""
        return request_id is not None and request_id == self._renewal.asking

    def acknowledge(self, frame: frames.Ack, now: float) -> bool:
        """Note the server's consent. False if nothing was won by it."""
        self._exchange.take(frame.request_id)
        if not self._renewal.succeed(frame.expires_at, now):
            return False
        self.forgive()
        return True

    def refuse(self, frame: frames.ErrorFrame, now: float) -> Effects:
        """Note the server's refusal."""
        self._exchange.take(frame.request_id)
        if frame.code == "unknown_type":
            return self._give_up(UNKNOWN)
        return self.fail(ServerRequestError(frame.code, frame.message, frame.request_id), now)

    def meet_unknown_type(self) -> Effects:
        """Note that the server does not know some frame: old ones say so of the heartbeat, and perhaps of a refresh."""
        return self._give_up(UNKNOWN) if self._exchange.take(self._renewal.asking) else []

    # --- failures

    def fail(self, error: Exception, now: float) -> Effects:
        """Note a refresh that failed, and try again if there is time."""
        return [*self.retry(type(error).__name__, now), *self.count_failure(error)]

    def count_failure(self, error: Exception | None) -> Effects:
        """Count a failure of the token provider, or that it has done its part."""
        if error is None:
            self.forgive()
            return []
        self._failures += 1
        if self._failures < TOKEN_FAILURES_TO_REPORT:
            return []
        return [Emit(TokenProviderError(self._failures, error))]

    def forgive(self) -> None:
        """Count from the beginning."""
        self._failures = 0

    def retry(self, reason: str, now: float) -> Effects:
        """Try again, if there is time."""
        if self._renewal.fail(now):
            return [Log("debug", "token refresh failed, it will be tried again", {"reason": reason})]
        return [Log("warning", "token refresh given up", {"reason": reason})]

    def _give_up(self, reason: str) -> Effects:
        """Let the connection end with its token: the server's 4002 is followed by a reconnect with a fresh one."""
        self._renewal.stop()
        return [Log("info", "token refresh given up", {"reason": reason})]
