"""Token refreshes on a live connection: fetching, requesting, answers and retries.

`Renewal` schedules them. Failures of the token provider are counted over all connections, whether it was called for
a refresh or for a connection attempt: it is the same provider.
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
"""Consecutive failures of the token provider before `TokenProviderError` is emitted: one may be a hiccup."""


class Refreshes:
    """Refreshes the token of one connection at a time."""

    def __init__(self, exchange: Exchange, *, enabled: bool, spread: float) -> None:
        self._exchange = exchange
        self._renewal = Renewal(enabled=enabled, spread=spread)
        self._failures = 0

    @property
    def due_at(self) -> float:
        """When `fetch` is due."""
        return self._renewal.due_at

    def start(self, expires_at: int | None, server_time: int, now: float) -> None:
        """Start over for a new connection, with the times of its welcome."""
        self._renewal.start(expires_at, server_time, now)

    def stop(self) -> None:
        """Stop refreshing on this connection."""
        self._renewal.stop()

    def fetch(self) -> Effects:
        """Return the effect that fetches a token."""
        return [FetchToken(self._renewal.fetch())]

    def fetched(self, number: int, token: str, now: float) -> Effects:
        """Send the token that a `FetchToken` yielded to the server."""
        if number != self._renewal.fetching:
            return []
        asked = self._exchange.refresh(token, now)
        if asked is None:
            return self._give_up("the token is too large for a frame")
        request_id, effects = asked
        self._renewal.ask(request_id)
        return effects

    def not_fetched(self, number: int, error: Exception, now: float) -> Effects:
        """Handle a `FetchToken` that failed."""
        return [] if number != self._renewal.fetching else self.fail(error, now)

    # --- answers of the server

    def is_pending(self, request_id: str | None) -> bool:
        """Return whether this is the refresh request in progress."""
        return request_id is not None and request_id == self._renewal.asking

    def acknowledge(self, frame: frames.Ack, now: float) -> bool:
        """Handle an accepted refresh. Return False if the new token expires no later than the old one."""
        self._exchange.take_request(frame.request_id)
        if not self._renewal.succeed(frame.expires_at, now):
            return False
        self.reset_failures()
        return True

    def refuse(self, frame: frames.ErrorFrame, now: float) -> Effects:
        """Handle a refused refresh."""
        self._exchange.take_request(frame.request_id)
        if frame.code == "unknown_type":
            return self._give_up(UNKNOWN)
        return self.fail(ServerRequestError(frame.code, frame.message, frame.request_id), now)

    def handle_unknown_type(self) -> Effects:
        """Handle `unknown_type`: old servers answer the heartbeat with it, and perhaps a refresh."""
        return self._give_up(UNKNOWN) if self._exchange.take_request(self._renewal.asking) else []

    # --- failures

    def fail(self, error: Exception, now: float) -> Effects:
        """Handle a failed refresh, and retry it if there is time."""
        return [*self.retry(type(error).__name__, now), *self.count_failure(error)]

    def count_failure(self, error: Exception | None) -> Effects:
        """Count a failure of the token provider. None is a success and resets the count."""
        if error is None:
            self.reset_failures()
            return []
        self._failures += 1
        if self._failures < TOKEN_FAILURES_TO_REPORT:
            return []
        return [Emit(TokenProviderError(self._failures, error))]

    def reset_failures(self) -> None:
        """Reset the count of failures."""
        self._failures = 0

    def retry(self, reason: str, now: float) -> Effects:
        """Retry, if there is time."""
        if self._renewal.fail(now):
            return [Log("debug", "token refresh failed, it will be tried again", {"reason": reason})]
        return [Log("warning", "token refresh given up", {"reason": reason})]

    def _give_up(self, reason: str) -> Effects:
        """Give up refreshing: the server closes with 4002, and the client reconnects with a new token."""
        self._renewal.stop()
        return [Log("info", "token refresh given up", {"reason": reason})]
