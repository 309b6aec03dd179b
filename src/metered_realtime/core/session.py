"""The life of a signalling client as decisions: what was heard and the time go in, effects come out.

States, as the program sees them, and the phases of the socket underneath:

    idle          DOWN                          never connected
    connecting    DIALLING, GREETING            inside `connect()`: one attempt, never repeated
    connected     LIVE                          the server's welcome arrived
    reconnecting  DOWN, DIALLING, GREETING      waiting for the next attempt, or in it
    closed        DOWN                          closed, given up, refused, or the first attempt failed

    state         input                         next          effects, in this order
    ------------  ----------------------------  ------------  ------------------------------------------------------
    idle, closed  connect                       connecting    EnterState, Dial
    connecting    dial_failed                   closed        EnterState, FinishConnect(error)
    connecting    ended, no welcome             closed        Disconnected(False), EnterState, FinishConnect(error)
    connecting    abandon_connect               closed        HangUp, EnterState
    connecting    welcome                       connected     EnterState, Connected, FinishConnect
    connected     ended, silence                reconnecting  Settle all, Disconnected(True), EnterState, Reconnecting
    connected     ended, no attempt permitted   closed        Settle all, Disconnected(False), EnterState, TearDown
    reconnecting  tick at the time              reconnecting  Dial
    reconnecting  dial_failed                   reconnecting  Reconnecting
    reconnecting  ended, no welcome             reconnecting  Disconnected(True), Reconnecting
    reconnecting  the last attempt failed       closed        Settle all, Disconnected(False), EnterState, TearDown
    reconnecting  welcome                       connected     EnterState, Connected, Transmit replays, then the queue
    any           close                         closed        Settle all, HangUp, EnterState, TearDown

Within connected, with tokens that can be fetched anew:

    input                                       effects
    ------------------------------------------  --------------------------------------------------------------------
    tick, the token ends soon                   FetchToken
    token_fetched                               Transmit refresh
    ack of the refresh                          TokenRefreshed; the next one is planned by what the ack says
    unknown_type                                nothing more: the connection ends with its token, and comes back
    ack, but the token ends no later            a few more tries
    any other failure                           from the third in a row TokenProviderError; a few more tries

Invariants:
- Nothing awaits here, and nothing is random: the time and a number from 0 to 1 (`chance`) are arguments.
- A socket is abandoned the moment it is given up: after a HangUp whatever it still reports is ignored.
- Every request that was accepted is settled exactly once, unless its caller abandons it.
- A client that gives up says `Disconnected(will_reconnect=False)` before it is closed, also if the last attempt
  never opened. `close()` and a failed first dial do not: their caller knows.
- Input that does not fit the phase changes nothing and yields no effects; calls that do not fit the state raise.

The session holds no credential. Each Dial makes the shell fetch one; the token for a live connection passes through
into its frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from msgspec import Raw

from ..errors import (
    AckTimeoutError,
    DisconnectedError,
    NotConnectedError,
    PayloadTooLargeError,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
)
from ..events import (
    Connected,
    Direct,
    Disconnected,
    GoingAway,
    Message,
    Presence,
    PresencePeer,
    Reconnecting,
    Resubscribed,
    ServerError,
    SubscriptionLost,
    TokenProviderError,
    TokenRefreshed,
    WsCloseCode,
)
from ..options import IceServerConfig, ReconnectOptions, SignallingClientState
from . import frames
from .backoff import OVER_LIMIT_FLOOR, Backoff
from .ice_servers import parse_ice_servers
from .liveness import Liveness
from .renewal import Renewal
from .requests import Pending, RequestBook
from .session_effects import (
    Dial,
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
from .subscriptions import Replays, Subscriptions

TERMINAL_CODES = frozenset({4001, 4003, 4012, 4020})
"""Close codes after which the same credential cannot succeed, or must not."""

ABNORMAL = 1006
"""The code of a connection that ended, or never began, without a close frame."""

TOKEN_FAILURES_TO_REPORT = 3
"""Consecutive failures of the token provider from which on the program is told: one may be a hiccup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. The defaults are what servers and other clients expect."""

    open_timeout: float = 10.0
    """TCP, TLS and HTTP together."""
    welcome_timeout: float = 10.0
    ack_timeout: float = 15.0
    """Servers answer in milliseconds or are in trouble; 15 s covers a failover behind them."""
    replay_delay: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailure:
    """Why no socket opened. `token_error` is set when the token provider failed, before any dialling."""

    reason: str
    http_status: int | None = None
    retry_after: float | None = None
    token_error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Loss:
    code: int
    reason: str
    opened: bool
    failure: DialFailure | None = None


class _Phase(Enum):
    DOWN = auto()
    DIALLING = auto()
    GREETING = auto()
    LIVE = auto()


class Session:
    """The decisions of one signalling client, over all its connections."""

    def __init__(
        self,
        *,
        reconnect: ReconnectOptions | None = None,
        inactivity_timeout: float = math.inf,
        auto_resubscribe: bool = True,
        queue_limit: int = 0,
        refresh_tokens: bool = False,
        spread: float = 0.0,
        timings: Timings | None = None,
    ) -> None:
        self._timings = timings if timings is not None else Timings()
        self._auto_resubscribe = auto_resubscribe
        self._backoff = Backoff(reconnect)
        self._liveness = Liveness(inactivity_timeout)
        self._book = RequestBook(self._timings.ack_timeout, queue_limit)
        self._subscriptions = Subscriptions()
        self._replays = Replays(self._timings.replay_delay)
        self._renewal = Renewal(enabled=refresh_tokens, spread=spread)
        self._phase = _Phase.DOWN
        self._was_connected = False
        self._due_at = math.inf  # of the next attempt while DOWN, of the welcome while GREETING
        self._token_failures = 0
        self._last_code = ABNORMAL
        self.state: SignallingClientState = "idle"
        self.peer_id: str | None = None
        self.max_message_size = frames.MAX_MESSAGE_SIZE
        self.ice_servers: tuple[IceServerConfig, ...] | None = None
        self.dropped_frames = 0

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The remembered channels, oldest first."""
        return self._subscriptions.channels

    @property
    def pending_requests(self) -> int:
        """How many requests wait for an answer or for the connection."""
        return len(self._book)

    @property
    def next_deadline(self) -> float:
        """When `tick` is due, unless something else happens before. Infinity: not at all."""
        if self._phase is not _Phase.LIVE:
            return self._due_at
        deadline = min(self._liveness.ask_at, self._liveness.dead_at, self._renewal.due_at)
        for other in (self._book.next_deadline, self._replays.next_deadline):
            if other is not None and other < deadline:
                deadline = other
        return deadline

    # --- what the program calls

    def connect(self) -> Effects:
        """Begin the one attempt of a `connect()`.

        Raises:
            SignallingError: the client is neither idle nor closed.
        """
        if self.state not in ("idle", "closed"):
            raise SignallingError(f"connect() needs a client that is idle or closed, this one is {self.state}")
        self._backoff.reset()
        self._subscriptions.clear()  # of a life that the server or a failure ended
        self._token_failures, self._last_code, self._was_connected = 0, ABNORMAL, False
        return [self._enter("connecting"), self._dial()]

    def abandon_connect(self) -> Effects:
        """Undo a `connect()` whose caller was cancelled, even if it has just succeeded."""
        if self.state in ("idle", "closed"):
            return []
        effects = self._settle_written("the connection attempt was cancelled")
        self._drop_link()
        return [*effects, HangUp(1000, "connection attempt cancelled"), self._enter("closed")]

    def close(self, code: int, reason: str) -> Effects:
        """End everything and forget the subscriptions."""
        self._subscriptions.clear()
        if self.state == "closed":
            return [TearDown()]
        connecting = self.state == "connecting"
        effects = self._settle_written("the client was closed") + self._settle_queued("the client was closed")
        self._drop_link()
        effects += [HangUp(code, reason), self._enter("closed")]
        if connecting:
            effects.append(FinishConnect(SignallingConnectError(code, reason, "the client was closed")))
        return [*effects, TearDown()]

    def subscribe(self, channel: str, include_sender_metadata: bool, now: float) -> tuple[str, Effects]:
        """Request a subscription. Return the request id, for the Settle to come, and the effects.

        Raises:
            NotConnectedError: the client is not connected.
            SignallingError: too many requests wait already.
        """
        request_id = self._admit()
        self._replays.cancel(channel)
        return request_id, [self._write_subscribe(channel, include_sender_metadata, request_id, now, "call")]

    def unsubscribe(self, channel: str, now: float) -> tuple[str, Effects]:
        """Forget a subscription, then request its end. Raises like `subscribe`, the channel being forgotten."""
        self._subscriptions.forget(channel)
        self._replays.cancel(channel)
        request_id = self._admit()
        self._book.enter(request_id, now)
        return request_id, [Transmit(frames.encode(frames.Unsubscribe(channel, request_id)))]

    def publish(self, channel: str, payload: Raw, now: float) -> tuple[str, Effects]:
        """Request a publication, or queue it while reconnecting.

        Raises:
            PayloadTooLargeError: the payload exceeds what the server takes.
            NotConnectedError: the client is not connected, and the queue is full.
            SignallingError: too many requests wait already.
        """
        size = self._check_size(payload)
        request_id = self._admit(may_queue=True)
        return request_id, self._write(frames.Publish(channel, payload, request_id), request_id, size, now)

    def send(self, to_peer_id: str, payload: Raw, now: float) -> tuple[str, Effects]:
        """Request a direct message. Raises like `publish`."""
        size = self._check_size(payload)
        request_id = self._admit(may_queue=True)
        return request_id, self._write(frames.Send(to_peer_id, payload, request_id), request_id, size, now)

    def abandon(self, request_id: str) -> None:
        """Note that the caller of a request is gone. A refusal that still comes is a `ServerError` event."""
        self._book.abandon(request_id)

    # --- what the shell reports

    def opened(self, now: float) -> Effects:
        """The socket opened: the welcome is awaited."""
        if self._phase is _Phase.DIALLING:
            self._phase = _Phase.GREETING
            self._token_failures = 0
            self._due_at = now + self._timings.welcome_timeout
        return []

    def dial_failed(self, failure: DialFailure, now: float, chance: float) -> Effects:
        """No socket opened."""
        if self._phase is not _Phase.DIALLING:
            return []
        effects = self._count_token_failure(failure.token_error)
        if failure.retry_after is not None:
            self._backoff.require(failure.retry_after)
        code = ABNORMAL if failure.token_error is None else self._last_code
        return effects + self._lose(_Loss(code, failure.reason, False, failure), now, chance)

    def ended(self, code: int, reason: str, now: float, chance: float) -> Effects:
        """The socket closed underneath."""
        if self._phase not in (_Phase.GREETING, _Phase.LIVE):
            return []
        return self._lose(_Loss(code, reason, True), now, chance)

    def token_fetched(self, number: int, token: str, now: float) -> Effects:
        """Take the token that a `FetchToken` asked for."""
        if number != self._renewal.fetching:
            return []
        request_id = self._book.next_id()
        encoded = frames.encode(frames.Refresh(token, request_id))
        if len(encoded) > self.max_message_size:
            return self._stop_refreshing("the token is too large for a frame")
        self._renewal.ask(request_id)
        self._book.enter(request_id, now, "refresh")
        return [Transmit(encoded)]

    def token_failed(self, number: int, error: Exception, now: float) -> Effects:
        """Note that a `FetchToken` could not be carried out."""
        return [] if number != self._renewal.fetching else self._fail_refresh(error, now)

    def receive_binary(self) -> Effects:
        """Drop a binary frame: the protocol has none."""
        self.dropped_frames += 1
        return [Log("warning", "binary frame dropped", {})]

    def receive(self, text: str, now: float) -> Effects:
        """Take a text frame."""
        if self._phase not in (_Phase.GREETING, _Phase.LIVE):
            return []
        self._liveness.heard(now)
        try:
            frame = frames.decode_server_frame(text)
        except frames.UnknownServerFrameError as error:
            return self._drop("debug", "frame of an unknown type skipped", error)
        except frames.MalformedServerFrameError as error:
            return self._drop("warning", "malformed frame skipped", error)
        if (self._phase is _Phase.LIVE) is isinstance(frame, frames.Welcome):
            return self._drop("debug", "frame out of place skipped", type(frame).__name__)
        return _HANDLERS[type(frame)](self, frame, now)

    def tick(self, now: float, chance: float) -> Effects:
        """Do what is due."""
        if self._phase is _Phase.LIVE:
            return self._tick_live(now, chance)
        if now < self._due_at:
            return []
        if self._phase is _Phase.GREETING:
            return [HangUp(1000, "no welcome"), *self._lose(_Loss(1000, "no welcome", True), now, chance)]
        return [self._dial()]

    # --- the socket's life

    def _enter(self, state: SignallingClientState) -> EnterState:
        effect = EnterState(self.state, state)
        self.state = state
        return effect

    def _dial(self) -> Dial:
        self._phase, self._due_at = _Phase.DIALLING, math.inf
        return Dial()

    def _drop_link(self) -> None:
        self._phase, self._due_at = _Phase.DOWN, math.inf
        self._replays.clear()
        self._renewal.stop()

    def _lose(self, loss: _Loss, now: float, chance: float) -> Effects:
        """Decide after the end of an attempt or of a connection."""
        effects = self._settle_written("the connection ended before the answer")
        self._drop_link()
        if loss.opened:
            self._last_code = loss.code
        if self.state == "connecting":
            return effects + self._fail_connect(loss)
        delay = self._next_delay(loss, chance)
        if loss.opened or delay is None:
            effects.append(Emit(Disconnected(loss.code, loss.reason, delay is not None)))
        return effects + (self._give_up() if delay is None else self._wait(delay, now))

    def _next_delay(self, loss: _Loss, chance: float) -> float | None:
        if loss.opened and loss.code in TERMINAL_CODES:
            return None
        if loss.opened and loss.code == WsCloseCode.OVER_CONCURRENT_LIMIT:
            self._backoff.require(OVER_LIMIT_FLOOR)
        return self._backoff.next_delay(chance)

    def _fail_connect(self, loss: _Loss) -> Effects:
        error: Exception | None = None
        if loss.failure is not None:
            error = loss.failure.token_error
        if error is None:
            status = loss.failure.http_status if loss.failure is not None else None
            error = SignallingConnectError(loss.code, loss.reason, http_status=status)
        told: Effects = [Emit(Disconnected(loss.code, loss.reason, False))] if loss.opened else []
        return [*told, self._enter("closed"), FinishConnect(error)]

    def _wait(self, delay: float, now: float) -> Effects:
        entering: Effects = [self._enter("reconnecting")] if self.state != "reconnecting" else []
        self._due_at = now + delay
        return [*entering, Emit(Reconnecting(self._backoff.attempts, delay))]

    def _give_up(self) -> Effects:
        queued = self._settle_queued("the client gave up reconnecting")
        return [*queued, self._enter("closed"), TearDown()]

    def _count_token_failure(self, error: Exception | None) -> Effects:
        if error is None:
            self._token_failures = 0
            return []
        self._token_failures += 1
        if self._token_failures < TOKEN_FAILURES_TO_REPORT:
            return []
        return [Emit(TokenProviderError(self._token_failures, error))]

    # --- requests

    def _admit(self, *, may_queue: bool = False) -> str:
        waits = may_queue and self.state == "reconnecting" and self._book.can_queue
        if self._phase is not _Phase.LIVE and not waits:
            raise NotConnectedError(f"the client is {self.state}: nothing was sent")
        if self._book.is_full:
            raise SignallingError("too many requests wait for an answer: nothing was sent")
        return self._book.next_id()

    def _check_size(self, payload: Raw) -> int:
        size = len(memoryview(payload))
        if size > self.max_message_size:
            raise PayloadTooLargeError(size, self.max_message_size)
        return size

    def _write(self, frame: frames.ClientFrame, request_id: str, size: int, now: float) -> Effects:
        encoded = frames.encode(frame)
        if self._phase is not _Phase.LIVE:
            self._book.queue(request_id, encoded, size)
            return []
        self._book.enter(request_id, now)
        return [Transmit(encoded)]

    def _write_subscribe(self, channel: str, include: bool, request_id: str, now: float, purpose: Any) -> Transmit:
        self._subscriptions.ask(channel, include, request_id)
        self._book.enter(request_id, now, purpose, channel)
        return Transmit(frames.encode(frames.Subscribe(channel, include, request_id)))

    def _flush_queue(self, now: float) -> Effects:
        effects: Effects = []
        for request_id, queued in self._book.drain_queue().items():
            if queued.payload_size > self.max_message_size:
                effects.append(Settle(request_id, PayloadTooLargeError(queued.payload_size, self.max_message_size)))
                continue
            self._book.enter(request_id, now)
            effects.append(Transmit(queued.frame))
        return effects

    def _settle_written(self, text: str) -> Effects:
        """Fail what was written and not answered. Nobody knows whether the server processed it."""
        drained = self._book.drain()
        for pending in drained:
            if pending.channel is not None:
                self._subscriptions.keep(pending.channel, pending.request_id)
        return [Settle(it.request_id, DisconnectedError(text)) for it in drained if it.purpose == "call"]

    def _settle_queued(self, text: str) -> Effects:
        return [Settle(request_id, DisconnectedError(text)) for request_id in self._book.drain_queue()]

    def _expire(self, pending: Pending, now: float) -> Effects:
        error = AckTimeoutError(pending.request_id, self._book.timeout)
        if pending.channel is not None:
            self._subscriptions.keep(pending.channel, pending.request_id)
        if pending.purpose == "replay" and pending.channel is not None:
            return self._fail_replay(pending.channel, error, now)
        if pending.purpose == "refresh":
            return self._fail_refresh(error, now)
        return [Settle(pending.request_id, error)] if pending.purpose == "call" else []

    # --- replays

    def _replay(self, channel: str, now: float) -> Effects:
        include = self._subscriptions.wanted(channel)
        if include is None:
            return []
        return [self._write_subscribe(channel, include, self._book.next_id(), now, "replay")]

    def _fail_replay(self, channel: str, error: Exception, now: float) -> Effects:
        if self._subscriptions.wanted(channel) is None:
            return []  # unsubscribed meanwhile
        if self._replays.fail(channel, now):
            return [Log("debug", "replay of a subscription failed, it will be tried again", {"channel": channel})]
        return [
            Log("warning", "subscription lost", {"channel": channel, "error": str(error)}),
            Emit(SubscriptionLost(channel, error)),
        ]

    # --- refreshes

    def _fail_refresh(self, error: Exception, now: float) -> Effects:
        return [*self._retry_refresh(type(error).__name__, now), *self._count_token_failure(error)]

    def _retry_refresh(self, reason: str, now: float) -> Effects:
        if self._renewal.fail(now):
            return [Log("debug", "token refresh failed, it will be tried again", {"reason": reason})]
        return [Log("warning", "token refresh given up", {"reason": reason})]

    def _stop_refreshing(self, reason: str) -> Effects:
        """Let the connection end with its token: the server's 4002 is followed by a reconnect with a fresh one."""
        self._renewal.stop()
        return [Log("info", "token refresh given up", {"reason": reason})]

    def _on_refresh_ack(self, frame: frames.Ack, now: float) -> Effects:
        if not self._renewal.succeed(frame.expires_at, now):
            return self._retry_refresh("the token ends no later than the one before", now)
        self._token_failures = 0
        ice_servers = parse_ice_servers(frame.metadata)
        if ice_servers is not None:
            self.ice_servers = ice_servers
        return [Emit(TokenRefreshed(frame.expires_at, ice_servers))]

    # --- time

    def _tick_live(self, now: float, chance: float) -> Effects:
        if now >= self._liveness.dead_at:
            code = int(WsCloseCode.CLIENT_INACTIVITY)
            return [HangUp(code, "inactivity"), *self._lose(_Loss(code, "inactivity", True), now, chance)]
        effects: Effects = []
        if now >= self._liveness.ask_at:
            self._liveness.asked(now)
            effects.append(Transmit(frames.encode(frames.Ping())))
        for pending in self._book.expire(now):
            effects += self._expire(pending, now)
        for channel in self._replays.take_due(now):
            effects += self._replay(channel, now)
        if now >= self._renewal.due_at:
            effects.append(FetchToken(self._renewal.fetch()))
        return effects

    # --- frames

    def _drop(self, level: Any, message: str, detail: object) -> Effects:
        self.dropped_frames += 1
        return [Log(level, message, {"detail": str(detail)})]

    def _on_welcome(self, frame: frames.Welcome, now: float) -> Effects:
        again, self._was_connected = self._was_connected, True
        self._phase, self._due_at = _Phase.LIVE, math.inf
        self._backoff.reset()
        self._liveness.start(now)
        self._renewal.start(frame.expires_at, frame.server_time, now)
        self.peer_id, self.max_message_size = frame.peer_id, frame.max_message_size
        self.ice_servers = parse_ice_servers(frame.metadata)
        event = Connected(
            frame.peer_id, frame.server_time, frame.expires_at, again, frame.max_message_size, self.ice_servers
        )
        effects: Effects = [self._enter("connected"), Emit(event)]
        if not again:
            return [*effects, FinishConnect()]
        if self._auto_resubscribe:
            for channel in self._subscriptions.channels:
                effects += self._replay(channel, now)
        return effects + self._flush_queue(now)

    def _on_ack(self, frame: frames.Ack, now: float) -> Effects:
        pending = self._book.answer(frame.request_id)
        if pending is None:
            return []
        if pending.channel is not None:
            self._subscriptions.keep(pending.channel, pending.request_id)
        if pending.purpose == "replay" and pending.channel is not None:
            self._replays.cancel(pending.channel)
            return (
                [Emit(Resubscribed(pending.channel))] if self._subscriptions.wanted(pending.channel) is not None else []
            )
        if pending.purpose == "refresh":
            return self._on_refresh_ack(frame, now)
        return [Settle(pending.request_id)] if pending.purpose == "call" else []

    def _on_error(self, frame: frames.ErrorFrame, now: float) -> Effects:
        pending = self._book.answer(frame.request_id)
        if pending is None:
            # Old servers answer the heartbeat so, and perhaps a refresh.
            if frame.code == "unknown_type" and frame.request_id is None:
                return self._on_unknown_type()
            return [Emit(ServerError(frame.code, frame.message, frame.request_id))]
        error = ServerRequestError(frame.code, frame.message, frame.request_id)
        if pending.purpose == "replay" and pending.channel is not None:
            # The program wants the channel, whatever the server says today.
            self._subscriptions.keep(pending.channel, pending.request_id)
            return self._fail_replay(pending.channel, error, now)
        if pending.purpose == "refresh":
            if frame.code == "unknown_type":
                return self._stop_refreshing("the server knows no refresh")
            return self._fail_refresh(error, now)
        if pending.channel is not None:
            self._subscriptions.refuse(pending.channel, pending.request_id)
        if pending.purpose == "call":
            return [Settle(pending.request_id, error)]
        return [Emit(ServerError(frame.code, frame.message, frame.request_id))]

    def _on_unknown_type(self) -> Effects:
        if self._book.answer(self._renewal.asking) is None:
            return []
        return self._stop_refreshing("the server knows no refresh")

    def _on_message(self, frame: frames.MessageFrame, now: float) -> Effects:
        return [Emit(Message(frame.channel, frame.from_, frame.data, frame.from_metadata))]

    def _on_direct(self, frame: frames.DirectFrame, now: float) -> Effects:
        return [Emit(Direct(frame.from_, frame.data, frame.from_metadata))]

    def _on_presence(self, frame: frames.PresenceFrame, now: float) -> Effects:
        return [Emit(Presence(frame.channel, _peers(frame.joined), _peers(frame.left)))]

    def _on_going_away(self, frame: frames.GoingAwayFrame, now: float) -> Effects:
        self._backoff.require(frame.retry_after_ms / 1000)
        return [Emit(GoingAway(frame.retry_after_ms))]

    def _on_pong(self, frame: frames.Pong, now: float) -> Effects:
        return []


def _peers(entries: tuple[frames.PresenceEntry, ...]) -> tuple[PresencePeer, ...]:
    return tuple(PresencePeer(entry.peer_id, entry.metadata) for entry in entries)


_HANDLERS: dict[type, Callable[[Session, Any, float], Effects]] = {
    frames.Welcome: Session._on_welcome,
    frames.Ack: Session._on_ack,
    frames.ErrorFrame: Session._on_error,
    frames.MessageFrame: Session._on_message,
    frames.DirectFrame: Session._on_direct,
    frames.PresenceFrame: Session._on_presence,
    frames.GoingAwayFrame: Session._on_going_away,
    frames.Pong: Session._on_pong,
}
