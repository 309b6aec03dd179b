"""The state machine of a signalling client: reports and the time go in, effects come out.

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
    reconnecting  welcome                       connected     EnterState, Connected, MessagesLost if directs are,
                                                              Transmit replays, then the queue
    any           close                         closed        Settle all, HangUp, EnterState, TearDown

Within connected, a replay that the server cannot serve at the moment is repeated until it succeeds, the connection ends
or the program decides otherwise. One that is refused for another reason, or not answered, is repeated a few times.
`Positions` keeps how far channels and directs were read, and decides what is delivered and what is lost.

Within connected, with tokens that can be fetched again:

    input                                       effects
    ------------------------------------------  --------------------------------------------------------------------
    tick, the token ends soon                   FetchToken
    token_fetched                               Transmit refresh
    ack of the refresh                          TokenRefreshed; the ack says when the next one is due
    unknown_type                                none: the connection ends with its token and is made again
    ack, but the token expires no later         a few retries
    any other failure                           TokenProviderError after three in a row; a few retries

Invariants:
- Nothing awaits here, and nothing is random: the time and a number from 0 to 1 (`chance`) are arguments.
- A socket is abandoned at once: whatever it reports after a HangUp is ignored.
- Every request that was accepted is settled exactly once, unless its caller abandons it: `Exchange` keeps them.
- A client that gives up emits `Disconnected(will_reconnect=False)` before it is closed, also if the last attempt
  never opened. `close()` and a failed first dial do not: their caller knows.
- Input that does not fit the phase changes nothing and yields no effects; calls that do not fit the state raise.

The session holds no key and no token: the shell gets one for each Dial, and the token for a live connection is passed
straight into its frame. It does hold the latest `resume_token` of the server. Reconnects present it, until the client
is closed or the server reports that another connection has used it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from msgspec import Raw

from ...errors import NotConnectedError, SignallingConnectError, SignallingError, printable
from ...events import (
    Connected,
    Direct,
    Disconnected,
    GoingAway,
    Message,
    MessagesLost,
    Presence,
    PresencePeer,
    Reconnecting,
    TokenRefreshed,
    WsCloseCode,
)
from ...options import IceServerConfig, ReconnectOptions, SignallingClientState
from ..wire import frames
from ..wire.ice_servers import MAX_URLS, parse_ice_servers
from ..wire.server_frames import decode_server_frame
from .backoff import OVER_LIMIT_FLOOR, Backoff
from .close_codes import CloseRules
from .effects import Dial, Effects, Emit, EnterState, FinishConnect, HangUp, Log, TearDown, Transmit
from .exchange import Exchange, read_position
from .liveness import Liveness
from .positions import Positions
from .resumption import Resumption
from .token_refresh import Refreshes

ABNORMAL = 1006
"""The close code of a connection that failed or ended without a close frame."""

NO_WELCOME = 1000, "no welcome"
"""Code and reason for closing a connection without a welcome in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Timeouts and delays in seconds. The defaults are what servers and other clients expect."""

    open_timeout: float = 10.0
    """For the TCP, TLS and HTTP handshakes together."""
    welcome_timeout: float = 10.0
    ack_timeout: float = 15.0
    """Servers answer in milliseconds or are in trouble; 15 s covers a failover behind them."""
    replay_delay: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailure:
    """Why a socket could not be opened. `token_error` is set if the token provider failed before the attempt.

    `text` is for people, `cause` is the exception. Neither contains a credential.
    """

    reason: str
    text: str | None = None
    cause: Exception | None = None
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
        token_is_fixed: bool = False,
        spread: float = 0.0,
        timings: Timings | None = None,
        server: str = "the server",
    ) -> None:
        self._server = server
        self._timings = timings if timings is not None else Timings()
        self._auto_resubscribe = auto_resubscribe
        self._closes = CloseRules(token_is_fixed=token_is_fixed)
        self._backoff = Backoff(reconnect)
        self._liveness = Liveness(inactivity_timeout)
        self._positions = Positions()
        self._exchange = Exchange(
            self._positions,
            ack_timeout=self._timings.ack_timeout,
            replay_delay=self._timings.replay_delay,
            queue_limit=queue_limit,
        )
        self._refreshes = Refreshes(self._exchange, enabled=refresh_tokens, spread=spread)
        self._resumption = Resumption()
        self._phase = _Phase.DOWN
        self._was_connected = False
        self._due_at = math.inf  # of the next attempt while DOWN, of the welcome while GREETING
        self._last_code = ABNORMAL
        self.state: SignallingClientState = "idle"
        self.peer_id: str | None = None
        self.ice_servers: tuple[IceServerConfig, ...] | None = None
        self.dropped_frames = 0

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The remembered channels, oldest first."""
        return self._exchange.channels

    @property
    def max_message_size(self) -> int:
        """Maximum payload size of the server, in bytes."""
        return self._exchange.max_message_size

    @property
    def resume_token(self) -> str | None:
        """The token that restores the peer id in the next attempt by the same key. None before the first welcome."""
        return self._resumption.token

    @property
    def recovery(self) -> str:
        """The query parameter `recover` of the next attempt: how far the directs to this peer were read."""
        return self._positions.query

    @property
    def pending_requests(self) -> int:
        """Number of requests that wait for an answer or for the connection."""
        return len(self._exchange)

    @property
    def next_deadline(self) -> float:
        """When `tick` is due, unless other input comes first. Infinity if nothing is due."""
        if self._phase is not _Phase.LIVE:
            return self._due_at
        liveness = self._liveness
        return min(liveness.ask_at, liveness.dead_at, self._refreshes.due_at, self._exchange.next_deadline)

    # --- calls of the program

    def connect(self) -> Effects:
        """Begin the one attempt of a `connect()`.

        Raises:
            SignallingError: the client is neither idle nor closed.
        """
        if self.state not in ("idle", "closed"):
            raise SignallingError(f"connect() needs a client that is idle or closed, this one is {self.state}")
        self._backoff.reset()
        self._exchange.forget_all()  # left over if the server or a failure ended the client
        self._refreshes.reset_failures()
        self._resumption.forget()
        self._last_code, self._was_connected = ABNORMAL, False
        return [self._enter("connecting"), self._dial()]

    def abandon_connect(self) -> Effects:
        """Undo a `connect()` whose caller was cancelled, even if it has just succeeded."""
        if self.state in ("idle", "closed"):
            return []
        effects = self._exchange.settle_written("the connection attempt was cancelled")
        self._drop_socket()
        return [*effects, HangUp(1000, "connection attempt cancelled"), self._enter("closed")]

    def close(self, code: int, reason: str) -> Effects:
        """End the connection, and forget the subscriptions and the resume token."""
        self._exchange.forget_all()
        self._resumption.forget()
        if self.state == "closed":
            return [TearDown()]
        connecting = self.state == "connecting"
        text = "the client was closed"
        effects = self._exchange.settle_written(text) + self._exchange.settle_queued(text)
        self._drop_socket()
        effects += [HangUp(code, reason), self._enter("closed")]
        if connecting:
            effects.append(FinishConnect(SignallingConnectError(code, reason, text)))
        return [*effects, TearDown()]

    def subscribe(self, channel: str, include_sender_metadata: bool, now: float) -> tuple[str, Effects]:
        """Request a subscription. Return the request id, for the Settle to come, and the effects.

        Raises:
            NotConnectedError: the client is not connected.
            SignallingError: too many requests wait already.
        """
        self._check_open()
        return self._exchange.subscribe(channel, include_sender_metadata, now)

    def unsubscribe(self, channel: str, now: float) -> tuple[str, Effects]:
        """Forget a subscription, then request its end. Raises like `subscribe`, the channel being forgotten."""
        self._exchange.forget(channel)
        self._check_open()
        return self._exchange.unsubscribe(channel, now)

    def publish(self, channel: str, payload: Raw, now: float) -> tuple[str, Effects]:
        """Request a publication, or queue it while reconnecting.

        Raises:
            PayloadTooLargeError: the payload exceeds what the server takes.
            NotConnectedError: the client is not connected, and the queue is full.
            SignallingError: too many requests wait already.
        """
        self._exchange.check_size(payload)
        return self._exchange.publish(channel, payload, now, queue=self._check_open(may_queue=True))

    def send(self, to_peer_id: str, payload: Raw, now: float) -> tuple[str, Effects]:
        """Request a direct message. Raises like `publish`."""
        self._exchange.check_size(payload)
        return self._exchange.send(to_peer_id, payload, now, queue=self._check_open(may_queue=True))

    def check_connection(self, now: float) -> Effects:
        """Ping the server, and consider the connection dead if no answer comes soon."""
        if self._phase is not _Phase.LIVE:
            return []
        self._liveness.probe_sent(now)
        return [Transmit(frames.encode(frames.Ping()))]

    def abandon(self, request_id: str) -> None:
        """Drop the caller of a request. A refusal that arrives later becomes a `ServerError` event."""
        self._exchange.abandon(request_id)

    # --- reports of the shell

    def opened(self, now: float) -> Effects:
        """Handle an opened socket: the welcome is due next."""
        if self._phase is _Phase.DIALLING:
            self._phase = _Phase.GREETING
            self._refreshes.reset_failures()
            self._due_at = now + self._timings.welcome_timeout
        return []

    def dial_failed(self, failure: DialFailure, now: float, chance: float) -> Effects:
        """Handle a socket that could not be opened."""
        if self._phase is not _Phase.DIALLING:
            return []
        effects = self._refreshes.count_failure(failure.token_error)
        if failure.retry_after is not None:
            self._backoff.require(failure.retry_after)
        code = ABNORMAL if failure.token_error is None else self._last_code
        return effects + self._lose(_Loss(code, failure.reason, False, failure), now, chance)

    def ended(self, code: int, reason: str, now: float, chance: float) -> Effects:
        """Handle the end of the socket."""
        if self._phase not in (_Phase.GREETING, _Phase.LIVE):
            return []
        return self._lose(_Loss(code, reason, True), now, chance)

    def token_fetched(self, number: int, token: str, now: float) -> Effects:
        """Handle the token that a `FetchToken` yielded."""
        return self._refreshes.fetched(number, token, now)

    def token_failed(self, number: int, error: Exception, now: float) -> Effects:
        """Handle a `FetchToken` that failed."""
        return self._refreshes.not_fetched(number, error, now)

    def receive_binary(self) -> Effects:
        """Drop a binary frame, of which the protocol has none."""
        self.dropped_frames += 1
        return [Log("warning", "binary frame dropped", {})]

    def receive(self, text: str, now: float, chance: float) -> Effects:
        """Handle a text frame. `chance` is a number from 0 to 1, for the delay that may follow from it."""
        if self._phase not in (_Phase.GREETING, _Phase.LIVE):
            return []
        self._liveness.frame_received(now)
        try:
            frame = decode_server_frame(text)
        except frames.UnknownServerFrameError as error:
            return self._drop("debug", "frame of an unknown type skipped", error)
        except frames.MalformedServerFrameError as error:
            return self._drop("warning", "malformed frame skipped", error)
        if (self._phase is _Phase.LIVE) is isinstance(frame, frames.Welcome):
            return self._drop("debug", "frame out of place skipped", type(frame).__name__)
        if isinstance(frame, frames.ErrorFrame):
            return self._on_error(frame, now, chance)
        return _HANDLERS[type(frame)](self, frame, now)

    def tick(self, now: float, chance: float) -> Effects:
        """Carry out what is due."""
        if self._phase is _Phase.LIVE:
            return self._tick_live(now, chance)
        if now < self._due_at:
            return []
        if self._phase is _Phase.GREETING:
            return [HangUp(*NO_WELCOME), *self._lose(_Loss(*NO_WELCOME, True), now, chance)]
        return [self._dial()]

    # --- the socket

    def _enter(self, state: SignallingClientState) -> EnterState:
        effect = EnterState(self.state, state)
        self.state = state
        return effect

    def _dial(self) -> Dial:
        self._phase, self._due_at = _Phase.DIALLING, math.inf
        return Dial()

    def _drop_socket(self) -> None:
        self._phase, self._due_at = _Phase.DOWN, math.inf
        self._exchange.lose_connection()
        self._refreshes.stop()

    def _lose(self, loss: _Loss, now: float, chance: float) -> Effects:
        """Decide what follows the end of an attempt or of a connection."""
        too_big = loss.opened and loss.code == WsCloseCode.MESSAGE_TOO_BIG
        effects = self._exchange.settle_written("the connection ended before the answer", too_big=too_big)
        self._drop_socket()
        if loss.opened:
            self._last_code = loss.code
            self._resumption.record_end(loss.code)
        if self.state == "connecting":
            return effects + self._fail_connect(loss)
        if loss.failure is not None and loss.failure.text is not None:
            effects.append(Log("warning", "connection attempt failed", {"reason": loss.failure.text}))
        delay = self._next_delay(loss, chance)
        if loss.opened or delay is None:
            effects.append(Emit(self._disconnected(loss, delay is not None)))
        return effects + (self._give_up() if delay is None else self._wait(delay, now))

    def _next_delay(self, loss: _Loss, chance: float) -> float | None:
        if loss.opened and self._closes.is_final(loss.code):
            return None
        if loss.opened and loss.code == WsCloseCode.OVER_CONCURRENT_LIMIT:
            self._backoff.require(OVER_LIMIT_FLOOR)
        return self._backoff.next_delay(chance)

    def _fail_connect(self, loss: _Loss) -> Effects:
        error: Exception | None = None
        if loss.failure is not None:
            error = loss.failure.token_error
        if error is None:
            error = self._connect_error(loss)
        told: Effects = [Emit(self._disconnected(loss, False))] if loss.opened else []
        return [*told, self._enter("closed"), FinishConnect(error)]

    def _disconnected(self, loss: _Loss, will_reconnect: bool) -> Disconnected:
        return Disconnected(loss.code, loss.reason, will_reconnect, self._closes.error(loss.code, loss.reason))

    def _connect_error(self, loss: _Loss) -> SignallingConnectError:
        failure = loss.failure
        if (expired := self._closes.error(loss.code, loss.reason)) is not None:
            return expired
        if failure is None:
            said = f"{loss.code}, {printable(loss.reason)}" if loss.reason else str(loss.code)
            text = f"{self._server} ended the connection before its welcome (code {said})"
            if (loss.code, loss.reason) == NO_WELCOME:
                text = f"{self._server} sent no welcome within {self._timings.welcome_timeout:g} s"
            return SignallingConnectError(loss.code, loss.reason, text)
        named = f"{failure.text} (code {loss.code})" if failure.text is not None else None
        error = SignallingConnectError(loss.code, loss.reason, named, http_status=failure.http_status)
        error.__cause__ = failure.cause
        return error

    def _wait(self, delay: float, now: float) -> Effects:
        entering: Effects = [self._enter("reconnecting")] if self.state != "reconnecting" else []
        self._due_at = now + delay
        return [*entering, Emit(Reconnecting(self._backoff.attempts, delay))]

    def _give_up(self) -> Effects:
        queued = self._exchange.settle_queued("the client gave up reconnecting")
        return [*queued, self._enter("closed"), TearDown()]

    def _check_open(self, *, may_queue: bool = False) -> bool:
        """Return whether a request has to wait for the connection, or raise."""
        is_live = self._phase is _Phase.LIVE
        if not is_live and not (may_queue and self.state == "reconnecting" and self._exchange.can_queue):
            raise NotConnectedError(f"the client is {self.state}: nothing was sent")
        self._exchange.check_room()
        return not is_live

    # --- time

    def _tick_live(self, now: float, chance: float) -> Effects:
        if now >= self._liveness.dead_at:
            code = int(WsCloseCode.CLIENT_INACTIVITY)
            return [HangUp(code, "inactivity"), *self._lose(_Loss(code, "inactivity", True), now, chance)]
        effects: Effects = []
        if now >= self._liveness.ask_at:
            self._liveness.ping_sent(now)
            effects.append(Transmit(frames.encode(frames.Ping())))
        for pending, error in self._exchange.late(now):
            if pending.purpose == "refresh":
                effects += self._refreshes.fail(error, now)
            else:
                effects += self._exchange.expire(pending, error, now)
        effects += self._exchange.replay_due(now)
        if now >= self._refreshes.due_at:
            effects += self._refreshes.fetch()
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
        self._refreshes.start(frame.expires_at, frame.server_time, now)
        self.peer_id, self._exchange.max_message_size = frame.peer_id, frame.max_message_size
        self._resumption.replace_token(frame.resume_token)
        ice_servers, refused = _named_ice_servers(frame.metadata)
        if ice_servers is not None or not again:  # a welcome without ICE servers keeps those that are known
            self.ice_servers = ice_servers
        event = Connected(
            frame.peer_id, frame.server_time, frame.expires_at, again, frame.max_message_size, ice_servers
        )
        effects: Effects = [*refused, self._enter("connected"), Emit(event)]
        if self._positions.welcomed(frame.peer_id, read_position(frame)):
            effects.append(Emit(MessagesLost(None, None)))
        if not again:
            return [*effects, FinishConnect()]
        if self._auto_resubscribe:
            effects += self._exchange.replay_all(now)
        return effects + self._exchange.flush(now)

    def _on_ack(self, frame: frames.Ack, now: float) -> Effects:
        if not self._refreshes.is_pending(frame.request_id):
            return self._exchange.acknowledge(frame)
        if not self._refreshes.acknowledge(frame, now):
            return self._refreshes.retry("the token ends no later than the one before", now)
        ice_servers, refused = _named_ice_servers(frame.metadata)
        if ice_servers is not None:
            self.ice_servers = ice_servers
        return [*refused, Emit(TokenRefreshed(frame.expires_at, ice_servers))]

    def _on_error(self, frame: frames.ErrorFrame, now: float, chance: float) -> Effects:
        if frame.request_id is None and frame.code == "unknown_type":
            return self._refreshes.handle_unknown_type()
        if self._refreshes.is_pending(frame.request_id):
            return self._refreshes.refuse(frame, now)
        return self._exchange.refuse(frame, now, chance)

    def _on_resume(self, frame: frames.Resume, now: float) -> Effects:
        self._resumption.replace_token(frame.resume_token)
        return []

    def _on_message(self, frame: frames.MessageFrame, now: float) -> Effects:
        if not self._positions.takes_message(frame.channel, frame.from_, frame.offset):
            return self._drop("debug", "message skipped that was known", frame.offset)
        return [Emit(Message(frame.channel, frame.from_, frame.data, frame.from_metadata))]

    def _on_direct(self, frame: frames.DirectFrame, now: float) -> Effects:
        if not self._positions.takes_direct(frame.offset):
            return self._drop("debug", "direct skipped that was known", frame.offset)
        return [Emit(Direct(frame.from_, frame.data, frame.from_metadata))]

    def _on_lost(self, frame: frames.LostFrame, now: float) -> Effects:
        return self._exchange.lost(frame)

    def _on_presence(self, frame: frames.PresenceFrame, now: float) -> Effects:
        return [Emit(Presence(frame.channel, _peers(frame.joined), _peers(frame.left)))]

    def _on_going_away(self, frame: frames.GoingAwayFrame, now: float) -> Effects:
        self._backoff.invite(frame.retry_after_ms / 1000)
        return [Emit(GoingAway(frame.retry_after_ms))]

    def _on_pong(self, frame: frames.Pong, now: float) -> Effects:
        return []


def _named_ice_servers(metadata: Mapping[str, Any] | None) -> tuple[tuple[IceServerConfig, ...] | None, Effects]:
    """Return the ICE servers in a frame's metadata, and a log line if they are refused."""
    named = parse_ice_servers(metadata)
    if named is not None or metadata is None or "iceServers" not in metadata:
        return named, []
    return None, [Log("warning", "ICE servers ignored: malformed, or too many", {"most_urls": MAX_URLS})]


def _peers(entries: tuple[frames.PresenceEntry, ...]) -> tuple[PresencePeer, ...]:
    return tuple(PresencePeer(entry.peer_id, entry.metadata, entry.expelled) for entry in entries)


_HANDLERS: dict[type, Callable[[Session, Any, float], Effects]] = {
    frames.Welcome: Session._on_welcome,
    frames.Resume: Session._on_resume,
    frames.Ack: Session._on_ack,
    frames.MessageFrame: Session._on_message,
    frames.DirectFrame: Session._on_direct,
    frames.LostFrame: Session._on_lost,
    frames.PresenceFrame: Session._on_presence,
    frames.GoingAwayFrame: Session._on_going_away,
    frames.Pong: Session._on_pong,
}
