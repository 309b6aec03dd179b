"""The server's end of one WebSocket: frames to the hub, frames from it, and the close path.

Writing never waits. A frame goes to the outbox, which writes at once or at the end of the turn of the event loop. A
client that leaves more than `Limits.outbox_size` unread is disconnected, without effect on others.

`close` sends a close code and keeps reading until the client's half of the closing handshake, at most `CLOSE_TIMEOUT`:
a socket closed with unread data would be reset, and the client might not see the code. `drop` ends the connection at
once, for a client that does not respond. aiohttp's own `close` does not wait while another task is reading.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import WebSocketError, WSMessage, WSMsgType, web

from ..core.session.close_codes import TERMINAL_CODES
from ..core.wire.frames import FrameError, Refresh
from ..events import WsCloseCode
from ..log import Logger
from .auth import Admission, Authenticator, RefusedError
from .engine.contract import Position
from .frame_heads import FrameGuard
from .frame_intake import FrameIntake
from .hub import Hub
from .hub.connections import TRY_AGAIN_LATER
from .limits import Limits
from .metrics.times import Durations
from .outbox import LoopTurn, Outbox
from .resume import REISSUE_INTERVAL
from .rights import Grant
from .routing import Subscriber
from .telemetry.hooks import ConnectionTrace
from .tokens import LEEWAY

CLOSE_TIMEOUT = 1.0
"""Seconds that a client has for its half of the closing handshake."""

EXPIRY_MARGIN = 0.25
"""Seconds before the expiry of its token at which a connection is closed, so that the client's next token is in
time."""

FRAMES_PER_TURN = 8
"""Maximum number of frames of one client that are handled before other tasks run."""

WORK_PER_TURN = 131_072
"""And their maximum cost (`server.charges`): messages to 2,000 others, whose handling takes about 1 ms. What they write
at the end of the turn depends on the number of receivers, not on that of messages."""

NO_STATUS, ABNORMAL, INVALID_TEXT, INTERNAL_ERROR = 1005, 1006, 1007, 1011
OUTBOX_FULL, BY_CLIENT = "outbox full", "by the client"
PLACES_KEPT = frozenset((ABNORMAL, INTERNAL_ERROR, TRY_AGAIN_LATER, WsCloseCode.GOING_AWAY, WsCloseCode.TOKEN_EXPIRED))
"""Codes of endings without a goodbye: the client may come back, and its peer keeps its places for a while."""
_LAST_MESSAGES = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A


def seal(payload: bytes) -> bytes:
    """Return a server's WebSocket text frame (RFC 6455, 5.2). Many connections can share it."""
    return _frame(_TEXT, payload)


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", head, size) + payload
    if size < 65_536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


class Ending(NamedTuple):
    """How a connection ended. The reason is one of a few fixed texts, never a client's own."""

    code: int
    reason: str


class ClientSocket:
    """Serves one connection from its welcome to its end. `ending` is how it ended."""

    def __init__(
        self,
        ws: web.WebSocketResponse[Any],
        transport: asyncio.Transport,
        hub: Hub,
        admission: Admission,
        authenticator: Authenticator,
        limits: Limits,
        logger: Logger,
        frame_times: Durations,
        trace: ConnectionTrace,
        turn: LoopTurn,
    ) -> None:
        self._trace = trace
        self._frame_times = frame_times
        self._ws = ws
        self._transport = transport
        self._turn = turn
        self._outbox = Outbox(transport, turn, limits.outbox_size, self._overflow)
        self._hub = hub
        self._limits = limits
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._subscriber: Subscriber | None = None
        self.admission = admission
        self._authenticator = authenticator
        self._deadline: asyncio.TimerHandle | None = None  # set while closing
        self._dropped = False
        self.ending = Ending(ABNORMAL, "connection lost")
        self._heard = True
        self._heartbeat: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._is_settled: asyncio.Event | None = None  # while the engine has not answered

    @property
    def peer_id(self) -> str:
        """The id of the connected peer."""
        return self.admission.identity.peer_id

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that wait for the client."""
        return self._outbox.unsent_bytes

    @property
    def is_ending(self) -> bool:
        """Whether the connection is closing or dropped."""
        return self._deadline is not None or self._dropped

    @property
    def has_left(self) -> bool:
        """Whether the connection has left the hub and only the closing handshake remains."""
        return self._deadline is not None

    async def run(self, replaced: Sequence[ClientSocket] = ()) -> None:
        """Welcome the client, replacing its other sockets, and serve it until either end closes."""
        now = time.time()
        subscriber = self._begin(replaced, now)
        # Before anything is awaited: the guard has to see the first frame from its beginning.
        inner = _protocol_of(self._transport)
        self._transport.set_protocol(FrameGuard(inner, self._loop.time, self.close, self._outbox.end))
        try:
            if subscriber.early is not None:
                await self._wait_for_welcome(subscriber.early)
            self._trace.welcomed()
            intake = FrameIntake(self._trace.watched(self._hub), subscriber, self._limits, self._loop.time())
            self._heartbeat = self._loop.call_later(self._limits.ping_interval, self._ping)
            self._expect_expiry(now)
            if self.admission.identity.resume_token is not None:
                self._renewal = self._loop.call_later(REISSUE_INTERVAL, self._reissue)
            await self._read(intake)
        finally:
            self._leave_hub()
            self._finish()

    def write(self, frame: bytes) -> None:
        """Send a sealed frame, or drop the connection if the outbox is full."""
        self._outbox.write(frame)

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake. Idempotent."""
        if self._deadline is None and not self._dropped:
            self.ending = Ending(code, reason)
            self._leave_hub()
            self.write(_frame(_CLOSE, struct.pack("!H", code) + reason.encode()))
            self._deadline = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
            if self._is_settled is not None:
                self._is_settled.set()

    def regrant(self, grant: Grant) -> None:
        """Change the rights of the client, with immediate effect."""
        if self._subscriber is not None and self._deadline is None and not self._dropped:
            self._hub.regrant(self._subscriber, grant)

    def drop(self, reason: str) -> None:
        """Abort the connection. The hub is told when reading ends, never during a fan-out."""
        if not self._dropped:
            self._dropped = True
            self.ending = Ending(ABNORMAL, reason)
            self._outbox.end()
            self._transport.abort()

    def _begin(self, replaced: Sequence[ClientSocket], now: float) -> Subscriber:
        former = [socket._subscriber for socket in replaced if socket._subscriber is not None]
        subscriber = self._subscriber = self._hub.connect(
            self.admission.identity, self._outbox.write, now, former, close=self.close, recovery=self.admission.recovery
        )
        if self.admission.resumes:
            self._logger.info("connection resumed", {"replaces": len(former)})
        return subscriber

    async def _wait_for_welcome(self, early: list[Callable[[Position], None]]) -> None:
        """Wait until the engine has answered: nothing is read, or answered, before the welcome."""
        settled = self._is_settled = asyncio.Event()
        early.append(lambda _: settled.set())
        if self._deadline is None:
            await settled.wait()

    def _overflow(self) -> None:
        self.drop(OUTBOX_FULL)

    async def _read(self, intake: FrameIntake) -> None:
        count = work = 0
        while (message := await self._ws.receive()).type not in _LAST_MESSAGES:
            self._heard = True
            count += 1
            if self._subscriber is not None:
                work += self._subscriber.collect_work()
            if count >= FRAMES_PER_TURN or work > WORK_PER_TURN:
                count = work = 0
                await asyncio.sleep(0)  # buffered frames are read without waiting: let other tasks run
            if self._deadline is not None or self._dropped:
                continue
            if message.type is WSMsgType.TEXT:
                self._handle_text(intake, message.data)
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                self._handle_control_frame(intake, message)
            elif message.type is WSMsgType.BINARY:
                self.close(WsCloseCode.POLICY_VIOLATION, "text frames only")
        if self._deadline is None and not self._dropped:
            self.ending = _ending_of(message)

    def _handle_text(self, intake: FrameIntake, text: bytes) -> None:
        if len(text) > self._limits.max_frame_size:
            return self.close(WsCloseCode.MESSAGE_TOO_BIG, "frame too large")
        if not _is_utf8(text):
            return self.close(INVALID_TEXT, "text is not UTF-8")
        try:
            now = self._loop.time()
            self._turn.count_cause(now)
            outcome = intake.handle_frame(text, now)
            self._frame_times.note(self._loop.time() - now)
            if isinstance(outcome, Refresh):
                return self._refresh(outcome)
        except Exception as error:
            self._logger.error("frame failed", {"error": f"{type(error).__name__}: {error}"})
            return self.close(INTERNAL_ERROR, "internal error")
        if outcome is not None:
            self.close(outcome.code, outcome.reason)
        return None

    def _handle_control_frame(self, intake: FrameIntake, message: WSMessage) -> None:
        outcome = intake.count_control_frame(self._loop.time())
        if outcome is not None:
            self.close(outcome.code, outcome.reason)
        elif message.type is WSMsgType.PING:
            self.write(_frame(_PONG, message.data))

    def _refresh(self, frame: Refresh) -> None:
        subscriber, now = self._subscriber, time.time()
        if subscriber is None:
            return
        try:
            self.admission = self._authenticator.refresh(frame, self.admission, now)
        except FrameError as fault:
            why = fault.__cause__.cause if isinstance(fault.__cause__, RefusedError) else fault.message
            self._logger.warning("refresh refused", {"peer": self.peer_id, "why": why})
            self._hub.refuse(subscriber, fault)
        else:
            self._hub.refresh(subscriber, self.admission.identity, frame.request_id)
            self._expect_expiry(now)

    def _expect_expiry(self, now: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        expires_at = self.admission.identity.expires_at
        if expires_at is not None:
            self._expiry = self._loop.call_later(_seconds_left(expires_at, now), self._expire)

    def _reissue(self) -> None:
        token = self._authenticator.resume_token(self.admission, time.time())
        if self._subscriber is not None and token is not None:
            self._hub.renew(self._subscriber, token)
            self._renewal = self._loop.call_later(REISSUE_INTERVAL, self._reissue)

    def _ping(self) -> None:
        self._heard = False
        self.write(_frame(_PING, b""))
        self._heartbeat = self._loop.call_later(self._limits.pong_timeout, self._expect_pong)

    def _expect_pong(self) -> None:
        if not self._heard:
            return self.drop("no pong")
        rest = self._limits.ping_interval - self._limits.pong_timeout
        self._heartbeat = self._loop.call_later(rest, self._ping)
        return None

    def _expire(self) -> None:
        self.close(WsCloseCode.TOKEN_EXPIRED, "token expired")

    def _leave_hub(self) -> None:
        for timer in (self._heartbeat, self._expiry, self._renewal):
            if timer is not None:
                timer.cancel()
        if self._subscriber is not None:
            self._turn.count_cause(self._loop.time())
            if _may_come_back(self.ending):
                self._hub.lose(self._subscriber)
            else:
                self._hub.disconnect(self._subscriber, expelled=self.ending.code in TERMINAL_CODES)

    def _finish(self) -> None:
        self._outbox.flush()
        self._outbox.end()  # from now on aiohttp writes
        if self._deadline is not None:
            self._deadline.cancel()
            self._transport.abort()  # the closing handshake is done; aiohttp would begin another one
        elif self._transport.get_write_buffer_size():
            self._transport.abort()  # the client left data unread, which would never be flushed


def _seconds_left(expires_at: float, now: float) -> float:
    left = expires_at - EXPIRY_MARGIN - now
    # A token admitted after its expiry, since clocks may differ, gets the rest of the leeway.
    return left if left > 0 else max(0.0, expires_at + LEEWAY - now)


def _may_come_back(ending: Ending) -> bool:
    """Return whether a connection ended without a goodbye. Clients that hear nothing close too, and come back."""
    if ending.reason == BY_CLIENT:
        return ending.code == WsCloseCode.CLIENT_INACTIVITY
    return ending.code in PLACES_KEPT


def _ending_of(message: WSMessage) -> Ending:
    if message.type is WSMsgType.CLOSE:
        return Ending(message.data or NO_STATUS, BY_CLIENT)
    if message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
        too_big = message.data.code == WsCloseCode.MESSAGE_TOO_BIG
        return Ending(message.data.code, "frame too large" if too_big else "against the WebSocket protocol")
    return Ending(ABNORMAL, "connection lost")


def _protocol_of(transport: asyncio.Transport) -> asyncio.Protocol:
    protocol = transport.get_protocol()
    assert isinstance(protocol, asyncio.Protocol)  # aiohttp's protocol for HTTP
    return protocol


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
