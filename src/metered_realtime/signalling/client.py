"""`SignallingClient`: channels, messages and presence over a WebSocket that reconnects."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, Unpack

from msgspec import Raw

from ..core.session.backoff import SHORT_OUTAGE
from ..core.session.effects import (
    Dial,
    Effect,
    Effects,
    Emit,
    EnterState,
    FetchToken,
    FinishConnect,
    HangUp,
    Log,
    Settle,
    TearDown,
    Transmit,
)
from ..core.session.session import DialFailure, Session, Timings
from ..core.wire.frames import encode_payload
from ..core.wire.names import channel_fault, peer_id_fault
from ..emitter import AsyncEventEmitter
from ..errors import SignallingError
from ..events import StateChange
from ..events.emitted import BY_CLIENT
from ..lifetime import Lifetime
from ..log import log_exception
from ..options import (
    ClientKeywords,
    IceServerConfig,
    ReconnectOptions,
    SignallingClientOptions,
    SignallingClientState,
    SubscribeOptions,
    options_or_keywords,
    shows_client_keywords,
)
from .credentials import FreshTokenFn, attempt_urls, fresh_tokens
from .endpoint import parse_origin
from .scrubbing import scrub_error, scrubbing
from .socket import SignallingSocket, SignallingSocketObserver, Socket

CLOSE_TIMEOUT = 2.0
"""Maximum duration of `close()` in seconds: the closing handshake, then the handlers that still run."""

CANCEL_GRACE = 0.2
"""The part of it for handlers that had to be cancelled."""

CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""Registered close codes that an endpoint may send. The others below 3000 are reserved for local reports."""

MAX_CLOSE_REASON = 123
"""Maximum length of a close reason in bytes: what fits into a WebSocket close frame."""


class SignallingClient(AsyncEventEmitter):
    """A client of the signalling server, which reconnects and restores its subscriptions.

    Events: `StateChange`, `Connected`, `Disconnected`, `Reconnecting`, `Message`, `Direct`, `MessagesLost`, `Presence`,
    `ServerError`, `GoingAway`, `TokenRefreshed`, `TokenProviderError`, `Resubscribed`, `SubscriptionLost`.

    The keywords are those of `SignallingClientOptions`. They are ignored if `options` is given.

    Raises:
        ValueError: not exactly one of `api_key`, `token` and `token_provider` is given, or an option is out of range.
        LocalCredentialError: the key was made by a server of this package, but `url` is not given.
    """

    _EMITS = BY_CLIENT

    @shows_client_keywords
    def __init__(
        self,
        options: SignallingClientOptions | None = None,
        *,
        _timings: Timings | None = None,
        _chance: Callable[[], float] = random.random,
        **keywords: Unpack[ClientKeywords],
    ) -> None:
        chosen = options_or_keywords(options, keywords)
        if math.isnan(chosen.token_provider_timeout):
            raise ValueError("token_provider_timeout must be a number of seconds, not nan")
        if chosen.queue_while_reconnecting < 0:
            raise ValueError(f"queue_while_reconnecting must be at least 0, not {chosen.queue_while_reconnecting}")
        super().__init__(scrubbing(chosen.logger))
        self._timings = _timings if _timings is not None else Timings()
        self._chance = _chance
        self._ssl_context = chosen.ssl_context
        origin = parse_origin(chosen.url, allow_insecure=chosen.allow_insecure_url)
        self._attempt_url = attempt_urls(
            origin,
            api_key=chosen.api_key,
            token=chosen.token,
            token_provider=chosen.token_provider,
            timeout=chosen.token_provider_timeout,
            resume_token=lambda: self._session.resume_token,
            recover=lambda: self._session.recovery,
        )
        self._fresh_token = fresh_tokens(origin, chosen.token_provider, chosen.token_provider_timeout)
        self._session = Session(
            reconnect=_reconnect_options(chosen.reconnect),
            inactivity_timeout=chosen.inactivity_timeout,
            auto_resubscribe=chosen.auto_resubscribe,
            queue_limit=chosen.queue_while_reconnecting,
            refresh_tokens=self._fresh_token is not None,
            token_is_fixed=bool(chosen.token),
            spread=_chance(),
            timings=self._timings,
            server=origin,
        )
        self._state: SignallingClientState = "idle"
        self._reports = _SocketReports(self)
        self._socket: Socket | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._effects: list[Effect] | None = None
        self._replies: dict[str, asyncio.Future[None]] = {}
        self._connecting: asyncio.Future[None] | None = None
        self._tearing_down: asyncio.Task[None] | None = None
        self._lifetime: Lifetime | None = Lifetime(self, self.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} state={self._state}>"

    async def __aenter__(self) -> SignallingClient:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def state(self) -> SignallingClientState:
        """`idle`, `connecting`, `connected`, `reconnecting` or `closed`."""
        return self._state

    @property
    def peer_id(self) -> str | None:
        """The peer id from the latest welcome. Kept after the client is closed."""
        return self._session.peer_id

    @property
    def max_message_size(self) -> int:
        """Maximum payload size of the server, in bytes."""
        return self._session.max_message_size

    @property
    def ice_servers(self) -> tuple[IceServerConfig, ...] | None:
        """The latest ICE servers from the server, from a welcome or a refreshed token. None if it sent none."""
        return self._session.ice_servers

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The channels that are subscribed again after a reconnect, oldest first."""
        return self._session.subscriptions

    @property
    def dropped_frames(self) -> int:
        """Number of frames from the server that were skipped: malformed, binary, repeated or of an unknown type."""
        return self._session.dropped_frames

    async def connect(self) -> None:
        """Connect in a single attempt, and return after the welcome. Cancelling the call aborts the attempt.

        Allowed in the states `idle` and `closed`. After a failure the state is `closed`; handlers and streams stay
        registered, and `connect` may be called again.

        Raises:
            SignallingConnectError: the connection failed or was refused; `TokenExpiredError` if `token` has expired.
            SignallingError: the client is already connecting or connected.
            Exception: an exception of the token provider, credentials masked.
        """
        await self._finish_tear_down()
        effects = self._session.connect()
        self._reopen_emitter()
        self._connecting = asyncio.get_running_loop().create_future()
        attempt = self._connecting
        self._apply(effects)
        try:
            await attempt
        except asyncio.CancelledError:
            await self._abandon_connect()
            raise
        finally:
            if self._connecting is attempt:
                self._connecting = None

    async def close(self, code: int = 1000, reason: str = "client requested close") -> None:
        """Close the connection and release everything.

        Pending requests fail with `DisconnectedError`, subscriptions are forgotten, handlers are removed and streams
        end. Idempotent. Takes at most 2 s, may be awaited in any handler, and completes even if its caller is
        cancelled. A `reason` longer than 123 bytes is truncated.

        Raises:
            ValueError: `code` is not one that a close frame may carry (RFC 6455, 7.4): 1000 or another registered one,
                or 3000 to 4999.
        """
        if code not in CLOSE_CODES and not 3000 <= code <= 4999:
            raise ValueError(f"code must be one that a close frame may carry, such as 1000 or 4000, not {code!r}")
        self._apply(self._session.close(code, _cut(reason)))
        if self._effects is not None:  # in an eager task inside a handler: the effects follow after it
            await asyncio.sleep(0)
        await self._finish_tear_down()

    async def subscribe(self, channel: str, opts: SubscribeOptions | None = None) -> None:
        """Subscribe to the messages and the presence of a channel. Restored after each reconnect.

        The first `Presence` event is a snapshot. Subscribing again replaces the options, and the server sends the
        snapshot again. A refused subscription is not restored after a reconnect; an unanswered one is.

        Raises:
            TypeError, ValueError: not a channel name.
            NotConnectedError: not connected. Nothing was sent.
            ServerRequestError: the server refused.
            AckTimeoutError, DisconnectedError: no answer arrived; the server may or may not have subscribed.
        """
        _check_channel(channel)
        include = opts is not None and opts.include_sender_metadata
        await self._reply_to(*self._session.subscribe(channel, include, self._now()))

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel, which is forgotten even if the request fails. Raises like `subscribe`."""
        _check_channel(channel)
        await self._reply_to(*self._session.unsubscribe(channel, self._now()))

    async def publish(self, channel: str, data: Any) -> None:
        """Publish JSON-serialisable data to the other subscribers of a channel. Returns when the server has accepted
        it.

        Raises:
            TypeError, ValueError: not a channel name, or not JSON-serialisable.
            PayloadTooLargeError: the payload exceeds the limit of the server. Nothing was sent.
            NotConnectedError: not connected. Nothing was sent.
            ServerRequestError: the server refused.
            AckTimeoutError, DisconnectedError: no answer arrived; the server may or may not have accepted it.
        """
        await self._publish_raw(channel, encode_payload(data))

    async def send(self, to_peer_id: str, data: Any) -> None:
        """Send JSON-serialisable data to one peer. Returns when the server has accepted it. Raises like `publish`."""
        await self._send_raw(to_peer_id, encode_payload(data))

    async def _publish_raw(self, channel: str, payload: Raw) -> None:
        """Publish an encoded payload."""
        _check_channel(channel)
        await self._reply_to(*self._session.publish(channel, payload, self._now()))

    async def _send_raw(self, to_peer_id: str, payload: Raw) -> None:
        """Send an encoded payload."""
        _check_peer_id(to_peer_id)
        await self._reply_to(*self._session.send(to_peer_id, payload, self._now()))

    # --- what a peer needs, see for_peers.py

    def _leave_warning_to_peer(self) -> None:
        self._lifetime = None

    def _check_connection(self) -> None:
        self._apply(self._session.check_connection(self._now()))

    async def _fetch_token(self, number: int, fresh_token: FreshTokenFn) -> None:
        try:
            token = await fresh_token()
        except Exception as error:
            log_exception(self._logger, "token provider failed", error, level="warning")
            self._apply(self._session.token_failed(number, scrub_error(error), self._now()))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            own = SignallingError("the token provider cancelled itself")
            self._apply(self._session.token_failed(number, own, self._now()))
        else:
            self._apply(self._session.token_fetched(number, token, self._now()))

    # --- effects

    def _apply(self, effects: Effects) -> None:
        """Carry out effects in order. Effects of a handler that calls back follow the remaining ones."""
        if self._effects is not None:
            self._effects += effects
            return
        self._effects = effects
        try:
            for effect in effects:  # grows during the iteration
                _PERFORM[type(effect)](self, effect)
        finally:
            self._effects = None
        self._arm()

    def _emit(self, effect: Emit) -> None:
        self.emit(effect.event)

    def _enter_state(self, effect: EnterState) -> None:
        self._state = effect.to
        if self._lifetime is not None:
            if effect.to == "closed":
                self._lifetime.end()
            else:
                self._lifetime.begin()
        self.emit(StateChange(effect.from_, effect.to))

    def _dial(self, effect: Dial) -> None:
        self._socket = self._make_socket(self._reports)
        self._ending.add(self._socket.task)
        self._socket.task.add_done_callback(self._ending.discard)

    def _make_socket(self, observer: SignallingSocketObserver) -> Socket:
        return SignallingSocket(observer, self._attempt_url, self._ssl_context, self._timings.open_timeout)

    def _start_fetching(self, effect: FetchToken) -> None:
        if self._fresh_token is not None:
            fetching = self._fetch_token(effect.number, self._fresh_token)
            self._fetch = asyncio.get_running_loop().create_task(fetching, name="metered_realtime token")
            self._ending.add(self._fetch)
            self._fetch.add_done_callback(self._ending.discard)

    def _stop_fetching(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is not None and fetch is not asyncio.current_task():
            fetch.cancel()

    def _hang_up(self, effect: HangUp) -> None:
        self._stop_fetching()
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.hang_up(effect.code, effect.reason)

    def _transmit(self, effect: Transmit) -> None:
        if self._socket is not None:
            self._socket.write(effect.frame)

    def _settle(self, effect: Settle) -> None:
        _resolve(self._replies.pop(effect.request_id, None), effect.error)

    def _finish_connect(self, effect: FinishConnect) -> None:
        _resolve(self._connecting, effect.error)

    def _tear_down(self, effect: TearDown) -> None:
        if self._tearing_down is None:
            self._tearing_down = asyncio.get_running_loop().create_task(self._end(), name="metered_realtime teardown")

    def _log(self, effect: Log) -> None:
        getattr(self._logger, effect.level)(effect.message, effect.context)

    # --- timer, requests, tear-down

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _arm(self) -> None:
        """Keep a timer at or before the next deadline. Every frame moves the deadline, but not the timer."""
        due = self._session.next_deadline
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due != math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._apply(self._session.tick(self._now(), self._chance()))

    async def _reply_to(self, request_id: str, effects: Effects) -> None:
        reply = self._replies[request_id] = asyncio.get_running_loop().create_future()
        self._apply(effects)
        try:
            await reply
        except asyncio.CancelledError:
            self._replies.pop(request_id, None)
            self._session.abandon(request_id)
            raise

    async def _abandon_connect(self) -> None:
        socket = self._socket
        self._apply(self._session.abandon_connect())
        if socket is not None:
            await asyncio.wait({socket.task}, timeout=CLOSE_TIMEOUT)

    async def _finish_tear_down(self) -> None:
        while self._tearing_down is not None:
            self._enter_close()
            await asyncio.shield(self._tearing_down)

    async def _end(self) -> None:
        deadline = self._now() + CLOSE_TIMEOUT - CANCEL_GRACE
        try:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._ending:
                await asyncio.wait(self._ending, timeout=deadline - self._now())
            await self._shut_down_emitter(max(0.0, deadline - self._now()), CANCEL_GRACE)
        finally:
            self._tearing_down = None


class _SocketReports:
    """Hands what the socket of a client reports to the client's session. A socket that was hung up reports nothing."""

    def __init__(self, client: SignallingClient) -> None:
        self._client = client

    def socket_opened(self) -> None:
        client = self._client
        client._apply(client._session.opened(client._now()))

    def socket_received(self, message: str | bytes) -> None:
        client = self._client
        if isinstance(message, str):
            client._apply(client._session.receive(message, client._now(), client._chance()))
        else:
            client._apply(client._session.receive_binary())

    def socket_failed(self, failure: DialFailure) -> None:
        client = self._client
        client._socket = None
        if failure.token_error is not None and client._state == "reconnecting":  # otherwise `connect` raises it
            log_exception(client._logger, "token provider failed", failure.token_error, level="warning")
        client._apply(client._session.dial_failed(failure, client._now(), client._chance()))

    def socket_ended(self, code: int, reason: str) -> None:
        client = self._client
        client._socket = None
        client._stop_fetching()
        client._apply(client._session.ended(code, reason, client._now(), client._chance()))


_PERFORM: dict[type, Callable[[SignallingClient, Any], None]] = {
    Emit: SignallingClient._emit,
    EnterState: SignallingClient._enter_state,
    Dial: SignallingClient._dial,
    FetchToken: SignallingClient._start_fetching,
    HangUp: SignallingClient._hang_up,
    Transmit: SignallingClient._transmit,
    Settle: SignallingClient._settle,
    FinishConnect: SignallingClient._finish_connect,
    TearDown: SignallingClient._tear_down,
    Log: SignallingClient._log,
}


def _resolve(future: asyncio.Future[None] | None, error: Exception | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _reconnect_options(reconnect: ReconnectOptions | bool) -> ReconnectOptions | None:
    if isinstance(reconnect, ReconnectOptions):
        return reconnect
    return ReconnectOptions(short_outage=SHORT_OUTAGE) if reconnect else None


def _check_channel(channel: object) -> None:
    fault = channel_fault(channel)
    if fault is not None:
        raise (TypeError if fault == "type" else ValueError)(f"not a channel name: {fault.replace('_', ' ')}")


def _check_peer_id(peer_id: object) -> None:
    fault = peer_id_fault(peer_id)
    if fault is not None:
        raise (TypeError if fault == "type" else ValueError)(f"not a peer id: {fault.replace('_', ' ')}")


def _cut(reason: str) -> str:
    return reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore")
